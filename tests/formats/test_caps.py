"""Caps: round trips of any values, and strings of any kind that must not raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.formats import caps

KEY = st.binary(min_size=16, max_size=16)
HASH = st.binary(min_size=32, max_size=32)
NUMBER = st.integers(0, 2**70)
FILES = st.one_of(
    st.builds(caps.LiteralCap, st.binary(max_size=100)),
    st.builds(caps.ChkCap, KEY, HASH, NUMBER, NUMBER, NUMBER),
    st.builds(caps.ChkVerifyCap, KEY, HASH, NUMBER, NUMBER, NUMBER),
    st.builds(caps.MutableWriteCap, KEY, HASH, st.booleans()),
    st.builds(caps.MutableReadCap, KEY, HASH, st.booleans()),
    st.builds(caps.MutableVerifyCap, KEY, HASH, st.booleans()),
)
KNOWN = st.one_of(FILES, st.builds(caps.DirCap, FILES))


@given(KNOWN)
def test_round_trip(cap: caps.FileCap | caps.DirCap) -> None:
    assert caps.parse(cap.to_string()) == cap
    assert caps.parse(cap.to_bytes()) == cap
    assert caps.parse(cap.to_string() + "\n") == cap


@given(KNOWN)
def test_prefixes(cap: caps.FileCap | caps.DirCap) -> None:
    read_only = caps.parse(b"ro." + cap.to_bytes())
    assert (read_only == cap) == (not cap.is_writable)
    immutable = caps.parse(b"imm." + cap.to_bytes())
    assert (immutable == cap) == (not cap.is_mutable)
    assert immutable == caps.parse(cap.to_bytes(), deep_immutable=True) or cap.is_mutable
    twice = caps.parse(b"ro.ro." + cap.to_bytes())
    assert isinstance(twice, caps.UnknownCap)
    assert twice.error is None


@given(KNOWN)
def test_diminishing_ends(cap: caps.FileCap | caps.DirCap) -> None:
    reader = cap.read_cap()
    assert not reader.is_writable
    assert reader.read_cap() == reader
    verifier = cap.verify_cap()
    if verifier is not None:
        assert verifier.is_verifier
        assert verifier.verify_cap() == verifier == reader.verify_cap()
        assert verifier.storage_index == cap.storage_index


@given(
    st.one_of(
        st.text(), st.binary(), st.text(alphabet="URI:DIR2-CHKLTSMFO.roimm0123abc\n\ud800", max_size=60)
    )
)
def test_no_string_raises(text: str | bytes) -> None:
    assert caps.parse(text) == caps.parse(text)


@pytest.mark.parametrize("prefix", ["URI:CHK:", "URI:DIR2-CHK:", "URI:CHK-Verifier:"])
def test_numbers_too_long_to_convert(prefix: str) -> None:
    text = prefix + "a" * 26 + ":" + "a" * 52 + ":1:1:" + "9" * 5000
    cap = caps.parse(text)
    assert isinstance(cap, caps.UnknownCap)
    assert isinstance(cap.error, caps.BadCapStringError)
