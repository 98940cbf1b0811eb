"""What is asked of a storage server and what it answers, as values; how long that may take (formats.md 9.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from lafsfs.gbs.headers import CBOR
from lafsfs.grid.transport import Payload

SLOWEST: Final = 32 * 1024
"""Bytes per second below which a transfer is given up."""
CBOR_REQUEST: Final = (("Content-Type", CBOR), ("Accept", CBOR))
CBOR_ANSWER: Final = (("Accept", CBOR),)


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for things.

    `connect`: TCP and TLS together; `progress`: the next bytes; `commit`: the answer to a writing request;
    `pool`: a free connection; `request`: the whole exchange, beside the time that its bytes may take.
    """

    connect: float = 5.0
    progress: float = 15.0
    commit: float = 30.0
    pool: float = 60.0
    request: float = 45.0

    def of(self, size: int, *, writing: bool = False) -> dict[str, float]:
        """Timeouts of a request that moves `size` bytes, as the transport wants them."""
        return {
            "connect": self.connect,
            "read": self.commit if writing else self.progress,
            "write": self.progress,
            "pool": self.pool,
            "total": self.pool + self.request + size / SLOWEST,
        }


PROBE: Final = Timeouts(connect=3.0, progress=5.0, commit=5.0, pool=5.0, request=5.0)


class Lane(Enum):
    """Small requests that may travel together: those that read, those that may be repeated, and the others."""

    READ = "read"
    WRITE = "write"
    WRITE_ONCE = "write once"

    @property
    def patience(self) -> float:
        """Seconds for which one waits for others at most. Nobody looks at a clock while something is written."""
        return 0.003 if self is Lane.READ else 0.02


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `max_body` bounds the body of its answer; an `idempotent` one may be sent a second time."""

    method: str
    path: str
    headers: Sequence[tuple[str, str]]
    body: Payload
    max_body: int
    idempotent: bool
    timeouts: Timeouts


class Reply(NamedTuple):
    """An answer. Names of `headers` are found in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()
