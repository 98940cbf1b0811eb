"""Waiting for the local disk.

A visit to a worker thread takes about as long as a good disk needs for a little, so a little is synced in the loop, as
long as that disk was quick each time lately. A database that commits again and again waits for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

_LITTLE = 64 << 10  # bytes
_QUICK = 0.0008  # seconds for a little, visiting a thread included
_PROVEN = 8  # so many times in a row


class Disk:
    """The disk with the local state. Used in one loop."""

    def __init__(self) -> None:
        self._quick = 0

    async def wait(self, call: Callable[[], None], size: int) -> None:
        """Make `call`, which forces `size` bytes to the disk. What it raises."""
        if size > _LITTLE:
            await trio.to_thread.run_sync(call)
            return
        before, self._quick = self._quick, 0  # as it stays when the disk fails
        began = trio.current_time()
        if before < _PROVEN:
            await trio.to_thread.run_sync(call)
        else:
            call()
        if trio.current_time() < began + _QUICK:
            self._quick = before + 1
