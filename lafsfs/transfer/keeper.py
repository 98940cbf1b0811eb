"""Parts of immutable files on their way into the segment cache.

A visit of a worker thread takes longer than writing a small file, so parts are written several at a time, and nobody
waits for that: programs should have the disk and the cores for themselves. So as long as little is waiting, parts are
written when programs rest, a few at a time. Until then they are found where they wait. What the disk does not take in
time, or is not written yet when the process dies, is lost to the cache, and to nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from weakref import WeakKeyDictionary

import trio

from lafsfs.cache.segments import Part, SegmentCache
from lafsfs.errors import LafsError
from lafsfs.grid.servers import Grid

_ENOUGH = 8 << 20  # bytes that are written at once; of fewer only some parts,
_FEW = 32
_WHILE = 0.2  # when for so many seconds nothing has come, or been written
_MOST = 32 << 20  # bytes that may wait


_Name = tuple[bytes, bytes, str]


class Keeper:
    """One cache, which is written to in the background of a grid. `keep` is for the trio thread only.

    `rests` tells whether this is a good moment.
    """

    def __init__(self, cache: SegmentCache) -> None:
        self._cache = cache
        self._waiting: dict[_Name, Part] = {}
        self._size = 0
        self._writing = False
        self._arrived = trio.Event()
        self.rests: Callable[[], bool] = always

    def keep(self, grid: Grid, part: Part) -> None:
        """Have a part written, unless too much is waiting."""
        name = part[:3]
        if self._size > _MOST or name in self._waiting:
            return
        self._waiting[name] = part
        self._size += part.size
        self._arrived.set()
        if not self._writing:
            self._writing = True
            try:
                grid.start_soon(self._write)
            except LafsError:  # it was closed
                self._writing = False

    def has(self, storage_index: bytes, ueb_hash: bytes, name: str) -> bool:
        """Whether a part is here. Does not block for long."""
        return (storage_index, ueb_hash, name) in self._waiting or self._cache.has(
            storage_index, ueb_hash, name
        )

    def peek(self, storage_index: bytes, ueb_hash: bytes, name: str) -> bytes | None:
        """The bytes of a part, if it is at hand; unchecked. Does not block for long."""
        part = self._waiting.get((storage_index, ueb_hash, name))
        return self._cache.peek(storage_index, ueb_hash, name) if part is None else b"".join(part.pieces)

    def get(self, storage_index: bytes, ueb_hash: bytes, name: str) -> bytes | None:
        """The bytes of a part, if it is here; unchecked. Blocks. In any thread."""
        part = self._waiting.get((storage_index, ueb_hash, name))
        return self._cache.get(storage_index, ueb_hash, name) if part is None else b"".join(part.pieces)

    def discard(self, storage_index: bytes, ueb_hash: bytes, name: str) -> None:
        """Forget a part of the cache that proved to be damaged. Blocks. In any thread."""
        self._cache.discard(storage_index, ueb_hash, name)

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._gather()
                await self._write_next(len(self._waiting) if self._size >= _ENOUGH else _FEW)
        finally:
            self._writing = False
            with trio.CancelScope(shield=True):  # the grid is closed
                await self._write_next(len(self._waiting))

    async def _gather(self) -> None:
        """Return when enough is waiting, or nothing comes any more and programs rest."""
        while self._size < _ENOUGH:
            self._arrived = trio.Event()
            with trio.move_on_after(_WHILE) as patience:
                await self._arrived.wait()
            if patience.cancelled_caught and self.rests():
                return

    async def _write_next(self, count: int) -> None:
        parts = list(islice(self._waiting.values(), count))
        if parts:
            await trio.to_thread.run_sync(self._cache.put, parts)
            for part in parts:
                del self._waiting[part[:3]]
            self._size -= sum(part.size for part in parts)


def always() -> bool:
    """Any moment is good."""
    return True


_keepers: WeakKeyDictionary[Grid, Keeper] = WeakKeyDictionary()


def keeper_of(grid: Grid, cache: SegmentCache) -> Keeper:
    """The one keeper of a grid, which has one cache."""
    keeper = _keepers.get(grid)
    if keeper is None:
        keeper = _keepers[grid] = Keeper(cache)
    return keeper
