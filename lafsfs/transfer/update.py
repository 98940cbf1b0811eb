"""Writing into the middle of an MDMF file (formats.md 6.5): only the touched segments travel.

Needed from the servers: the touched segments that are overwritten in part, and the block hash tree of
each share. Sent to every share: its touched blocks with new salts, its hash trees, header and signature.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from lafsfs.errors import FormatError, ServerError
from lafsfs.formats import mutable_share, rsa
from lafsfs.formats.mdmf import MdmfHeader
from lafsfs.formats.mutable import SALT_SIZE
from lafsfs.transfer.encoding import Write
from lafsfs.transfer.retrieve import ShareReader, VersionReader
from lafsfs.transfer.servermap import ServerMap
from lafsfs.transfer.survey import Target


@dataclass(frozen=True)
class Patch:
    """`data` written at `offset`, and `more` such pieces; the file then has `new_size` bytes, with zeros in gaps.

    Of the old bytes those from `keep` on are gone (None: all up to `new_size` stay).
    """

    offset: int
    data: memoryview
    new_size: int
    more: Sequence[tuple[int, memoryview]] = ()
    keep: int | None = None

    @property
    def pieces(self) -> list[tuple[int, memoryview]]:
        """All that is written; later pieces over earlier ones."""
        return [(self.offset, self.data), *self.more]

    def covers(self, start: int, end: int) -> bool:
        """Whether nothing of [start, end) is left as it was."""
        gone = self.keep is not None and self.keep <= start
        return gone or any(at <= start and end <= at + len(data) for at, data in self.pieces)

    def apply(self, start: int, segment: bytearray) -> None:
        """Write what falls into the segment that begins at `start`."""
        if self.keep is not None and self.keep < start + len(segment):
            first = max(0, self.keep - start)
            segment[first:] = bytes(len(segment) - first)
        for at, data in self.pieces:
            first = max(at, start)
            last = min(at + len(data), start + len(segment))
            if first < last:
                segment[first - start : last - start] = data[first - at : last - at]


@dataclass(frozen=True)
class PatchedShares:
    """The encoded change: per share the write vectors that turn the old version into the new one."""

    header: MdmfHeader
    parts: Sequence[Sequence[Write]]

    @property
    def size(self) -> int:
        """Bytes to send for one share."""
        return sum(len(data) for _, data in self.parts[0])


def touched_segments(header: MdmfHeader, patch: Patch) -> list[int]:
    """Numbers of the segments of the new version that have to be encoded anew."""
    size = header.segment_size
    old, new = header.data_length, patch.new_size
    touched: set[int] = set()
    for offset, data in patch.pieces:
        if data:
            touched.update(range(offset // size, -(-min(offset + len(data), new) // size)))
    if patch.keep is not None and patch.keep < min(old, new):
        touched.update(range(patch.keep // size, -(-min(old, new) // size)))
    if new != old:
        # The last segment whose length changes, and all that are new behind it.
        touched.update(range(min(old, new) // size, -(-new // size)))
    return sorted(segment for segment in touched if segment * size < new)


def may_patch(header: MdmfHeader, servermap: ServerMap) -> bool:
    """Whether all n shares of the version are known and nothing else is there that has to be replaced."""
    shares = servermap.shares.values()
    numbers = {share.shnum for share in shares if share.header == header}
    return len(numbers) == header.n and all(share.header == header for share in shares)


async def encode_patch(
    version: VersionReader,
    header: MdmfHeader,
    servermap: ServerMap,
    target: Target,
    readkey: bytes,
    key: rsa.SigningKey,
    seqnum: int,
    patch: Patch,
) -> PatchedShares | None:
    """The change for every share, or None when a share's hashes cannot be had: then publish everything.

    Errors of reading the touched segments are those of `VersionReader.read`.
    """
    rows = await _all_leaves(header, servermap, target)
    if rows is None:
        return None
    planned = header.resized(seqnum, patch.new_size)
    count = planned.num_segments
    old_rows = [(rows[shnum] + [None] * count)[:count] for shnum in range(header.n)]
    encoder = mutable_share.VersionEncoder(planned, readkey, old_rows)
    blocks: list[list[Write]] = [[] for _ in range(header.n)]
    for segment in touched_segments(header, patch):
        plain = await _new_segment(version, header, planned, segment, patch)
        salt = secrets.token_bytes(SALT_SIZE)
        stored = await trio.to_thread.run_sync(encoder.add, segment, plain, salt)
        at = planned.stored_span(segment).start
        for row, data in zip(blocks, stored, strict=True):
            row.append((at, data))
    signed = await trio.to_thread.run_sync(encoder.sign, key)
    new_header = signed.header
    assert isinstance(new_header, MdmfHeader)
    parts = [[*_merged(row), *signed.changing_parts(shnum)] for shnum, row in enumerate(blocks)]
    return PatchedShares(new_header, parts)


async def _new_segment(
    version: VersionReader, header: MdmfHeader, planned: MdmfHeader, segment: int, patch: Patch
) -> bytearray:
    """The plaintext of a touched segment; its old bytes are fetched only if some of them stay."""
    start, length = segment * planned.segment_size, planned.segment_length(segment)
    plain = bytearray(length)
    if segment < header.num_segments and not patch.covers(start, start + length):
        (old,) = await version.segments(segment, segment)
        keep = min(len(old), length)
        plain[:keep] = old[:keep]
    patch.apply(start, plain)
    return plain


async def _all_leaves(
    header: MdmfHeader, servermap: ServerMap, target: Target
) -> dict[int, list[bytes | None]] | None:
    """The checked block hashes of all n shares, from every server that has one, or None."""
    rows: dict[int, list[bytes | None]] = {}
    failed = False

    async def fetch(reader: ShareReader) -> None:
        nonlocal failed
        try:
            rows[reader.share.shnum] = list(await reader.leaves())
        except (ServerError, FormatError):
            failed = True

    async with trio.open_nursery() as nursery:
        for share in servermap.shares_of(header):
            nursery.start_soon(fetch, ShareReader(share, header, target))
    return None if failed or len(rows) != header.n else rows


def _merged(writes: list[Write]) -> list[Write]:
    """Neighbouring blocks joined into one write."""
    merged: list[tuple[int, list[bytes | memoryview]]] = []
    end = -1
    for offset, data in writes:
        if merged and offset == end:
            merged[-1][1].append(data)
        else:
            merged.append((offset, [data]))
        end = offset + len(data)
    return [(offset, b"".join(pieces)) for offset, pieces in merged]
