"""RangeSet against a plain set of numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage_server.ranges import RangeSet

LIMIT = 40
spans = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT))


def _runs(numbers: set[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


@given(st.lists(st.tuples(st.booleans(), spans), max_size=12), spans)
def test_against_a_set(changes: list[tuple[bool, tuple[int, int]]], window: tuple[int, int]) -> None:
    ranges, model = RangeSet(), set[int]()
    for added, (begin, end) in changes:
        if added:
            ranges.add(begin, end)
            model |= set(range(begin, end))
        else:
            ranges.remove(begin, end)
            model -= set(range(begin, end))
        assert ranges.gaps(0, LIMIT) == _runs(set(range(LIMIT)) - model)
    assert ranges.overlap(*window) == _runs(model & set(range(*window)))
    assert ranges.gaps(*window) == _runs(set(range(*window)) - model)
