"""Versions of directories and mutable files that cannot be recovered: somebody writes them just now, or writers
collided, or died.

What is being written must not be overwritten: with as few servers as shares are needed, one share of it less, and its
writer believes it is there when nobody can read it any more. So a writer takes a version for abandoned when all servers
showed the same for a while, and writes only where they still do.
"""

from __future__ import annotations

import trio

from lafsfs.errors import NotEnoughSharesError
from lafsfs.nodes.mutable import MutableFile
from lafsfs.transfer.servermap import Version
from lafsfs.tree.half_written import when_written

STILL = 4.0  # seconds: a writer that is alive gets on faster
AFTER_OTHERS = (
    20.0  # seconds after which a writer takes the version that he knows for the last one that there was
)


class Torn:
    """Since when the servers have shown the same, by inode number."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[bytes, float]] = {}

    def still(self, ino: int, state: bytes) -> float:
        """Seconds since the servers were first seen in this state."""
        now = trio.current_time()
        before = self._seen.get(ino)
        if before is None or before[0] != state:
            self._seen[ino] = before = state, now
        return now - before[1]

    def mended(self, ino: int) -> None:
        """The newest version can be read."""
        self._seen.pop(ino, None)

    async def base(self, ino: int, file: MutableFile) -> Version:
        """The version of a mutable file to write on; it is pinned. GridError, also as long as somebody may still be at
        work on a newer one.
        """
        try:
            version = await when_written(file.latest)
        except NotEnoughSharesError as newer:
            if self.still(ino, newer.state) < STILL:
                raise
            version = await file.latest(older_ok=True)
            if file.state != newer.state:
                raise
            return version
        self.mended(ino)
        return version


async def readable(file: MutableFile) -> Version:
    """The newest version of a mutable file that can be recovered; it is pinned. GridError."""
    try:
        return await when_written(file.latest)
    except NotEnoughSharesError:
        return await file.latest(older_ok=True)
