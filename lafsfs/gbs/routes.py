"""Paths of the storage protocol, built by the client and taken apart by the server (formats.md 9.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from lafsfs.formats import base32
from lafsfs.gbs.headers import SecretKind

PREFIX: Final = "/storage/v1"
VERSION: Final = PREFIX + "/version"
BATCH: Final = PREFIX + "/batch"
"""POST: several requests in one (adr/batches.md)."""

STORAGE_INDEX_SIZE: Final = 16


class Endpoint(Enum):
    """The operations of the protocol."""

    VERSION = "version"
    BATCH = "batch"
    LEASE = "lease"
    ALLOCATE = "allocate"
    PUT_SHARES = "put-shares"
    WRITE = "write"
    ABORT = "abort"
    READ_IMMUTABLE = "read-immutable"
    LIST_IMMUTABLE = "list-immutable"
    CORRUPT_IMMUTABLE = "corrupt-immutable"
    READ_TEST_WRITE = "read-test-write"
    READ_MUTABLE = "read-mutable"
    LIST_MUTABLE = "list-mutable"
    CORRUPT_MUTABLE = "corrupt-mutable"


_LEASE_SECRETS = frozenset({SecretKind.LEASE_RENEW, SecretKind.LEASE_CANCEL})
_UPLOAD = frozenset({SecretKind.UPLOAD})
_NONE: frozenset[SecretKind] = frozenset()

SECRETS: Final[Mapping[Endpoint, frozenset[SecretKind]]] = {
    Endpoint.VERSION: _NONE,
    Endpoint.BATCH: _NONE,
    Endpoint.LEASE: _LEASE_SECRETS,
    Endpoint.ALLOCATE: _LEASE_SECRETS | _UPLOAD,
    Endpoint.PUT_SHARES: _LEASE_SECRETS,
    Endpoint.WRITE: _UPLOAD,
    Endpoint.ABORT: _UPLOAD,
    Endpoint.READ_IMMUTABLE: _NONE,
    Endpoint.LIST_IMMUTABLE: _NONE,
    Endpoint.CORRUPT_IMMUTABLE: _NONE,
    Endpoint.READ_TEST_WRITE: _LEASE_SECRETS | {SecretKind.WRITE_ENABLER},
    Endpoint.READ_MUTABLE: _NONE,
    Endpoint.LIST_MUTABLE: _NONE,
    Endpoint.CORRUPT_MUTABLE: _NONE,
}
"""The set of secrets that a request must carry: no fewer and no more."""


@lru_cache(maxsize=4096)
def _si(storage_index: bytes) -> str:
    if len(storage_index) != STORAGE_INDEX_SIZE:
        raise ValueError("a storage index has 16 bytes")
    return base32.encode(storage_index)


def lease(storage_index: bytes) -> str:
    """PUT: add or renew a lease on every share of the storage index."""
    return f"{PREFIX}/lease/{_si(storage_index)}"


def allocate(storage_index: bytes) -> str:
    """POST: begin uploading immutable shares. PUT: upload whole ones, where a server takes them."""
    return f"{PREFIX}/immutable/{_si(storage_index)}"


def immutable_share(storage_index: bytes, shnum: int) -> str:
    """GET: read an immutable share. PATCH: write one in progress."""
    return f"{PREFIX}/immutable/{_si(storage_index)}/{shnum}"


def abort(storage_index: bytes, shnum: int) -> str:
    """PUT: give up an immutable share in progress."""
    return f"{PREFIX}/immutable/{_si(storage_index)}/{shnum}/abort"


def immutable_shares(storage_index: bytes) -> str:
    """GET: numbers of the complete immutable shares."""
    return f"{PREFIX}/immutable/{_si(storage_index)}/shares"


def immutable_corrupt(storage_index: bytes, shnum: int) -> str:
    """POST: report a corrupt immutable share."""
    return f"{PREFIX}/immutable/{_si(storage_index)}/{shnum}/corrupt"


def read_test_write(storage_index: bytes) -> str:
    """POST: the one writing operation on mutable shares."""
    return f"{PREFIX}/mutable/{_si(storage_index)}/read-test-write"


def mutable_share(storage_index: bytes, shnum: int) -> str:
    """GET: read a mutable share."""
    return f"{PREFIX}/mutable/{_si(storage_index)}/{shnum}"


def mutable_shares(storage_index: bytes) -> str:
    """GET: numbers of the shares of the slot."""
    return f"{PREFIX}/mutable/{_si(storage_index)}/shares"


def mutable_corrupt(storage_index: bytes, shnum: int) -> str:
    """POST: report a corrupt mutable share."""
    return f"{PREFIX}/mutable/{_si(storage_index)}/{shnum}/corrupt"


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: endpoints by method (HEAD not listed beside GET), storage index, share number."""

    methods: Mapping[str, Endpoint]
    storage_index: bytes = b""
    shnum: int = -1


# The last character of 16 bytes in base32 carries two unused bits, which are zero.
_SI = r"(?P<si>[a-z2-7]{25}[aeimquy4])"
_SHNUM = r"(?P<shnum>[0-9]+)"
_PATTERNS: Final = (
    (rf"immutable/{_SI}/{_SHNUM}", {"GET": Endpoint.READ_IMMUTABLE, "PATCH": Endpoint.WRITE}),
    (rf"mutable/{_SI}/{_SHNUM}", {"GET": Endpoint.READ_MUTABLE}),
    (rf"mutable/{_SI}/read-test-write", {"POST": Endpoint.READ_TEST_WRITE}),
    (rf"immutable/{_SI}", {"POST": Endpoint.ALLOCATE, "PUT": Endpoint.PUT_SHARES}),
    (rf"immutable/{_SI}/shares", {"GET": Endpoint.LIST_IMMUTABLE}),
    (rf"mutable/{_SI}/shares", {"GET": Endpoint.LIST_MUTABLE}),
    (rf"immutable/{_SI}/{_SHNUM}/abort", {"PUT": Endpoint.ABORT}),
    (rf"lease/{_SI}", {"PUT": Endpoint.LEASE}),
    (rf"immutable/{_SI}/{_SHNUM}/corrupt", {"POST": Endpoint.CORRUPT_IMMUTABLE}),
    (rf"mutable/{_SI}/{_SHNUM}/corrupt", {"POST": Endpoint.CORRUPT_MUTABLE}),
)
_COMPILED: Final = tuple((re.compile(f"{PREFIX}/{pattern}"), methods) for pattern, methods in _PATTERNS)
_FIXED: Final = {VERSION: Target({"GET": Endpoint.VERSION}), BATCH: Target({"POST": Endpoint.BATCH})}
_MAX_SHNUM_DIGITS: Final = 20


def match(path: str) -> Target | None:
    """The target of a request path, or None where the protocol has nothing."""
    fixed = _FIXED.get(path)
    if fixed is not None:
        return fixed
    for pattern, methods in _COMPILED:
        found = pattern.fullmatch(path)
        if found is not None:
            groups = found.groupdict()
            digits = groups.get("shnum") or "-1"
            if len(digits) > _MAX_SHNUM_DIGITS:
                return None
            return Target(methods, base32.decode(groups["si"]), int(digits))
    return None
