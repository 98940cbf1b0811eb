"""Versions of directories that cannot be recovered: somebody writes them just now, or writers collided, or died.

What is being written must not be overwritten: with as few servers as shares are needed, one share of it less, and its
writer believes it is there when nobody can read it any more. So a writer takes a version for abandoned when all servers
showed the same for a while, and writes only where they still do.
"""

from __future__ import annotations

import trio

STILL = 4.0  # seconds: a writer that is alive gets on faster
AFTER_OTHERS = (
    20.0  # seconds after which a writer takes the version that he knows for the last one that there was
)


class Torn:
    """Since when the servers have shown the same, by directory."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[bytes, float]] = {}

    def still(self, directory: int, state: bytes) -> float:
        """Seconds since the servers were first seen in this state."""
        now = trio.current_time()
        before = self._seen.get(directory)
        if before is None or before[0] != state:
            self._seen[directory] = before = state, now
        return now - before[1]

    def mended(self, directory: int) -> None:
        """The newest version can be read."""
        self._seen.pop(directory, None)
