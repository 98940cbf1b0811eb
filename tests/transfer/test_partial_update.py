"""Which segments of an MDMF file a write touches."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.formats import mutable_share, rsa
from lafsfs.formats.mdmf import MdmfHeader
from lafsfs.transfer.update import Patch, touched_segments

SEGMENT = 131_073
SIZES = st.integers(0, 5 * SEGMENT) | st.sampled_from([SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT])


@lru_cache
def key() -> rsa.SigningKey:
    return rsa.SigningKey.generate()


def header_of(size: int) -> MdmfHeader:
    header = mutable_share.plan(True, 1, 3, 10, size, key(), b"")
    assert isinstance(header, MdmfHeader)
    assert header.segment_size == SEGMENT
    return header


@settings(deadline=None, max_examples=60)
@given(old=SIZES, offset=SIZES, length=st.integers(0, 2 * SEGMENT), new=st.none() | SIZES)
def test_touched_segments_are_those_that_differ(old: int, offset: int, length: int, new: int | None) -> None:
    """Against a model with 1 for written bytes and 2 for zeros in a gap, both unlike the old 0."""
    new_size = new if new is not None else (max(old, offset + length) if length else old)
    before = bytearray(old)
    after = before + b"\2" * max(0, new_size - old)
    after[offset : offset + length] = b"\1" * len(after[offset : offset + length])
    after = after[:new_size]
    expected = [
        number
        for number in range(-(-new_size // SEGMENT))
        if after[number * SEGMENT :][:SEGMENT] != before[number * SEGMENT :][:SEGMENT]
    ]
    patch = Patch(offset, memoryview(bytes(length))[: max(0, new_size - offset)], new_size)
    assert touched_segments(header_of(old), patch) == expected


@pytest.mark.parametrize(
    ("start", "length", "expected"),
    [(0, 4, b"\0\0ab"), (2, 2, b"ab"), (3, 5, b"bcd\0\0"), (6, 3, b"\0\0\0"), (0, 2, b"\0\0")],
)
def test_a_patch_is_cut_at_the_segment(start: int, length: int, expected: bytes) -> None:
    segment = bytearray(length)
    Patch(2, memoryview(b"abcd"), 100).apply(start, segment)
    assert bytes(segment) == expected
