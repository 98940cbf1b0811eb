"""Which writes are done in the loop, and which in a worker thread.

From a thread others are served meanwhile, but going there and coming back costs a third of the rate of a program that
writes alone. So large writes leave the loop only when others than writers of large files ask for something, or the disk
makes writers wait.
"""

from __future__ import annotations

import trio

_SMALL = 128 << 10  # bytes; up to that a thread takes longer than the write
_ALONE = 0.02  # seconds without other requests after which nobody else is expected
_SLOW = 0.01  # seconds of one write that tell of a disk that makes writers wait,
_WARY = 1.0  # for about so long


class LargeWrites:
    """Decides for the writes of one tree."""

    def __init__(self) -> None:
        self._count = 0
        self._others = -1
        self._disturbed = 0.0
        self._wary_until = 0.0

    def announced(self) -> None:
        """A request was made that is a part of a write."""
        self._count += 1

    def at_once(self, size: int, requests: int) -> bool:
        """Whether a write of so many bytes, the latest of so many requests of all kinds, is for the loop."""
        self._count += 1
        if size <= _SMALL:
            return True
        now = trio.current_time()
        if requests - self._count != self._others:
            self._others, self._disturbed = requests - self._count, now
        return now >= self._disturbed + _ALONE and now >= self._wary_until

    def began_at(self, began: float) -> None:
        """A write that began then, in the loop, is done."""
        now = trio.current_time()
        if now > began + _SLOW:
            self._wary_until = now + _WARY
