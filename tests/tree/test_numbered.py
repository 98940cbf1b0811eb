"""Names that count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.tree.numbered import Numbered

words = st.binary(max_size=8).filter(lambda word: not any(byte in b"0123456789" for byte in word))


@given(words, st.integers(0, 10**12), words)
def test_plain_numbers(before: bytes, number: int, after: bytes) -> None:
    names = [b"%s%d%s" % (before, number + i, after) for i in range(3)]
    second = Numbered.of_two(names[0], names[1])
    assert second is not None
    assert (second.name, second.next().name) == (names[1], names[2])


@given(words, st.integers(1, 8), st.integers(0, 10**12), words)
def test_numbers_filled_up_with_zeros(before: bytes, width: int, number: int, after: bytes) -> None:
    number %= 10**width - 1
    names = [b"%s%0*d%s" % (before, width, number + i, after) for i in range(2)]
    second = Numbered.of_two(*names)
    assert second is not None
    assert second.name == names[1]
    assert second.next().name in (
        b"%s%0*d%s" % (before, width, number + 2, after),
        b"%s%d%s" % (before, number + 2, after),
    )


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [
        (b"9", b"10", b"11"),
        (b"09", b"10", b"11"),
        (b"099.txt", b"100.txt", b"101.txt"),
        (b"track 1.mp3", b"track 2.mp3", b"track 3.mp3"),
        (b"2026-01-31", b"2026-01-32", b"2026-01-33"),
        (b"disc 1 track 9", b"disc 1 track 10", b"disc 1 track 11"),
        (b"1", b"2", b"3"),
        (b"00000000000000000000000000000000001", b"00000000000000000000000000000000002", None),
        (b"a", b"b", None),
        (b"", b"1", None),
        (b"1", b"1", None),
        (b"2", b"1", None),
        (b"1", b"3", None),
        (b"1", b"02", None),
        (b"a1", b"b2", None),
        (b"x1y1", b"x2y2", None),
    ],
)
def test_examples(first: bytes, second: bytes, third: bytes | None) -> None:
    found = Numbered.of_two(first, second)
    assert (found.next().name if found else None) == third


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_any_names(first: bytes, second: bytes) -> None:
    found = Numbered.of_two(first, second)
    assert found is None or found.name == second
