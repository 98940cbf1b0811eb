"""Immutable files on the grid (CHK)."""

from __future__ import annotations

from lafsfs.cache.segments import SegmentCache
from lafsfs.formats import caps
from lafsfs.grid.servers import Grid
from lafsfs.transfer.download import ChkReader


class ImmutableFile:
    """A CHK file. One node should serve all readers of the file, so that they share what is fetched."""

    def __init__(self, grid: Grid, cache: SegmentCache | None, cap: caps.ChkCap) -> None:
        self._cap = cap
        self._reader = ChkReader(grid, cache, cap)

    @property
    def cap(self) -> caps.ChkCap:
        return self._cap

    @property
    def size(self) -> int:
        """Bytes."""
        return self._cap.size

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end. Errors: see `ChkReader.read`."""
        return await self._reader.read(offset, size)
