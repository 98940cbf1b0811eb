"""Which bytes of a file come from where: sorted, non-overlapping ranges over whatever lies below. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple


class Piece(NamedTuple):
    """Bytes [start, end) of the file. `record` is where they are, `skip` bytes into it; None: below this map."""

    start: int
    end: int
    record: int | None
    skip: int


class ExtentMap:
    """Ranges of a file mapped to records, later writes over earlier ones. Offsets and sizes are bytes."""

    __slots__ = ("_ends", "_records", "_skips", "_starts", "live")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._records: list[int] = []
        self._skips: list[int] = []
        self.live = 0  # bytes mapped

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Piece]:
        return map(Piece, self._starts, self._ends, self._records, self._skips)

    def copy(self) -> ExtentMap:
        """An independent map of the same ranges."""
        other = ExtentMap()
        other._starts, other._ends = self._starts[:], self._ends[:]
        other._records, other._skips = self._records[:], self._skips[:]
        other.live = self.live
        return other

    @property
    def end(self) -> int:
        """One past the last mapped byte."""
        return self._ends[-1] if self._ends else 0

    def insert(self, start: int, end: int, record: int, skip: int = 0) -> None:
        """Map [start, end) to `record`, hiding what was mapped there."""
        if start >= end:
            return
        if start >= self.end:  # appending is the common case
            i = len(self._starts)
        else:
            i = self._cut(start, end)
        self._starts.insert(i, start)
        self._ends.insert(i, end)
        self._records.insert(i, record)
        self._skips.insert(i, skip)
        self.live += end - start

    def remove(self, start: int, end: int) -> None:
        """Unmap [start, end)."""
        if start < end:
            self._cut(start, end)

    def _cut(self, start: int, end: int) -> int:
        """Unmap [start, end) and return the index at which a range starting there belongs."""
        self._split(start)
        self._split(end)
        i = bisect_left(self._starts, start)
        j = bisect_left(self._starts, end)
        if i < j:
            self.live -= sum(self._ends[i:j]) - sum(self._starts[i:j])
            del self._starts[i:j], self._ends[i:j], self._records[i:j], self._skips[i:j]
        return i

    def _split(self, at: int) -> None:
        i = bisect_right(self._starts, at) - 1
        if i < 0 or self._starts[i] == at or self._ends[i] <= at:
            return
        self._starts.insert(i + 1, at)
        self._ends.insert(i + 1, self._ends[i])
        self._records.insert(i + 1, self._records[i])
        self._skips.insert(i + 1, self._skips[i] + at - self._starts[i])
        self._ends[i] = at

    def cover(self, start: int, end: int) -> list[Piece]:
        """Pieces that together are exactly [start, end), in order; unmapped ones have record None."""
        pieces: list[Piece] = []
        i = bisect_right(self._starts, start) - 1
        if i < 0 or self._ends[i] <= start:
            i += 1
        position = start
        while position < end:
            if i >= len(self._starts) or self._starts[i] >= end:
                pieces.append(Piece(position, end, None, 0))
                break
            if self._starts[i] > position:
                pieces.append(Piece(position, self._starts[i], None, 0))
                position = self._starts[i]
            stop = min(self._ends[i], end)
            pieces.append(
                Piece(position, stop, self._records[i], self._skips[i] + position - self._starts[i])
            )
            position = stop
            i += 1
        return pieces
