"""Lease records (formats.md sections 5.1 to 5.3).

A container of version 1 stores lease secrets as they are, version 2 stores their BLAKE2b-256.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from lafsfs.formats.keys import stored_lease_secret

DURATION: Final = 31 * 24 * 3600
"""Seconds from granting or renewing a lease to its expiration."""

IMMUTABLE_SIZE: Final = 72
MUTABLE_SIZE: Final = 92

UPLOADER: Final = 0
"""Owner of the first lease of an immutable share; in mutable containers owner 0 marks an empty slot."""
ADDED: Final = 1
"""Owner of every other lease."""

_IMMUTABLE: Final = struct.Struct(">I32s32sI")
_MUTABLE: Final = struct.Struct(">II32s32s20s")
_NO_NODE: Final = bytes(20)


@dataclass(frozen=True, slots=True)
class LeaseSecrets:
    """The two secrets of a request, 32 bytes each, as sent."""

    renew: bytes = field(repr=False)
    cancel: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """One record as stored: secrets in the form of their container's version, expiration in Unix seconds."""

    owner: int
    renew: bytes = field(repr=False)
    cancel: bytes = field(repr=False)
    expiration: int
    nodeid: bytes = _NO_NODE


def _stored(secret: bytes, version: int) -> bytes:
    return secret if version == 1 else stored_lease_secret(secret)


def grant(secrets: LeaseSecrets, owner: int, now: float, version: int, nodeid: bytes = _NO_NODE) -> Lease:
    """A new lease of the full duration, as a container of `version` stores it."""
    renew, cancel = _stored(secrets.renew, version), _stored(secrets.cancel, version)
    return Lease(owner, renew, cancel, int(now) + DURATION, nodeid)


def find(leases: Sequence[Lease], renew_secret: bytes, version: int) -> int | None:
    """Position of the lease with this renew secret (given as sent)."""
    stored = _stored(renew_secret, version)
    for position, lease in enumerate(leases):
        if hmac.compare_digest(lease.renew, stored):
            return position
    return None


def renewed(lease: Lease, now: float) -> Lease:
    """The lease with its expiration moved forward, never back."""
    return replace(lease, expiration=max(lease.expiration, int(now) + DURATION))


def pack_immutable(lease: Lease) -> bytes:
    """The 72-byte record of an immutable container."""
    return _IMMUTABLE.pack(lease.owner, lease.renew, lease.cancel, lease.expiration)


def unpack_immutable(record: bytes) -> Lease:
    """The lease in a 72-byte record."""
    owner, renew, cancel, expiration = _IMMUTABLE.unpack(record)
    return Lease(owner, renew, cancel, expiration)


def pack_mutable(lease: Lease | None) -> bytes:
    """The 92-byte record of a mutable container; None is an empty slot."""
    if lease is None:
        return bytes(MUTABLE_SIZE)
    return _MUTABLE.pack(lease.owner, lease.expiration, lease.renew, lease.cancel, lease.nodeid)


def unpack_mutable(record: bytes) -> Lease | None:
    """The lease in a 92-byte record, None if the slot is empty."""
    owner, expiration, renew, cancel, nodeid = _MUTABLE.unpack(record)
    return Lease(owner, renew, cancel, expiration, nodeid) if owner else None
