"""Immutable files: parameters, UEB, share layout v1 and v2, share hash chain (formats.md section 4)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lafsfs.errors import CorruptShareError, FormatError
from lafsfs.formats import netstring
from lafsfs.formats.hashing import HASH_SIZE, ueb_hash
from lafsfs.formats.merkle import needed, pow2

MAX_LITERAL_SIZE = 55
DEFAULT_MAX_SEGSIZE = 1 << 20
MAX_SHARES = 256
MAX_UEB_SIZE = 1999

_CHAIN_ELEMENT = struct.Struct(">H32s")


def div_ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def roundup(a: int, b: int) -> int:
    """The smallest multiple of b that is at least a."""
    return div_ceil(a, b) * b


@dataclass(frozen=True)
class Params:
    """How a file is cut and encoded; sizes in bytes. FormatError for values that no file can have."""

    size: int
    k: int
    n: int
    segsize: int

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n <= MAX_SHARES:
            raise FormatError("encoding parameters out of range")
        if self.size < 1 or self.segsize < 1 or self.segsize % self.k:
            raise FormatError("impossible size or segment size")

    @cached_property
    def num_segments(self) -> int:
        return div_ceil(self.size, self.segsize)

    @cached_property
    def block_size(self) -> int:
        return self.segsize // self.k

    @cached_property
    def tail_size(self) -> int:
        """Bytes of ciphertext in the last segment."""
        return self.size % self.segsize or self.segsize

    @cached_property
    def tail_padded(self) -> int:
        return roundup(self.tail_size, self.k)

    @cached_property
    def tail_block(self) -> int:
        return self.tail_padded // self.k

    @cached_property
    def share_data_size(self) -> int:
        return (self.num_segments - 1) * self.block_size + self.tail_block

    def segment_size(self, segnum: int) -> int:
        """Bytes of ciphertext in a segment, without padding."""
        return self.tail_size if segnum == self.num_segments - 1 else self.segsize

    def block_size_of(self, segnum: int) -> int:
        """Bytes of each block of a segment."""
        return self.tail_block if segnum == self.num_segments - 1 else self.block_size

    @cached_property
    def tree_size(self) -> int:
        """Bytes of a hash tree with one leaf per segment."""
        return HASH_SIZE * (2 * pow2(self.num_segments) - 1)

    @cached_property
    def chain_size(self) -> int:
        """Bytes of the share hash chain."""
        return _CHAIN_ELEMENT.size * pow2(self.n).bit_length()


def params_for(size: int, k: int, n: int, max_segsize: int = DEFAULT_MAX_SEGSIZE) -> Params:
    """The parameters that a writer chooses. FormatError for values that no file can have."""
    if k < 1:
        raise FormatError("encoding parameters out of range")
    return Params(size, k, n, roundup(min(max_segsize, size), k))


@dataclass(frozen=True)
class Ueb:
    """The URI extension block: what the UEB hash of a cap pins."""

    params: Params
    crypttext_hash: bytes
    crypttext_root_hash: bytes
    share_root_hash: bytes

    def pack(self) -> bytes:
        """The bytes whose hash goes into the cap."""
        params = self.params
        fields = [(name, b"%d" % value) for name, value in _numbers(params).items()]
        fields += [(name, value.encode()) for name, value in _codec(params).items()]
        fields += [
            ("crypttext_hash", self.crypttext_hash),
            ("crypttext_root_hash", self.crypttext_root_hash),
            ("share_root_hash", self.share_root_hash),
        ]
        return b"".join(name.encode() + b":" + netstring.netstring(value) for name, value in sorted(fields))

    @classmethod
    def parse(cls, data: bytes, k: int, n: int, size: int) -> Ueb:
        """Read a UEB of a file with these cap fields. Its hash must have been checked already (`check_ueb`).

        Only segment_size, crypttext_root_hash and share_root_hash must be there; other known fields must
        agree with the cap, unknown ones are ignored. FormatError otherwise.
        """
        if len(data) > MAX_UEB_SIZE:
            raise FormatError("UEB too long")
        fields = _ueb_fields(data)
        params = Params(size, k, n, _number(fields, "segment_size"))
        for name, value in _numbers(params).items():
            if name in fields and _number(fields, name) != value:
                raise FormatError(f"UEB contradicts its cap: {name}")
        for name, text in _codec(params).items():
            if name in fields and fields[name] != text.encode():
                raise FormatError(f"UEB contradicts its cap: {name}")
        crypttext_hash = _hash(fields, "crypttext_hash") if "crypttext_hash" in fields else b""
        root, share_root = _hash(fields, "crypttext_root_hash"), _hash(fields, "share_root_hash")
        return cls(params, crypttext_hash, root, share_root)


def check_ueb(data: bytes, expected_hash: bytes) -> None:
    """CorruptShareError unless `data` is the UEB that the cap names."""
    if ueb_hash(data) != expected_hash:
        raise CorruptShareError("UEB does not match its hash")


def _numbers(params: Params) -> dict[str, int]:
    return {
        "needed_shares": params.k,
        "num_segments": params.num_segments,
        "segment_size": params.segsize,
        "size": params.size,
        "total_shares": params.n,
    }


def _codec(params: Params) -> dict[str, str]:
    return {
        "codec_name": "crs",
        "codec_params": f"{params.segsize}-{params.k}-{params.n}",
        "tail_codec_params": f"{params.tail_padded}-{params.k}-{params.n}",
    }


def _ueb_fields(data: bytes) -> dict[str, bytes]:
    fields: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        colon = data.find(b":", position)
        if colon < 0:
            raise FormatError("UEB with a field without a value")
        name = data[position:colon].decode("latin-1")
        fields[name], position = netstring.read(data, colon + 1)
    return fields


def _number(fields: Mapping[str, bytes], name: str) -> int:
    text = fields.get(name, b"")
    if not text.isdigit() or len(text) > 20:
        raise FormatError(f"UEB without a usable {name}")
    return int(text)


def _hash(fields: Mapping[str, bytes], name: str) -> bytes:
    value = fields.get(name, b"")
    if len(value) != HASH_SIZE:
        raise FormatError(f"UEB without a usable {name}")
    return value


@dataclass(frozen=True)
class ShareLayout:
    """Where the sections of a share begin: the offset table in its header."""

    version: int
    data: int
    plaintext_tree: int
    crypttext_tree: int
    block_tree: int
    chain: int
    ueb: int

    @classmethod
    def for_params(cls, params: Params, version: int | None = None) -> ShareLayout:
        """The layout that a writer chooses: v1 unless it cannot hold the numbers (or `version` says so)."""
        chosen = cls._at(params, 1 if version is None else version)
        if version is None and max(params.share_data_size, params.block_size, chosen.ueb) >= 1 << 32:
            return cls._at(params, 2)
        return chosen

    @classmethod
    def _at(cls, params: Params, version: int) -> ShareLayout:
        data = _HEADERS[version].size
        plaintext_tree = data + params.share_data_size
        crypttext_tree = plaintext_tree + params.tree_size
        block_tree = crypttext_tree + params.tree_size
        chain = block_tree + params.tree_size
        return cls(
            version, data, plaintext_tree, crypttext_tree, block_tree, chain, chain + params.chain_size
        )

    @property
    def length_size(self) -> int:
        """Bytes of the length in front of the UEB."""
        return 4 if self.version == 1 else 8

    def total_size(self, ueb_size: int) -> int:
        """Bytes of the whole share, the `allocated-size`."""
        return self.ueb + self.length_size + ueb_size

    def pack_header(self, params: Params) -> bytes:
        """Version, sizes and offset table."""
        offsets = (self.data, self.plaintext_tree, self.crypttext_tree, self.block_tree, self.chain, self.ueb)
        return _HEADERS[self.version].pack(self.version, params.block_size, params.share_data_size, *offsets)

    def pack_ueb(self, ueb: bytes) -> bytes:
        """The UEB with its length in front, as it ends a share."""
        return len(ueb).to_bytes(self.length_size, "big") + ueb

    @classmethod
    def parse(cls, header: bytes) -> ShareLayout:
        """Read the first MAX_HEADER_SIZE (or more) bytes of a share. CorruptShareError for no header."""
        version = int.from_bytes(header[:4], "big")
        form = _HEADERS.get(version)
        if form is None or len(header) < form.size:
            raise CorruptShareError("a share without a header")
        layout = cls(version, *form.unpack_from(header)[3:])
        sections = (layout.data, layout.crypttext_tree, layout.block_tree, layout.chain, layout.ueb)
        if min(sections) < form.size or max(sections) >= 1 << 62 or layout.chain > layout.ueb:
            raise CorruptShareError("a share with impossible offsets")
        return layout


_HEADERS = {1: struct.Struct(">9I"), 2: struct.Struct(">I8Q")}
MAX_HEADER_SIZE = _HEADERS[2].size


def chain_numbers(shnum: int, n: int) -> list[int]:
    """Node numbers of the share hash chain, ascending: the leaf and what is needed to check it."""
    return sorted([pow2(n) - 1 + shnum, *needed(shnum, n)])


def pack_chain(nodes: Mapping[int, bytes]) -> bytes:
    """A share hash chain, ascending."""
    return b"".join(_CHAIN_ELEMENT.pack(number, nodes[number]) for number in sorted(nodes))


def parse_chain(data: bytes) -> dict[int, bytes]:
    """Node number -> hash. CorruptShareError if the bytes are no chain."""
    if len(data) % _CHAIN_ELEMENT.size:
        raise CorruptShareError("a share hash chain with a broken element")
    chain = dict(_CHAIN_ELEMENT.iter_unpack(data))
    if len(chain) * _CHAIN_ELEMENT.size != len(data):
        raise CorruptShareError("a share hash chain with one node twice")
    return chain
