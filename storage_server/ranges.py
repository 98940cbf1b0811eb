"""Which bytes of a share have arrived."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

Range = tuple[int, int]
"""Half-open, not empty."""


class RangeSet:
    """A set of byte offsets, kept as disjoint half-open ranges in ascending order."""

    def __init__(self) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []

    def add(self, begin: int, end: int) -> None:
        """Add [begin, end); touching and overlapping ranges are joined."""
        if begin >= end:
            return
        first = bisect_left(self._ends, begin)
        after = bisect_right(self._begins, end)
        if first < after:
            begin = min(begin, self._begins[first])
            end = max(end, self._ends[after - 1])
        self._begins[first:after] = [begin]
        self._ends[first:after] = [end]

    def overlap(self, begin: int, end: int) -> list[Range]:
        """The parts of [begin, end) that are in the set."""
        if begin >= end:
            return []
        first = bisect_right(self._ends, begin)
        after = bisect_left(self._begins, end)
        pairs = zip(self._begins[first:after], self._ends[first:after], strict=True)
        return [(max(begin, low), min(end, high)) for low, high in pairs]

    def missing(self, size: int) -> tuple[Range, ...]:
        """The parts of [0, size) that are not in the set."""
        gaps: list[Range] = []
        position = 0
        for begin, end in self.overlap(0, size):
            if position < begin:
                gaps.append((position, begin))
            position = end
        if position < size:
            gaps.append((position, size))
        return tuple(gaps)
