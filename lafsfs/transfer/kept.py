"""What of an immutable file is kept in the segment cache, and under which names.

Every segment stands there with the UEB in front, so that a small file is one part and needs no server at
all. The leaves of a ciphertext hash tree of more than one leaf are parts of their own.
"""

from __future__ import annotations

import struct

from lafsfs.cache.segments import SegmentCache
from lafsfs.formats.hashing import Buffer

_LENGTH = struct.Struct(">I")


def put_segment(
    cache: SegmentCache, storage_index: bytes, ueb_hash: bytes, segnum: int, ueb: bytes, segment: Buffer
) -> None:
    """Keep a ciphertext segment. Blocks."""
    cache.put(storage_index, ueb_hash, f"segment {segnum}", (_LENGTH.pack(len(ueb)), ueb, segment))


def get_segment(
    cache: SegmentCache, storage_index: bytes, ueb_hash: bytes, segnum: int
) -> tuple[bytes, memoryview] | None:
    """(UEB, ciphertext segment), unchecked. Blocks."""
    data = cache.get(storage_index, ueb_hash, f"segment {segnum}")
    if data is None or len(data) < _LENGTH.size:
        return None
    behind = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    return data[_LENGTH.size : behind], memoryview(data)[behind:]


def discard_segment(cache: SegmentCache, storage_index: bytes, ueb_hash: bytes, segnum: int) -> None:
    """Forget a segment that is damaged. Blocks."""
    cache.discard(storage_index, ueb_hash, f"segment {segnum}")


def put_leaves(
    cache: SegmentCache, storage_index: bytes, ueb_hash: bytes, group: int, row: bytes, top: bytes
) -> None:
    """Keep a group of leaves of the ciphertext hash tree with the top of the tree. Blocks."""
    cache.put(storage_index, ueb_hash, f"leaves {group}", (row, top))


def get_leaves(
    cache: SegmentCache, storage_index: bytes, ueb_hash: bytes, group: int, row_size: int
) -> tuple[bytes, bytes] | None:
    """(leaves, top), unchecked. Blocks."""
    data = cache.get(storage_index, ueb_hash, f"leaves {group}")
    return None if data is None else (data[:row_size], data[row_size:])
