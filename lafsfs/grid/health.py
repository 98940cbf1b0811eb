"""How well a server does: latency, throughput, failures, quarantine. Times are those of the trio clock."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import trio

from lafsfs.errors import PinMismatchError, ServerError, ServerTimeoutError, ServerUnreachableError

FIRST_QUARANTINE: Final = 2.0
LONGEST_QUARANTINE: Final = 60.0
TOLERATED_ODDITIES: Final = 3
_WEIGHT: Final = 0.2
_BULK: Final = 64 * 1024


class Health:
    """Measurements of one server and whether it is put aside for the moment.

    A server that does not answer is quarantined at once, one that answers strangely after a few times. A
    quarantine only means "last in order"; it is doubled while the server stays bad and ends with an answer.
    """

    def __init__(self) -> None:
        self.latency: float | None = None
        """Seconds for a small request (moving average)."""
        self.throughput: float | None = None
        """Bytes per second of large requests (moving average)."""
        self.failures = 0
        """Failures since the last good answer."""
        self.total_failures = 0
        self.last_failure: ServerError | None = None
        self.answered = False
        """Whether the server has ever given a good answer."""
        self.quarantined_until: float | None = None
        self.on_quarantine: Callable[[], None] | None = None

    @property
    def last_error(self) -> str:
        """What the last failure was, in words; empty when there was none."""
        return "" if self.last_failure is None else str(self.last_failure)

    @property
    def quarantined(self) -> bool:
        """Put aside: until a good answer, not merely until the time is over."""
        return self.quarantined_until is not None

    def succeeded(self, seconds: float, size: int = 0) -> None:
        """A good answer came after `seconds`; `size` bytes were moved in either direction."""
        self.answered = True
        self.failures = 0
        self.quarantined_until = None
        if size >= _BULK:
            self.throughput = _average(self.throughput, size / max(seconds, 1e-6))
        else:
            self.latency = _average(self.latency, seconds)

    def failed(self, error: ServerError) -> None:
        """The server did not do what it should have done."""
        self.total_failures += 1
        self.last_failure = error
        if self.quarantined_until is not None and self.quarantined_until > trio.current_time():
            return  # requests that travelled together and fail together are one failure
        self.failures += 1
        gone = isinstance(error, ServerUnreachableError | ServerTimeoutError | PinMismatchError)
        if gone or self.failures >= TOLERATED_ODDITIES:
            self._quarantine()

    def _quarantine(self) -> None:
        first = not self.quarantined
        length = min(LONGEST_QUARANTINE, FIRST_QUARANTINE * 2.0 ** min(self.failures - 1, 10))
        self.quarantined_until = trio.current_time() + length * random.uniform(0.75, 1.25)
        if first and self.on_quarantine:
            self.on_quarantine()

    def expected_seconds(self, size: int) -> float:
        """An estimate of the time for a request moving `size` bytes; unknown servers are assumed fair."""
        latency = 0.05 if self.latency is None else self.latency
        return latency + size / (self.throughput or 10e6)


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + _WEIGHT * (new - old)
