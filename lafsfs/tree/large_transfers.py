"""Which reads and writes of local content are done in the loop, and which in a worker thread.

From a thread others are served meanwhile, but going there and coming back costs up to half of the rate of a program
that transfers alone. So large transfers leave the loop only when programs ask for a lot of other things, or the disk
makes writers wait.
"""

from __future__ import annotations

import trio

_SMALL = 128 << 10  # bytes; up to that a thread takes longer than the transfer
_TOLERATED = 300.0  # other requests in a second that do not mind waiting for a large transfer,
_FEW = 20  # and so many at once;
_MANY = 30  # of more at once, so many are counted
_SLOW = 0.01  # seconds of one write that tell of a disk that makes writers wait,
_WARY = 1.0  # for about so long


class LargeTransfers:
    """Decides for one tree. `requests` is how many of all kinds the kernel has made, the present one included."""

    def __init__(self) -> None:
        self._ours = 0  # of the requests, those that are part of a transfer
        self._others = 0
        self._pressure = 0.0  # of other requests, less what is tolerated
        self._looked = float("-inf")
        self._wary_until = 0.0

    def announced(self) -> None:
        """A request was made that is a part of a write."""
        self._ours += 1

    def write_at_once(self, size: int, requests: int) -> bool:
        """Whether a write of so many bytes is for the loop."""
        self._ours += 1
        return size <= _SMALL or (not self._others_ask(requests) and trio.current_time() >= self._wary_until)

    def read_at_once(self, size: int, requests: int) -> bool:
        """Whether a read of so many bytes is."""
        if size <= _SMALL:
            return True
        self._ours += 1
        return not self._others_ask(requests)

    def _others_ask(self, requests: int) -> bool:
        now, others = trio.current_time(), requests - self._ours
        tolerated = (now - self._looked) * _TOLERATED
        self._pressure = min(max(0.0, self._pressure + others - self._others - tolerated), _MANY)
        self._looked, self._others = now, others
        return self._pressure > _FEW

    def began_at(self, began: float) -> None:
        """A write that began then, in the loop, is done."""
        now = trio.current_time()
        if now > began + _SLOW:
            self._wary_until = now + _WARY
