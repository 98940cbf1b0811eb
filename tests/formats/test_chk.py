"""Immutable files: parameters, UEB and layout, with what must be refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.errors import CorruptShareError, FormatError
from lafsfs.formats import chk, merkle
from lafsfs.formats.netstring import netstring

HASHES = (b"a" * 32, b"b" * 32, b"c" * 32)


@st.composite
def any_params(draw: st.DrawFn) -> chk.Params:
    n = draw(st.integers(1, 256))
    return chk.params_for(
        draw(st.integers(1, 1 << 34)), draw(st.integers(1, n)), n, draw(st.integers(1, 1 << 20))
    )


@given(any_params())
def test_parameters_fit_together(params: chk.Params) -> None:
    assert params.segsize % params.k == 0
    assert params.block_size * params.k == params.segsize
    assert (params.num_segments - 1) * params.segsize + params.tail_size == params.size
    assert 0 < params.tail_size <= params.segsize
    assert params.tail_size <= params.tail_padded < params.tail_size + params.k
    assert params.share_data_size == chk.div_ceil(params.size, params.k)
    last = params.num_segments - 1
    assert params.segment_size(last) == params.tail_size
    assert params.block_size_of(last) == params.tail_block
    if last:
        assert params.segment_size(0) == params.segsize
        assert params.block_size_of(0) == params.block_size


@pytest.mark.parametrize(
    ("size", "k", "n", "segsize"),
    [
        (0, 1, 1, 1),
        (1, 0, 0, 1),
        (1, 2, 1, 2),
        (1, 1, 257, 1),
        (1, 0, 1, 1),
        (5, 2, 2, 3),
        (5, 1, 1, 0),
        (-1, 1, 1, 1),
    ],
)
def test_impossible_parameters(size: int, k: int, n: int, segsize: int) -> None:
    with pytest.raises(FormatError):
        chk.Params(size, k, n, segsize)


@given(any_params())
def test_ueb_round_trip(params: chk.Params) -> None:
    ueb = chk.Ueb(params, *HASHES)
    packed = ueb.pack()
    assert chk.Ueb.parse(packed, params.k, params.n, params.size) == ueb
    extra = b"zzz:" + netstring(b"?") + b"plaintext_hash:" + netstring(b"x" * 32)
    assert chk.Ueb.parse(packed + extra, params.k, params.n, params.size) == ueb


UEB = chk.Ueb(chk.params_for(1000, 3, 10), *HASHES).pack()


@pytest.mark.parametrize(
    ("k", "n", "size"), [(4, 10, 1000), (3, 9, 1000), (3, 10, 1001), (3, 10, 0), (0, 0, 1000)]
)
def test_ueb_that_contradicts_its_cap(k: int, n: int, size: int) -> None:
    with pytest.raises(FormatError):
        chk.Ueb.parse(UEB, k, n, size)


@pytest.mark.parametrize(
    "ueb",
    [
        b"",
        b"x",
        UEB[:-1],
        UEB + b"x",
        UEB + b"a:" + netstring(bytes(2000)),
        UEB.replace(b"segment_size:4:1002,", b""),
        UEB.replace(b"segment_size:4:1002,", b"segment_size:4:1001,"),
        UEB.replace(b"segment_size:4:1002,", b"segment_size:1:0,"),
        UEB.replace(b"segment_size:4:1002,", b"segment_size:2:-3,"),
        UEB.replace(b"crypttext_root_hash:32", b"crypttext_ruut_hash:32"),
        UEB.replace(b"share_root_hash:32:" + b"c" * 32, b"share_root_hash:31:" + b"c" * 31),
        UEB.replace(b"codec_name:3:crs", b"codec_name:3:csr"),
        UEB.replace(b"num_segments:1:1", b"num_segments:1:2"),
        UEB.replace(b"1002-3-10", b"1002-3-11", 1),
    ],
)
def test_ueb_refused(ueb: bytes) -> None:
    assert ueb != UEB
    with pytest.raises(FormatError):
        chk.Ueb.parse(ueb, 3, 10, 1000)


def test_ueb_hash_is_checked() -> None:
    with pytest.raises(CorruptShareError):
        chk.check_ueb(UEB, bytes(32))


@given(any_params(), st.sampled_from([None, 1, 2]))
def test_layout_round_trip(params: chk.Params, version: int | None) -> None:
    layout = chk.ShareLayout.for_params(params, version)
    too_large = layout.ueb >= 1 << 32
    if version is None:
        assert layout.version == (2 if too_large else 1)
    if layout.version == 2 or not too_large:
        header = layout.pack_header(params)
        assert len(header) == layout.data
        assert chk.ShareLayout.parse(header + bytes(40)) == layout
    assert layout.ueb - layout.chain == 34 * len(chk.chain_numbers(0, params.n))
    assert layout.total_size(300) == layout.ueb + len(layout.pack_ueb(bytes(300)))


def test_large_shares_get_the_second_layout() -> None:
    small, large = (
        chk.ShareLayout.for_params(chk.params_for(size, 1, 1)) for size in ((1 << 32) - 10**7, 1 << 32)
    )
    assert (small.version, large.version) == (1, 2)
    # The data alone would fit; the hash trees push the UEB beyond 32 bits.
    assert chk.ShareLayout.for_params(chk.params_for((1 << 32) - 1000, 1, 1)).version == 2


HEADER = chk.ShareLayout.for_params(chk.params_for(1000, 3, 10)).pack_header(chk.params_for(1000, 3, 10))


@pytest.mark.parametrize(
    "header",
    [b"", HEADER[:35], bytes(4) + HEADER[4:], b"\0\0\0\3" + HEADER[4:], b"\0\0\0\2" + HEADER[4:]]
    + [HEADER[:at] + bytes(4) + HEADER[at + 4 :] for at in (0x0C, 0x14, 0x18, 0x1C, 0x20)],
)
def test_header_refused(header: bytes) -> None:
    with pytest.raises(CorruptShareError):
        chk.ShareLayout.parse(header)


@given(st.integers(1, 256), st.data())
def test_chain_round_trip(n: int, data: st.DataObject) -> None:
    shnum = data.draw(st.integers(0, n - 1))
    chain = {number: bytes([number % 256]) * 32 for number in chk.chain_numbers(shnum, n)}
    assert merkle.pow2(n) - 1 + shnum in chain
    packed = chk.pack_chain(chain)
    assert chk.parse_chain(packed) == chain
    for bad in (packed[:-1], packed + packed[:34]):
        with pytest.raises(CorruptShareError):
            chk.parse_chain(bad)
