"""The MDMF share layout (formats.md 6.3): segments with a salt each, variable parts before the data.

Everything before the share data keeps its place from version to version, so that a writer can replace single
blocks and the trees in a share that stays where it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import ClassVar

from lafsfs.errors import FormatError
from lafsfs.formats.hashing import Buffer
from lafsfs.formats.mutable import (
    HASH_SIZE,
    SALT_SIZE,
    Header,
    Sections,
    Span,
    block_tree_nodes,
    check_geometry,
)

_HEADER = struct.Struct(">BQ32sBBQQQQQQQQQQ")
MAX_SEGMENT_SIZE = 128 * 1024
# Room that every writer leaves for the private key, chain, signature and verification key.
_DATA_START = _HEADER.size + 1220 + 260 + 292 + 8 * 34


@dataclass(frozen=True)
class MdmfHeader(Header):
    """Header of an MDMF share."""

    VERSION: ClassVar[int] = 1
    SIZE: ClassVar[int] = _HEADER.size
    PREFIX_SIZE: ClassVar[int] = 59
    CHECKSTRING_SIZE: ClassVar[int] = 41
    STORED_SALT: ClassVar[int] = SALT_SIZE

    @classmethod
    def parse(cls, data: Buffer) -> MdmfHeader:
        """The header at the start of `data`. FormatError when it is cut off or inconsistent."""
        if len(data) < cls.SIZE:
            raise FormatError("the MDMF header is cut off")
        values = _HEADER.unpack(memoryview(data)[: cls.SIZE])
        version, seqnum, root_hash, k, n, segment_size, data_length = values[:7]
        encprivkey, chain, signature, key, key_end, share_data, block_tree, eof = values[7:]
        if version != cls.VERSION:
            raise FormatError("not an MDMF share")
        sections = Sections(
            verification_key=Span(key, key_end),
            signature=Span(signature, key),
            chain=Span(chain, signature),
            block_tree=Span(block_tree, eof),
            data=Span(share_data, block_tree),
            encprivkey=Span(encprivkey, chain),
        )
        header = cls(seqnum, root_hash, b"", k, n, segment_size, data_length, sections)
        if not segment_size or not k:
            raise FormatError("an MDMF share without a segment size")
        if encprivkey < cls.SIZE or share_data < key_end:
            raise FormatError("the parts of an MDMF share overlap")
        check_geometry(header, header._data_size())
        return header

    @classmethod
    def planned(
        cls, seqnum: int, k: int, n: int, data_length: int, chain: int, key: int, encprivkey: int
    ) -> MdmfHeader:
        """The header of a new share whose root hash is not known yet; the last three are sizes in bytes."""
        segment_size = -(-MAX_SEGMENT_SIZE // k) * k
        ends = [cls.SIZE]
        for size in (encprivkey, chain, 256, key):
            ends.append(ends[-1] + size)
        start = max(_DATA_START, ends[-1])
        empty = Span(start, start)
        sections = Sections(
            verification_key=Span(ends[3], ends[4]),
            signature=Span(ends[2], ends[3]),
            chain=Span(ends[1], ends[2]),
            block_tree=empty,
            data=empty,
            encprivkey=Span(ends[0], ends[1]),
        )
        header = cls(seqnum, bytes(HASH_SIZE), b"", k, n, segment_size, 0, sections)
        return header.resized(seqnum, data_length)

    def resized(self, seqnum: int, data_length: int) -> MdmfHeader:
        """The header of a later version of the same share with another length; root hash unknown."""
        bare = replace(self, seqnum=seqnum, root_hash=bytes(HASH_SIZE), data_length=data_length)
        start = self.sections.data.start
        end = start + bare._data_size()
        tree = Span(end, end + HASH_SIZE * block_tree_nodes(bare.num_segments))
        return replace(bare, sections=self.sections._replace(data=Span(start, end), block_tree=tree))

    def pack(self) -> bytes:
        at = self.sections
        return _HEADER.pack(
            self.VERSION, self.seqnum, self.root_hash, self.k, self.n, self.segment_size, self.data_length,
            at.encprivkey.start, at.chain.start, at.signature.start, at.verification_key.start,
            at.verification_key.end, at.data.start, at.block_tree.start, at.block_tree.end,
        )  # fmt: skip

    def padded_size(self, segment: int) -> int:
        return -(-self.segment_length(segment) // self.k) * self.k

    @property
    def eof(self) -> int:
        return self.sections.block_tree.end

    def _data_size(self) -> int:
        count = self.num_segments
        if not count:
            return 0
        return (
            (count - 1) * (self.segment_size // self.k + SALT_SIZE) + self.block_size(count - 1) + SALT_SIZE
        )
