"""Zeros behind a log that is synced again and again, a little each time.

A sync of a file that grew makes the disk take its new length as well: twice the time of one that only changed.
Whoever reads the log finds no record in the zeros: they are like a torn end.
"""

from __future__ import annotations

import os

_ZEROS = bytes(128 << 10)
_LITTLE = len(_ZEROS) // 2  # bytes of one sync
_OFTEN = 4  # so many times in a row
_ROOM = 256 << 20  # bytes; on a fuller disk there is no padding


class Padding:
    """Of one log, whose file has `filled` bytes by now."""

    def __init__(self) -> None:
        self.filled = 0
        self._times = 0

    def behind(self, fd: int, end: int) -> tuple[bytes, ...]:
        """What is to be written behind a record that ends at `end`, in one go with it."""
        if self._times < _OFTEN or end <= self.filled:
            return ()
        disk = os.fstatvfs(fd)
        return (_ZEROS,) if disk.f_bavail * disk.f_frsize > _ROOM else ()

    def synced(self, count: int) -> None:
        """`count` new bytes of the log were forced to the disk."""
        self._times = self._times + 1 if count <= _LITTLE else 0
