"""One immutable share in progress: its bytes, which of them have arrived, and who may write them."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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
        self._in_flight: list[Range] = []
        self._landed = asyncio.Condition()
        self._record = leases.pack_immutable(lease)
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
            write_all(fd, self._record, immutable.DATA_OFFSET + self.size)
        finally:
            os.close(fd)

    def opens_with(self, secret: bytes) -> bool:
        """Whether this is the upload secret it was allocated with."""
        return hmac.compare_digest(self._secret, secret)

    def missing(self) -> tuple[Range, ...]:
        """Ranges that have not arrived."""
        return self._received.missing(self.size)

    def container(self) -> bytes:
        """The whole container file of a complete small share."""
        return b"".join((immutable.header(self.size, 1), self._memory, self._record))

    @asynccontextmanager
    async def writing(self, begin: int, end: int) -> AsyncIterator[ShareWriter]:
        """Write [begin, end). Waits for writers of overlapping ranges, so that their bytes can be compared.

        What was written counts as arrived on exit, unless it conflicted; also when the request broke off.
        BadRangeError: not within the share.
        """
        if end > self.size:
            raise BadRangeError("beyond the allocated size")
        mine = (begin, end)
        async with self._landed:
            await self._landed.wait_for(
                lambda: not any(begin < high and low < end for low, high in self._in_flight)
            )
            self._in_flight.append(mine)
        fd = -1 if self.path is None else os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        writer = ShareWriter(fd, self._memory, self._received, begin, end)
        try:
            yield writer
        finally:
            if fd >= 0:
                os.close(fd)
            if not writer.conflict:
                self._received.add(begin, writer.position)
                self.unsynced += writer.position - begin
            self._in_flight.remove(mine)
            async with self._landed:
                self._landed.notify_all()


class ShareWriter:
    """Takes the bytes of one request as they come."""

    def __init__(self, fd: int, memory: bytearray, received: RangeSet, begin: int, end: int) -> None:
        self.position = begin
        self.conflict = False
        self._fd = fd
        self._memory = memory
        self._end = end
        self._present = received.overlap(begin, end)

    def feed(self, chunk: bytes) -> None:
        """Put the next bytes in place. ConflictError: others are there. BadRequestError: too many."""
        begin, end = self.position, self.position + len(chunk)
        if end > self._end:
            raise BadRequestError("the body is longer than its content range")
        for first, after in self._present:
            low, high = max(first, begin), min(after, end)
            if low < high and self._stored(low, high) != chunk[low - begin : high - begin]:
                self.conflict = True
                raise ConflictError("other bytes were written there before")
        if self._fd < 0:
            self._memory[begin:end] = chunk
        else:
            write_all(self._fd, chunk, immutable.DATA_OFFSET + begin)
        self.position = end

    def _stored(self, begin: int, end: int) -> bytes:
        if self._fd < 0:
            return bytes(self._memory[begin:end])
        return os.pread(self._fd, end - begin, immutable.DATA_OFFSET + begin)

    def finish(self) -> None:
        """BadRequestError unless everything announced has come."""
        if self.position != self._end:
            raise BadRequestError("the body is shorter than its content range")
