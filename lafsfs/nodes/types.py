"""What every file node can do."""

from __future__ import annotations

from typing import Protocol

from lafsfs.formats import caps


class FileNode(Protocol):
    """A file on the grid."""

    @property
    def cap(self) -> caps.FileCap: ...

    @property
    def size(self) -> int | None:
        """Bytes; None while not known."""
        ...

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        ...
