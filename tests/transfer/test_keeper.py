"""Parts on their way into the cache: several at a time, bounded, and nothing is lost by closing the grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from lafsfs.cache.segments import Part, SegmentCache
from lafsfs.config import Encoding, GridProfile
from lafsfs.grid.servers import Grid
from lafsfs.transfer import keeper
from lafsfs.transfer.kept import (
    get_leaves,
    get_segment,
    has_leaves,
    has_segment,
    leaves_part,
    peek_at_segment,
    segment_part,
)
from tests.support.grids import SECRETS

SI, UEB_HASH = b"s" * 16, b"u" * 32


class Recording(SegmentCache):
    """Remembers what it was given."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, 1 << 30)
        self.given: list[str] = []

    def put(self, parts: Sequence[Part]) -> int:
        self.given += [part.name for part in parts]
        return super().put(parts)


def no_servers() -> Grid:
    return Grid(GridProfile(servers=(), encoding=Encoding(1, 1, 1)), SECRETS)


def part(name: str, size: int = 10) -> Part:
    return Part(SI, UEB_HASH, name, (bytes(size),))


async def settled(cache: Recording, count: int) -> None:
    with trio.fail_after(20):
        while len(cache.given) < count:  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_what_was_kept_is_found(tmp_path: Path) -> None:
    cache = Recording(tmp_path)
    async with no_servers() as grid:
        keeping = keeper.keeper_of(grid, cache)
        assert keeper.keeper_of(grid, cache) is keeping
        assert not has_segment(keeping, SI, UEB_HASH, 3)
        keeping.keep(grid, segment_part(SI, UEB_HASH, 3, b"the UEB", memoryview(b"segment")))
        keeping.keep(grid, leaves_part(SI, UEB_HASH, 1, b"row", b"top"))
        await settled(cache, 2)
    assert has_segment(keeping, SI, UEB_HASH, 3)
    assert has_leaves(keeping, SI, UEB_HASH, 1)
    assert not has_leaves(keeping, SI, UEB_HASH, 3)
    assert get_segment(keeping, SI, UEB_HASH, 3) == (b"the UEB", b"segment")
    assert get_leaves(keeping, SI, UEB_HASH, 1, 3) == (b"row", b"top")


async def test_what_is_not_written_yet_is_found_where_it_waits(tmp_path: Path) -> None:
    cache = Recording(tmp_path)
    async with no_servers() as grid:
        keeping = keeper.keeper_of(grid, cache)
        keeping.rests = lambda: False
        for _ in range(2):
            keeping.keep(grid, segment_part(SI, UEB_HASH, 0, b"the UEB", memoryview(b"segment")))
        assert peek_at_segment(keeping, SI, UEB_HASH, 0) == (b"the UEB", b"segment")
        assert has_segment(keeping, SI, UEB_HASH, 0)
        assert get_segment(keeping, SI, UEB_HASH, 0) == (b"the UEB", b"segment")
        assert peek_at_segment(keeping, SI, UEB_HASH, 1) is None
        assert cache.given == []
    assert cache.given == ["segment 0"]
    assert cache.get(SI, UEB_HASH, "segment 0") is not None
    assert get_segment(keeping, SI, UEB_HASH, 0) == (b"the UEB", b"segment"), "in the cache now"


async def test_a_grid_that_is_closed_has_written_everything(tmp_path: Path) -> None:
    cache = Recording(tmp_path)
    async with no_servers() as grid:
        keeping = keeper.keeper_of(grid, cache)
        for number in range(5):
            keeping.keep(grid, part(f"p{number}"))
    assert sorted(cache.given) == [f"p{number}" for number in range(5)]
    keeping.keep(grid, part("too late"))  # says nothing, keeps nothing
    assert len(cache.given) == 5


async def test_more_than_the_disk_takes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_MOST", 100)
    cache = Recording(tmp_path)
    async with no_servers() as grid:
        keeping = keeper.keeper_of(grid, cache)
        for number in range(20):  # nothing is written before this task waits
            keeping.keep(grid, part(f"p{number}", 30))
        await settled(cache, 4)
        with trio.fail_after(20):
            while keeping._size:  # noqa: ASYNC110
                await trio.sleep(0.005)
        keeping.keep(grid, part("later"))
        await settled(cache, 5)
    assert cache.given == ["p0", "p1", "p2", "p3", "later"]


async def test_programs_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written while they are at work, unless much is waiting; then a few parts at a time."""
    monkeypatch.setattr(keeper, "_FEW", 4)
    monkeypatch.setattr(keeper, "_WHILE", 0.01)
    cache = Recording(tmp_path)
    moments: list[int] = []

    def rests() -> bool:
        moments.append(len(cache.given))
        return len(moments) > 10

    async with no_servers() as grid:
        keeping = keeper.keeper_of(grid, cache)
        keeping.rests = rests
        for number in range(6):
            keeping.keep(grid, part(f"p{number}"))
        await settled(cache, 6)
        assert moments == [0] * 11 + [4]
        moments.clear()
        monkeypatch.setattr(keeper, "_ENOUGH", 100)
        for number in range(6):
            keeping.keep(grid, part(f"q{number}", 30))
        await settled(cache, 12)
        assert moments == []
