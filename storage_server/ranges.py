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

    def remove(self, begin: int, end: int) -> None:
        """Take [begin, end) out."""
        if begin >= end:
            return
        first = bisect_right(self._ends, begin)
        after = bisect_left(self._begins, end)
        kept: list[Range] = []
        for low, high in zip(self._begins[first:after], self._ends[first:after], strict=True):
            kept += [part for part in ((low, min(high, begin)), (max(low, end), high)) if part[0] < part[1]]
        self._begins[first:after] = [low for low, _ in kept]
        self._ends[first:after] = [high for _, high in kept]

    def overlap(self, begin: int, end: int) -> list[Range]:
        """The parts of [begin, end) that are in the set."""
        if begin >= end:
            return []
        first = bisect_right(self._ends, begin)
        after = bisect_left(self._begins, end)
        pairs = zip(self._begins[first:after], self._ends[first:after], strict=True)
        return [(max(begin, low), min(end, high)) for low, high in pairs]

    def gaps(self, begin: int, end: int) -> list[Range]:
        """The parts of [begin, end) that are not in the set."""
        gaps: list[Range] = []
        for low, high in self.overlap(begin, end):
            if begin < low:
                gaps.append((begin, low))
            begin = high
        if begin < end:
            gaps.append((begin, end))
        return gaps
