"""Containers of mutable shares, versions 1 and 2 (formats.md section 5.2).

A `MutableContainer` holds the metadata of one file in memory (header, leases, lengths). Changes are made
on it and then asked for as edits of the file, so that the caller can log them before making them.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Final

from storage_server import leases
from storage_server.changes import Buffer, Edit, Put, Zero
from storage_server.errors import BadContainerError
from storage_server.leases import Lease, LeaseSecrets

WRITTEN_VERSION: Final = 2
DATA_OFFSET: Final = 468
SLOTS: Final = 4

_FIXED: Final = struct.Struct(">32s20s32sQQ")
_COUNT: Final = struct.Struct(">I")
_MAX_EXTRA: Final = 1 << 20


MAGIC_SIZE: Final = 32

# The five bytes of version 2 are a tagged hash of its line; those of version 1 are older than that rule.
_MAGICS: Final = {
    1: b"Tahoe mutable container v1\n\x75\x09\x44\x03\x8e",
    2: b"Tahoe mutable container v2\n\xc3\x55\x21\x99\x25",
}
_VERSIONS: Final = {magic: version for version, magic in _MAGICS.items()}


def magic(version: int) -> bytes:
    """The 32 bytes that a container of this version begins with."""
    return _MAGICS[version]


def recognises(start: bytes) -> bool:
    """Whether a file that begins so is a mutable container."""
    return start[:MAGIC_SIZE] in _VERSIONS


@dataclass(slots=True)
class MutableContainer:
    """Metadata of one mutable share file. Lengths in bytes, offsets from the start of the file."""

    version: int
    nodeid: bytes
    write_enabler: bytes = field(repr=False)
    data_length: int
    extra_offset: int
    slots: list[Lease | None]
    extra: list[Lease | None]
    _moved_from: tuple[int, int] | None = None
    _leases_changed: bool = False
    _new: bool = False
    _edits: list[Edit] = field(default_factory=list, repr=False)

    @classmethod
    def new(cls, nodeid: bytes, write_enabler: bytes) -> MutableContainer:
        """An empty container of the version we write."""
        return cls(WRITTEN_VERSION, nodeid, write_enabler, 0, DATA_OFFSET, [None] * SLOTS, [], _new=True)

    @classmethod
    def load(cls, fd: int) -> MutableContainer:
        """Read the metadata of an open share file. BadContainerError if it is none."""
        start = os.pread(fd, DATA_OFFSET, 0)
        if len(start) < DATA_OFFSET or start[:MAGIC_SIZE] not in _VERSIONS:
            raise BadContainerError("not a mutable container")
        mark, nodeid, enabler, data_length, extra_offset = _FIXED.unpack_from(start)
        raw_count = os.pread(fd, _COUNT.size, extra_offset) if extra_offset < 1 << 63 else b""
        if len(raw_count) < _COUNT.size or extra_offset < DATA_OFFSET + data_length:
            raise BadContainerError("a mutable container without its lease block")
        (count,) = _COUNT.unpack(raw_count)
        size = leases.MUTABLE_SIZE
        raw = os.pread(fd, size * min(count, _MAX_EXTRA), extra_offset + _COUNT.size)
        if len(raw) != size * count:
            raise BadContainerError("a mutable container with fewer leases than it says")
        slots = [leases.unpack_mutable(start[at : at + size]) for at in range(_FIXED.size, DATA_OFFSET, size)]
        extra = [leases.unpack_mutable(raw[at : at + size]) for at in range(0, len(raw), size)]
        return cls(_VERSIONS[mark], nodeid, enabler, data_length, extra_offset, slots, extra)

    # --- changes -----------------------------------------------------------------------------------

    def write(self, offset: int, data: Buffer) -> None:
        """Put `data` at `offset` of the share data; a gap before it reads as zeros."""
        end = offset + len(data)
        if DATA_OFFSET + end > self.extra_offset:
            self._move_leases(DATA_OFFSET + end)
        self._clear_stale(DATA_OFFSET + self.data_length, DATA_OFFSET + offset)
        if data:
            self._edits.append(Put(DATA_OFFSET + offset, data))
        self.data_length = max(self.data_length, end)

    def truncate(self, length: int) -> None:
        """Lower the data length; a larger length does nothing. Capacity stays."""
        self.data_length = min(self.data_length, length)

    def lease(self, secrets: LeaseSecrets, now: float, nodeid: bytes) -> None:
        """Renew the lease with this renew secret, or add one: in the first empty slot, else appended."""
        for row in (self.slots, self.extra):
            for position, held in enumerate(row):
                if held is not None and leases.find([held], secrets.renew, self.version) == 0:
                    row[position] = leases.renewed(held, now)
                    self._leases_changed = True
                    return
        added = leases.grant(secrets, leases.ADDED, now, self.version, nodeid)
        self._leases_changed = True
        for row in (self.slots, self.extra):
            if None in row:
                row[row.index(None)] = added
                return
        self.extra.append(added)

    def all_leases(self) -> list[Lease]:
        """The leases that are there, empty slots left out."""
        return [lease for lease in (*self.slots, *self.extra) if lease is not None]

    def _move_leases(self, offset: int) -> None:
        if self._moved_from is None:
            self._moved_from = (self.extra_offset, _COUNT.size + leases.MUTABLE_SIZE * len(self.extra))
        self.extra_offset = offset

    def _clear_stale(self, begin: int, end: int) -> None:
        # Stale bytes stand only below the old capacity. Above it the file is a hole, or the old lease
        # block, which is zeroed before anything else.
        capacity = self.extra_offset if self._moved_from is None else self._moved_from[0]
        end = min(end, capacity)
        if begin < end:
            self._edits.append(Zero(begin, end - begin))

    # --- the file ----------------------------------------------------------------------------------

    def edits(self) -> list[Edit]:
        """What turns the loaded file (of a new container: an empty file) into the changed one."""
        edits: list[Edit] = []
        if self._moved_from is not None:
            edits.append(Zero(*self._moved_from))
        edits += self._edits
        edits.append(Put(0, self._header()))
        if self._new or self._moved_from is not None or self._leases_changed:
            edits.append(Put(self.extra_offset, self._extra_block()))
        return edits

    def _header(self) -> bytes:
        fixed = _FIXED.pack(
            magic(self.version), self.nodeid, self.write_enabler, self.data_length, self.extra_offset
        )
        return fixed + b"".join(map(leases.pack_mutable, self.slots))

    def _extra_block(self) -> bytes:
        return _COUNT.pack(len(self.extra)) + b"".join(map(leases.pack_mutable, self.extra))
