"""Bytes of a file that are known, by their place in it. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator


class Ranges:
    """Ranges that do not overlap; what is there is never replaced."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._datas: list[bytes] = []
        self.count = 0  # bytes held

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return zip(self._starts, self._datas, strict=True)

    def add(self, start: int, data: bytes) -> None:
        """Take in what is missing of `data`, which begins at `start`."""
        for first, last in self.missing(start, start + len(data)):
            at = bisect_right(self._starts, first)
            self._starts.insert(at, first)
            self._datas.insert(at, data[first - start : last - start])
            self.count += last - first

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not held."""
        found: list[tuple[int, int]] = []
        i = max(0, bisect_right(self._starts, start) - 1)
        while start < end:
            if i >= len(self._starts) or self._starts[i] >= end:
                found.append((start, end))
                break
            if self._starts[i] > start:
                found.append((start, self._starts[i]))
            start = max(start, self._starts[i] + len(self._datas[i]))
            i += 1
        return found

    def get(self, start: int, end: int, size: int) -> bytes | None:
        """[start, end) of a file of `size` bytes, with zeros behind its end; None if not all of it is held."""
        if self.missing(start, min(end, size)):
            return None
        out = bytearray(end - start)
        for first, data in self:
            low, high = max(first, start), min(first + len(data), end)
            if low < high:
                out[low - start : high - start] = data[low - first : high - first]
        return bytes(out)
