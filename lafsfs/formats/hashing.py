"""Tagged SHA-256d and the named hashes of file contents (formats.md section 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from lafsfs.formats.netstring import netstring

HASH_SIZE = 32

Buffer = bytes | bytearray | memoryview


class _Sha256(Protocol):
    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...
    def copy(self) -> _Sha256: ...


def sha256d(data: Buffer) -> bytes:
    """SHA256(SHA256(data))."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


class TaggedHasher:
    """`tagged(tag, data, size)` over data that comes in pieces. Large updates release the GIL."""

    __slots__ = ("_inner", "_size")

    def __init__(self, tag: bytes, size: int = HASH_SIZE) -> None:
        self._inner: _Sha256 = hashlib.sha256(netstring(tag))
        self._size = size

    def update(self, data: Buffer) -> None:
        """Append `data` to what is hashed."""
        self._inner.update(data)

    def copy(self) -> TaggedHasher:
        """Another one that has hashed the same."""
        other = object.__new__(TaggedHasher)
        other._inner, other._size = self._inner.copy(), self._size
        return other

    def digest(self) -> bytes:
        """The hash of everything so far; more may follow."""
        return hashlib.sha256(self._inner.digest()).digest()[: self._size]


def tagged(tag: bytes, data: Buffer, n: int = HASH_SIZE) -> bytes:
    """sha256d(netstring(tag) || data), first `n` bytes. `data` itself is not wrapped."""
    hasher = hashlib.sha256(netstring(tag))
    hasher.update(data)
    return hashlib.sha256(hasher.digest()).digest()[:n]


def tagged2(tag: bytes, a: bytes, b: bytes, n: int = HASH_SIZE) -> bytes:
    """sha256d(netstring(tag) || netstring(a) || netstring(b)), first `n` bytes."""
    return sha256d(netstring(tag) + netstring(a) + netstring(b))[:n]


def _tagged_function(tag: bytes) -> Callable[[Buffer], bytes]:
    """`tagged` for one fixed tag, with the tag hashed only once."""
    start = hashlib.sha256(netstring(tag))
    sha256 = hashlib.sha256

    def function(data: Buffer) -> bytes:
        hasher = start.copy()
        hasher.update(data)
        return sha256(hasher.digest()).digest()

    return function


CRYPTTEXT_TAG = b"allmydata_crypttext_v1"

_block = _tagged_function(b"allmydata_encoded_subshare_v1")
_crypttext_segment = _tagged_function(b"allmydata_crypttext_segment_v1")
_ueb = _tagged_function(b"allmydata_uri_extension_v1")
_empty_leaf = _tagged_function(b"Merkle tree empty leaf")
_pair_start = hashlib.sha256(netstring(b"Merkle tree internal node"))


def block_hash(block: Buffer) -> bytes:
    """Hash of one erasure-coded block, of immutable and mutable files alike."""
    return _block(block)


def crypttext_segment_hash(segment: Buffer) -> bytes:
    """Hash of one ciphertext segment, without the padding of the last one."""
    return _crypttext_segment(segment)


def crypttext_hasher() -> TaggedHasher:
    """Hasher of the whole ciphertext of a file."""
    return TaggedHasher(CRYPTTEXT_TAG)


def ueb_hash(ueb: Buffer) -> bytes:
    """Hash of a URI extension block, as it stands in the cap."""
    return _ueb(ueb)


def empty_leaf_hash(i: int) -> bytes:
    """The leaf that pads a Merkle tree at place `i` of the padded row of leaves."""
    return _empty_leaf(b"%d" % i)


def pair_hash(left: bytes, right: bytes) -> bytes:
    """The parent of two Merkle nodes of 32 bytes."""
    hasher = _pair_start.copy()
    hasher.update(b"32:%b,32:%b," % (left, right))
    return hashlib.sha256(hasher.digest()).digest()


def permuted_position(storage_index: bytes, permutation_seed: bytes) -> bytes:
    """Sort key (20 bytes, plain SHA-1) of a server among the servers for a storage index (section 8.2)."""
    return hashlib.sha1(storage_index + permutation_seed, usedforsecurity=False).digest()
