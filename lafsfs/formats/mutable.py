"""What SDMF and MDMF shares have in common (formats.md 6): the header as a value, hash chains, segments.

A `Header` is the *verinfo* of a share: two shares belong to one version only when their headers are equal,
offsets included. The two layouts are in `sdmf` and `mdmf`; `mutable_share` chooses between them.
"""

from __future__ import annotations

import abc
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from lafsfs.errors import CorruptShareError, FormatError
from lafsfs.formats import aes, erasure, hashing, keys, merkle
from lafsfs.formats.hashing import Buffer

SALT_SIZE = 16
HASH_SIZE = 32
MAX_SHARES = 255  # the header has one byte for n
_CHAIN_ELEMENT = struct.Struct(">H32s")


class Span(NamedTuple):
    """Bytes [start, end) of a share."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


class Sections(NamedTuple):
    """Where the parts of a share are. Readers use nothing else to find them."""

    verification_key: Span
    signature: Span
    chain: Span
    block_tree: Span
    data: Span
    encprivkey: Span


@dataclass(frozen=True)
class Header(abc.ABC):
    """The parsed, consistent header of one share. `salt` is empty for MDMF, whose blocks carry their own."""

    seqnum: int
    root_hash: bytes
    salt: bytes
    k: int
    n: int
    segment_size: int
    data_length: int
    sections: Sections

    VERSION: ClassVar[int]
    SIZE: ClassVar[int]
    PREFIX_SIZE: ClassVar[int]
    CHECKSTRING_SIZE: ClassVar[int]
    STORED_SALT: ClassVar[int]

    @abc.abstractmethod
    def pack(self) -> bytes:
        """The SIZE header bytes, offset table included."""

    @abc.abstractmethod
    def padded_size(self, segment: int) -> int:
        """Bytes of the segment after padding, a multiple of k."""

    @property
    @abc.abstractmethod
    def eof(self) -> int:
        """Where the share ends; anything behind is left over from an earlier version."""

    @property
    def is_mdmf(self) -> bool:
        return self.VERSION == 1

    @property
    def prefix(self) -> bytes:
        """The signed bytes."""
        return self.pack()[: self.PREFIX_SIZE]

    @property
    def checkstring(self) -> bytes:
        """The bytes a writer compares before it replaces this share."""
        return self.pack()[: self.CHECKSTRING_SIZE]

    @property
    def order(self) -> tuple[int, bytes]:
        """The newest version is the one with the greatest of these."""
        return self.seqnum, self.root_hash

    @property
    def num_segments(self) -> int:
        return -(-self.data_length // self.segment_size) if self.data_length else 0

    def segment_length(self, segment: int) -> int:
        """Bytes of plaintext in the segment."""
        return min(self.segment_size, self.data_length - segment * self.segment_size)

    def block_size(self, segment: int) -> int:
        """Bytes of one share's block of the segment, without the salt that MDMF puts before it."""
        return self.padded_size(segment) // self.k

    def stored_span(self, segment: int) -> Span:
        """Where the segment's block is in the share, with the salt before it if there is one there."""
        full = self.segment_size // self.k + self.STORED_SALT
        start = self.sections.data.start + segment * full
        return Span(start, start + self.block_size(segment) + self.STORED_SALT)

    def split_stored(self, stored: Buffer) -> tuple[bytes, memoryview]:
        """(salt, block) of the bytes at `stored_span`."""
        view = memoryview(stored)
        if not self.STORED_SALT:
            return self.salt, view
        return bytes(view[:SALT_SIZE]), view[SALT_SIZE:]


def check_geometry(header: Header, data_size: int) -> None:
    """Raise FormatError unless the numbers of a header fit each other; `data_size` is what `data` must
    measure.
    """
    sections = header.sections
    if not 1 <= header.k <= header.n <= MAX_SHARES:
        raise FormatError("k and n of a mutable share are out of range")
    if header.segment_size % header.k:
        raise FormatError("the segment size is no multiple of k")
    if any(span.size < 0 for span in sections):
        raise FormatError("the offsets of a mutable share are not in order")
    if sections.chain.size % _CHAIN_ELEMENT.size:
        raise FormatError("the share hash chain has a broken length")
    if sections.data.size != data_size:
        raise FormatError("the share data does not have the length that the header implies")
    if sections.block_tree.size != HASH_SIZE * block_tree_nodes(header.num_segments):
        raise FormatError("the block hash tree does not have the length that the header implies")


def block_tree_nodes(num_segments: int) -> int:
    """How many hashes the stored block hash tree has (one, the empty leaf, for an empty file)."""
    return 2 * merkle.pow2(num_segments) - 1


# --- hash chains and trees ---------------------------------------------------------------------------


def pack_chain(chain: Mapping[int, bytes]) -> bytes:
    """The share hash chain in ascending node order."""
    return b"".join(_CHAIN_ELEMENT.pack(number, chain[number]) for number in sorted(chain))


def parse_chain(data: Buffer) -> dict[int, bytes]:
    """The share hash chain as node number -> hash. CorruptShareError when cut off or contradicting itself."""
    if len(data) % _CHAIN_ELEMENT.size:
        raise CorruptShareError("the share hash chain has a broken length")
    chain: dict[int, bytes] = {}
    for number, node in _CHAIN_ELEMENT.iter_unpack(data):
        if chain.setdefault(number, node) != node:
            raise CorruptShareError("the share hash chain names a node twice")
    return chain


def block_leaf(stored: Buffer) -> bytes:
    """The leaf of the block hash tree for the bytes at `stored_span` (for MDMF the salt is hashed too)."""
    return hashing.block_hash(stored)


def parse_block_tree(header: Header, data: Buffer) -> list[bytes]:
    """The leaves of a stored block hash tree, one per segment; CorruptShareError unless the whole tree is
    right.

    An empty file has one leaf in its tree and none here.
    """
    raw = bytes(data)
    count = header.num_segments
    first = (merkle.pow2(count) - 1) * HASH_SIZE
    leaves = [raw[at : at + HASH_SIZE] for at in range(first, first + count * HASH_SIZE, HASH_SIZE)]
    if b"".join(merkle.nodes(leaves)) != raw:
        raise CorruptShareError("the block hash tree contradicts itself")
    return leaves


def check_chain(header: Header, shnum: int, chain: Mapping[int, bytes], block_root: bytes) -> None:
    """Raise CorruptShareError unless chain and block tree root lead to the signed root hash."""
    if not 0 <= shnum < header.n:
        raise CorruptShareError("the share has a number that its version does not have")
    tree = merkle.IncompleteTree(header.n)
    tree.set_root(header.root_hash)
    tree.add(dict(chain), {shnum: block_root})
    if not tree.leaf_is_known(shnum):
        raise CorruptShareError("the share hash chain is incomplete")


# --- segments ----------------------------------------------------------------------------------------


def encode_segment(
    header: Header,
    segment: int,
    plaintext: Buffer,
    readkey: bytes,
    salt: bytes,
    wanted: Sequence[int] | None = None,
) -> list[Buffer]:
    """Encrypt, pad and erasure-code one segment: the blocks of the `wanted` shares (all n by default), no
    salts.

    The blocks may share memory with each other, with nothing else.
    """
    padded = bytearray(header.padded_size(segment))
    view = memoryview(padded)
    aes.crypt_into(keys.data_key_of(salt, readkey), plaintext, view[: len(plaintext)])
    block = header.block_size(segment)
    pieces = [view[at : at + block] for at in range(0, len(padded), block)]
    return erasure.encode(header.k, header.n, pieces, wanted)


def decode_segment(
    header: Header,
    segment: int,
    blocks: Sequence[Buffer],
    numbers: Sequence[int],
    readkey: bytes,
    salt: bytes,
) -> bytes:
    """The plaintext of one segment from k checked blocks and the numbers of the shares they are of."""
    pieces = erasure.decode(header.k, header.n, blocks, numbers)
    ciphertext = memoryview(b"".join(pieces))[: header.segment_length(segment)]
    return aes.crypt(keys.data_key_of(salt, readkey), ciphertext)
