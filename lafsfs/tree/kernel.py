"""Whom the tree tells of changes that did not come from there: the kernel, which caches names and contents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lafsfs.tree.links import Link


class Kernel(Protocol):
    """Who must be told that something changed behind its back."""

    def entry_changed(self, directory: int, name: bytes) -> None: ...

    def inode_changed(self, ino: int, content: bool) -> None: ...

    def knows(self, directory: int, name: bytes) -> bool:
        """Whether nothing that was told of this name may still be on its way."""
        ...

    def asked(self, directory: int, name: bytes) -> None:
        """It was just answered what this name leads to."""

    async def let_go(self, names: Sequence[Link]) -> None:
        """Have it forget names that nobody uses. Returns when it was asked; what it forgets it tells later."""


class NoKernel:
    """Nobody caches anything."""

    def entry_changed(self, directory: int, name: bytes) -> None:
        """Nothing to do."""

    def inode_changed(self, ino: int, content: bool) -> None:
        """Nothing to do."""

    def knows(self, directory: int, name: bytes) -> bool:
        """Nobody believes anything else."""
        return True

    def asked(self, directory: int, name: bytes) -> None:
        """Nothing to do."""

    async def let_go(self, names: Sequence[Link]) -> None:
        """Nothing to do."""
