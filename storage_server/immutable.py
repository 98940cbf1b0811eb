"""Containers of immutable shares, versions 1 and 2 (formats.md section 5.1).

    u32 version | u32 data size (informational) | u32 number of leases | data | leases of 72 bytes

The data length follows from the file size and the number of leases alone.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from storage_server import leases
from storage_server.changes import Buffer, Put
from storage_server.errors import BadContainerError
from storage_server.leases import Lease, LeaseSecrets

WRITTEN_VERSION: Final = 2
DATA_OFFSET: Final = 12

_HEADER: Final = struct.Struct(">III")
_COUNT_OFFSET: Final = 8
_VERSIONS: Final = (1, 2)
_MAX_SIZE_FIELD: Final = 2**32 - 1


def recognises(start: bytes) -> bool:
    """Whether a file that begins so is an immutable container."""
    return len(start) >= 4 and int.from_bytes(start[:4], "big") in _VERSIONS


def header(data_size: int, lease_count: int) -> bytes:
    """The first 12 bytes of a new container."""
    return _HEADER.pack(WRITTEN_VERSION, min(data_size, _MAX_SIZE_FIELD), lease_count)


def container(data: Buffer, lease: Lease) -> bytes:
    """The whole file of a share with one lease."""
    return b"".join((header(len(data), 1), data, leases.pack_immutable(lease)))


def file_size(data_size: int, lease_count: int) -> int:
    """Size of the whole file."""
    return DATA_OFFSET + data_size + leases.IMMUTABLE_SIZE * lease_count


@dataclass(frozen=True, slots=True)
class ImmutableContainer:
    """What the header and the size of an immutable share file say. All sizes in bytes."""

    version: int
    size_field: int
    lease_count: int
    data_length: int

    @classmethod
    def load(cls, fd: int) -> ImmutableContainer:
        """Read the header of an open share file. BadContainerError if it is none."""
        start = os.pread(fd, DATA_OFFSET, 0)
        if len(start) < DATA_OFFSET or not recognises(start):
            raise BadContainerError("not an immutable container")
        version, size_field, lease_count = _HEADER.unpack(start)
        length = os.fstat(fd).st_size - DATA_OFFSET - leases.IMMUTABLE_SIZE * lease_count
        if length < 0:
            raise BadContainerError("an immutable container is shorter than its leases")
        return cls(version, size_field, lease_count, length)

    @property
    def leases_offset(self) -> int:
        """Where the lease records begin in the file."""
        return DATA_OFFSET + self.data_length

    def read_leases(self, fd: int) -> list[Lease]:
        """All lease records in their order."""
        size = leases.IMMUTABLE_SIZE
        raw = os.pread(fd, size * self.lease_count, self.leases_offset)
        return [leases.unpack_immutable(raw[at : at + size]) for at in range(0, len(raw), size)]

    def lease_edits(self, fd: int, secrets: LeaseSecrets, now: float) -> list[Put]:
        """Changes to the file that renew the lease with this renew secret, or add one (owner 1).

        Empty when the lease already lasts as long.
        """
        held = self.read_leases(fd)
        position = leases.find(held, secrets.renew, self.version)
        if position is not None:
            longer = leases.renewed(held[position], now)
            if longer == held[position]:
                return []
            return [Put(self._record_offset(position), leases.pack_immutable(longer))]
        added = leases.grant(secrets, leases.ADDED, now, self.version)
        count = (self.lease_count + 1).to_bytes(4, "big")
        record = Put(self._record_offset(self.lease_count), leases.pack_immutable(added))
        return [record, Put(_COUNT_OFFSET, count)]

    def _record_offset(self, position: int) -> int:
        return self.leases_offset + leases.IMMUTABLE_SIZE * position
