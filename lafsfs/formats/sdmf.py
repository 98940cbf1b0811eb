"""The SDMF share layout (formats.md 6.2): one segment, one salt, at most 4 GiB in all."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import ClassVar

from lafsfs.errors import FormatError
from lafsfs.formats.hashing import Buffer
from lafsfs.formats.mutable import HASH_SIZE, SALT_SIZE, Header, Sections, Span, check_geometry

_HEADER = struct.Struct(">BQ32s16sBBQQLLLLQQ")
_MAX_OFFSET = 2**32 - 1


@dataclass(frozen=True)
class SdmfHeader(Header):
    """Header of an SDMF share."""

    VERSION: ClassVar[int] = 0
    SIZE: ClassVar[int] = _HEADER.size
    PREFIX_SIZE: ClassVar[int] = 75
    CHECKSTRING_SIZE: ClassVar[int] = 57
    STORED_SALT: ClassVar[int] = 0

    @classmethod
    def parse(cls, data: Buffer) -> SdmfHeader:
        """The header at the start of `data`. FormatError when it is cut off or inconsistent."""
        if len(data) < cls.SIZE:
            raise FormatError("the SDMF header is cut off")
        values = _HEADER.unpack(memoryview(data)[: cls.SIZE])
        version, seqnum, root_hash, salt, k, n, segment_size, data_length = values[:8]
        signature, chain, block_tree, share_data, encprivkey, eof = values[8:]
        if version != cls.VERSION:
            raise FormatError("not an SDMF share")
        sections = Sections(
            verification_key=Span(cls.SIZE, signature),
            signature=Span(signature, chain),
            chain=Span(chain, block_tree),
            block_tree=Span(block_tree, share_data),
            data=Span(share_data, encprivkey),
            encprivkey=Span(encprivkey, eof),
        )
        header = cls(seqnum, root_hash, salt, k, n, segment_size, data_length, sections)
        if data_length > segment_size or (not data_length and segment_size):
            raise FormatError("an SDMF share has one segment, and none when it is empty")
        check_geometry(header, segment_size // k if k else 0)
        return header

    @classmethod
    def planned(
        cls, seqnum: int, salt: bytes, k: int, n: int, data_length: int, chain: int, key: int, encprivkey: int
    ) -> SdmfHeader:
        """The header of a new share whose root hash is not known yet; the last three are sizes in bytes."""
        segment_size = -(-data_length // k) * k
        ends = [cls.SIZE]
        for size in (key, 256, chain, HASH_SIZE, segment_size // k, encprivkey):
            ends.append(ends[-1] + size)
        if ends[4] > _MAX_OFFSET:
            raise FormatError("too large for an SDMF file")
        spans = [Span(start, end) for start, end in itertools.pairwise(ends)]
        return cls(seqnum, bytes(HASH_SIZE), salt, k, n, segment_size, data_length, Sections(*spans))

    def pack(self) -> bytes:
        if len(self.salt) != SALT_SIZE:
            raise FormatError("an SDMF share needs a salt of 16 bytes")
        at = self.sections
        return _HEADER.pack(
            self.VERSION, self.seqnum, self.root_hash, self.salt, self.k, self.n, self.segment_size,
            self.data_length, at.signature.start, at.chain.start, at.block_tree.start, at.data.start,
            at.encprivkey.start, at.encprivkey.end,
        )  # fmt: skip

    def padded_size(self, segment: int) -> int:
        return self.segment_size

    @property
    def eof(self) -> int:
        return self.sections.encprivkey.end
