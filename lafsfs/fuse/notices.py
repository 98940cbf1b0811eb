"""Telling the kernel what changed behind its back. It keeps what files contain until it is told (negotiation.py)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import InodeT

from lafsfs.tree.links import Link

log = logging.getLogger(__name__)

_MOST = 100_000  # notices waiting for the kernel; beyond that names are left to time out by themselves

_Subject = tuple[int, bytes | None]  # a name in a directory, or (name None) an inode


class Notices:
    """Invalidations for the kernel, sent by a task of their own: sending waits for locks that requests hold."""

    def __init__(self) -> None:
        self._waiting: dict[_Subject, bool] = {}  # in the order they came; whether the content changed
        self._untold: set[_Subject] = set()  # names that the kernel may believe something else of
        self._some = trio.Event()

    def entry_changed(self, directory: int, name: bytes) -> None:
        """`name` leads elsewhere, or nowhere."""
        if len(self._waiting) >= _MOST:
            log.warning(
                "too many changes at once for the kernel's cache; it will catch up after the refresh time"
            )
            return
        self._untold.add((directory, name))
        self._put((directory, name), False)

    def inode_changed(self, ino: int, content: bool) -> None:
        """Attributes, and the content if so said, are not what they were. None is left out: pages do not time out."""
        self._put((ino, None), content)

    def knows(self, directory: int, name: bytes) -> bool:
        """Whether no notice of this name is on its way."""
        return (directory, name) not in self._untold

    def asked(self, directory: int, name: bytes) -> None:
        """The kernel was just answered what this name leads to."""
        self._untold.discard((directory, name))

    async def let_go(self, names: Sequence[Link]) -> None:
        """Have the kernel forget names that nobody uses."""
        await trio.to_thread.run_sync(_let_go, names, abandon_on_cancel=True)

    def _put(self, subject: _Subject, content: bool) -> None:
        self._waiting[subject] = content or self._waiting.get(subject, False)
        self._some.set()

    async def run(self) -> None:
        """Pass notices on until cancelled."""
        while True:
            await self._some.wait()
            self._some = trio.Event()
            now, self._waiting = self._waiting, {}
            for subject, content in now.items():
                await trio.to_thread.run_sync(_notify, *subject, content, abandon_on_cancel=True)
                if subject not in self._waiting:
                    self._untold.discard(subject)


def _notify(number: int, name: bytes | None, content: bool) -> None:
    try:
        if name is None:
            pyfuse3.invalidate_inode(InodeT(number), attr_only=not content)
        else:
            pyfuse3.invalidate_entry(InodeT(number), pyfuse3.FileNameT(name))
    except OSError as problem:  # the kernel does not have it (any more): that is what we want
        log.debug("the kernel did not need an invalidation: %s", problem)


def _let_go(names: Sequence[Link]) -> None:
    for directory, name in names:
        _notify(directory, name, content=False)
