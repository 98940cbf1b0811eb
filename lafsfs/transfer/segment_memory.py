"""Segments of plaintext in memory, for all readers of a grid together; and which are being fetched."""

from __future__ import annotations

from collections import OrderedDict
from weakref import WeakKeyDictionary

import trio

from lafsfs.errors import LafsError
from lafsfs.formats.hashing import Buffer
from lafsfs.grid.servers import Grid

_LIMIT = 32 << 20

Key = tuple[bytes, int]
"""(key and UEB hash, segment number): the UEB hash pins the ciphertext."""


class Fetch:
    """A run of segments on its way. After `done`, either `segments` (by number) or `error` is there."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.segments: dict[int, Buffer] = {}
        self.error: LafsError | None = None


class SegmentMemory:
    """Segments used last, 32 MiB of them, and the fetches under way."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self.fetching: dict[Key, Fetch] = {}
        self._limit = limit
        self._used = 0
        self._segments: OrderedDict[Key, Buffer] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._segments

    def get(self, key: Key) -> Buffer | None:
        """The segment, if it is here."""
        segment = self._segments.get(key)
        if segment is not None:
            self._segments.move_to_end(key)
        return segment

    def put(self, key: Key, segment: Buffer) -> None:
        """Keep a segment, at the expense of those not used for longest."""
        if key in self._segments:
            return
        self._segments[key] = segment
        self._used += len(segment)
        while self._used > self._limit:
            _, oldest = self._segments.popitem(last=False)
            self._used -= len(oldest)


_memories: WeakKeyDictionary[Grid, SegmentMemory] = WeakKeyDictionary()


def memory_of(grid: Grid) -> SegmentMemory:
    """The one memory of a grid."""
    memory = _memories.get(grid)
    if memory is None:
        memory = _memories[grid] = SegmentMemory()
    return memory
