"""Segments of the journal: files of records, overwritten in place when they are used again.

    u8[8] magic | u64 generation                                                      head, 16 bytes
    u32 CRC-32 of what follows | u64 generation | u32 ordinal | u64 length | payload  record

A record counts only if its generation is the head's, its ordinal is one more than the one before and its
checksum holds. So resetting a segment is one write of its head, and the records left from earlier rounds,
or torn by a crash, are recognised.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from storage_server.apply import write_all
from storage_server.changes import Buffer

_MAGIC: Final = b"lafsjnl1"
_HEAD: Final = struct.Struct(">8sQ")
_RECORD: Final = struct.Struct(">QIQ")
_CRC: Final = struct.Struct(">I")
_SMALL: Final = 64 << 10


class Segment:
    """One segment file, open for reading and writing. All methods block."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        head = os.pread(self._fd, _HEAD.size, 0)
        self.generation = 0
        if len(head) == _HEAD.size and head[:8] == _MAGIC:
            self.generation = _HEAD.unpack(head)[1]
        self._begin_round()

    def _begin_round(self) -> None:
        self.size = _HEAD.size
        self._ordinal = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def reset(self, generation: int, keep: int) -> None:
        """Forget all records, durably on return; the file keeps at most `keep` bytes for the next round."""
        if os.fstat(self._fd).st_size > keep:
            os.ftruncate(self._fd, keep)
        write_all(self._fd, _HEAD.pack(_MAGIC, generation), 0)
        os.fdatasync(self._fd)
        self.generation = generation
        self._begin_round()

    def append(self, records: Sequence[Sequence[Buffer]]) -> None:
        """Write records (payloads in pieces); durable on return. OSError: none of them counts."""
        position, ordinal, pieces = self.size, self._ordinal, list[Buffer]()
        for payload in records:
            head = _RECORD.pack(self.generation, ordinal, sum(map(len, payload)))
            crc = zlib.crc32(head)
            for piece in payload:
                crc = zlib.crc32(piece, crc)
            pieces += (_CRC.pack(crc), head, *payload)
            ordinal += 1
        try:
            for piece in _merge_small(pieces):
                write_all(self._fd, piece, position)
                position += len(piece)
            os.fdatasync(self._fd)
        except OSError:
            with suppress(OSError):  # or a later start might find a part of them
                write_all(self._fd, bytes(_CRC.size + _RECORD.size), self.size)
            raise
        self.size, self._ordinal = position, ordinal

    def records(self) -> Iterator[memoryview]:
        """Payloads of the records of this round, in order; what follows the last good one is ignored."""
        position, ordinal, size = _HEAD.size, 0, os.fstat(self._fd).st_size
        while self.generation and position + _CRC.size + _RECORD.size <= size:
            raw = os.pread(self._fd, _CRC.size + _RECORD.size, position)
            generation, number, length = _RECORD.unpack_from(raw, _CRC.size)
            position += len(raw)
            if (generation, number) != (self.generation, ordinal) or position + length > size:
                return
            payload = _read(self._fd, length, position)
            if zlib.crc32(payload, zlib.crc32(raw[_CRC.size :])) != _CRC.unpack_from(raw)[0]:
                return
            yield memoryview(payload)
            position += length
            ordinal += 1


def _merge_small(pieces: Sequence[Buffer]) -> Iterator[Buffer]:
    """The same bytes in fewer pieces: neighbours are joined unless one of them is large."""
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) < _SMALL:
            small.append(piece)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield piece
    if small:
        yield b"".join(small)


def _read(fd: int, length: int, position: int) -> bytearray:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        got = os.preadv(fd, [view[done:]], position + done)
        if not got:
            raise OSError("the journal became shorter while it was read")
        done += got
    return data
