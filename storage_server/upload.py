"""One immutable share in progress: its bytes, which of them have arrived, and who may write them."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from storage_server import immutable, leases
from storage_server.apply import write_all
from storage_server.errors import BadRangeError, BadRequestError, ConflictError
from storage_server.leases import Lease
from storage_server.ranges import Range, RangeSet

SMALL: Final = 128 << 10
"""Shares up to this size wait in memory and reach the disk through the journal."""


class Upload:
    """A share in progress. A small one is in memory, a larger one in its container file under `incoming`."""

    def __init__(
        self, key: tuple[bytes, int], size: int, secret: bytes, path: str | None, lease: Lease
    ) -> None:
        self.key = key
        self.size = size
        self.path = path
        self.closed = False
        self.placing: asyncio.Task[None] | None = None
        self.touched = 0.0
        self.unsynced = 0
        self._secret = secret
        self._received = RangeSet()
        self._lease = lease
        self._memory = bytearray(size) if path is None else bytearray()
        if path is not None:
            self._create_file(path)

    def _create_file(self, path: str) -> None:
        fd = -1
        while fd < 0:  # a finished neighbour may remove the directory as empty just before we open
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, immutable.header(self.size, 1), 0)
            write_all(fd, leases.pack_immutable(self._lease), immutable.DATA_OFFSET + self.size)
        finally:
            os.close(fd)

    def opens_with(self, secret: bytes) -> bool:
        """Whether this is the upload secret it was allocated with."""
        return hmac.compare_digest(self._secret, secret)

    def missing(self) -> tuple[Range, ...]:
        """Ranges that have not arrived."""
        return tuple(self._received.gaps(0, self.size))

    def container(self) -> bytes:
        """The whole container file of a complete small share."""
        return immutable.container(self._memory, self._lease)

    @contextmanager
    def writing(self, begin: int, end: int) -> Iterator[ShareWriter]:
        """Write [begin, end). BadRangeError: not within the share."""
        if end > self.size:
            raise BadRangeError("beyond the allocated size")
        fd = -1 if self.path is None else os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            writer = ShareWriter(self._memory, fd, self._received, begin, end)
            yield writer
            self.unsynced += end - begin
        finally:
            if fd >= 0:
                os.close(fd)


class ShareWriter:
    """Takes the bytes of one request as they come.

    Each counts as arrived at once, so that nothing is sent twice when the request breaks off; only a request
    that conflicts with what was there has no effect. Several may write to one share at a time.
    """

    def __init__(self, memory: bytearray, fd: int, received: RangeSet, begin: int, end: int) -> None:
        self._memory = memory
        self._fd = fd
        self._received = received
        self._position = begin
        self._end = end
        self._added: list[Range] = []

    def feed(self, chunk: bytes) -> None:
        """Put the next bytes in place. ConflictError: others are there. BadRequestError: too many."""
        begin, end = self._position, self._position + len(chunk)
        if end > self._end:
            raise BadRequestError("the body is longer than its content range")
        for low, high in self._received.overlap(begin, end):
            if self._stored(low, high) != chunk[low - begin : high - begin]:
                self._undo()
                raise ConflictError("other bytes were written there before")
        gaps = self._received.gaps(begin, end)
        for low, high in gaps:
            self._put(low, chunk if (low, high) == (begin, end) else chunk[low - begin : high - begin])
            self._received.add(low, high)
        self._added += gaps
        self._position = end

    def _undo(self) -> None:
        for low, high in self._added:
            self._received.remove(low, high)

    def _put(self, offset: int, data: bytes) -> None:
        if self._fd < 0:
            self._memory[offset : offset + len(data)] = data
        else:
            write_all(self._fd, data, immutable.DATA_OFFSET + offset)

    def _stored(self, begin: int, end: int) -> bytes:
        if self._fd < 0:
            return bytes(self._memory[begin:end])
        return os.pread(self._fd, end - begin, immutable.DATA_OFFSET + begin)

    def finish(self) -> None:
        """BadRequestError unless everything announced has come."""
        if self._position != self._end:
            raise BadRequestError("the body is shorter than its content range")
