"""What of an immutable file is kept in the cache, and under which names.

Every segment stands there with the UEB in front, so that a small file is one part and needs no server at
all. The leaves of a ciphertext hash tree of more than one leaf are parts of their own.
"""

from __future__ import annotations

import struct

from lafsfs.cache.segments import Part
from lafsfs.formats.hashing import Buffer
from lafsfs.transfer.keeper import Keeper

_LENGTH = struct.Struct(">I")


def segment_part(storage_index: bytes, ueb_hash: bytes, segnum: int, ueb: bytes, segment: Buffer) -> Part:
    """A ciphertext segment, to be kept."""
    pieces = (_LENGTH.pack(len(ueb)), ueb, segment)
    return Part(storage_index, ueb_hash, _segment_name(segnum), pieces)


def has_segment(parts: Keeper, storage_index: bytes, ueb_hash: bytes, segnum: int) -> bool:
    """Whether `get_segment` would find something. Does not block for long."""
    return parts.has(storage_index, ueb_hash, _segment_name(segnum))


def peek_at_segment(
    parts: Keeper, storage_index: bytes, ueb_hash: bytes, segnum: int
) -> tuple[bytes, memoryview] | None:
    """As `get_segment`, but only what is at hand. Does not block for long."""
    return _apart(parts.peek(storage_index, ueb_hash, _segment_name(segnum)))


def get_segment(
    parts: Keeper, storage_index: bytes, ueb_hash: bytes, segnum: int
) -> tuple[bytes, memoryview] | None:
    """(UEB, ciphertext segment), unchecked. Blocks."""
    return _apart(parts.get(storage_index, ueb_hash, _segment_name(segnum)))


def _apart(data: bytes | None) -> tuple[bytes, memoryview] | None:
    if data is None or len(data) < _LENGTH.size:
        return None
    behind = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    return data[_LENGTH.size : behind], memoryview(data)[behind:]


def discard_segment(parts: Keeper, storage_index: bytes, ueb_hash: bytes, segnum: int) -> None:
    """Forget a segment that is damaged. Blocks."""
    parts.discard(storage_index, ueb_hash, _segment_name(segnum))


def leaves_part(storage_index: bytes, ueb_hash: bytes, group: int, row: bytes, top: bytes) -> Part:
    """A group of leaves of the ciphertext hash tree with the top of the tree, to be kept."""
    return Part(storage_index, ueb_hash, _leaves_name(group), (row, top))


def has_leaves(parts: Keeper, storage_index: bytes, ueb_hash: bytes, group: int) -> bool:
    """Whether `get_leaves` would find something. Does not block for long."""
    return parts.has(storage_index, ueb_hash, _leaves_name(group))


def get_leaves(
    parts: Keeper, storage_index: bytes, ueb_hash: bytes, group: int, row_size: int
) -> tuple[bytes, bytes] | None:
    """(leaves, top), unchecked. Blocks."""
    data = parts.get(storage_index, ueb_hash, _leaves_name(group))
    return None if data is None else (data[:row_size], data[row_size:])


def _segment_name(segnum: int) -> str:
    return f"segment {segnum}"


def _leaves_name(group: int) -> str:
    return f"leaves {group}"
