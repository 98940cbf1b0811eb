"""Sizes told by the text of a cap agree with what the cap itself says."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from lafsfs.formats.cap_sizes import immutable_size
from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, MutableWriteCap, parse

KEY, HASH = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, 1 << 64))
CAPS = st.one_of(
    st.builds(LiteralCap, st.binary(max_size=60)),
    st.builds(ChkCap, KEY, HASH, st.integers(1, 256), st.integers(1, 256), NUMBERS),
    st.builds(MutableWriteCap, KEY, HASH, st.booleans()),
)
TEXTS = st.text("URI:LTCHKD2-abefgiquy47z. \n018", max_size=40).map(str.encode)


def agrees(text: bytes) -> bool:
    """Whether a size is that of the cap which the text is for everybody."""
    size, cap = immutable_size(text), parse(text)
    return size is None or (isinstance(cap, ChkCap | LiteralCap) and cap.size == size)


@given(CAPS)
def test_sizes_of_ordinary_caps_are_told(cap: LiteralCap | ChkCap | MutableWriteCap) -> None:
    size = immutable_size(cap.to_bytes())
    ordinary = not isinstance(cap, MutableWriteCap) and cap.size < 10**18
    assert size == (cap.size if ordinary and not isinstance(cap, MutableWriteCap) else None)


@given(CAPS, st.data())
def test_damaged_caps_have_no_other_size_than_they_are_parsed_to(
    cap: LiteralCap | ChkCap | MutableWriteCap, data: st.DataObject
) -> None:
    text = cap.to_bytes()
    cut, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    assert agrees(text[:cut] + data.draw(TEXTS) + text[end:])


@given(TEXTS)
@example(b"")
@example(b"\n")
def test_literal_caps_of_any_text(text: bytes) -> None:
    assert agrees(b"URI:LIT:" + text)


def test_directories_and_caps_behind_a_prefix_are_left_to_others() -> None:
    literal = LiteralCap(b"some text")
    for text in (DirCap(literal).to_bytes(), b"ro." + literal.to_bytes(), b"imm." + literal.to_bytes()):
        assert immutable_size(text) is None
