"""Small files are fetched ahead of who reads a directory in order, and of nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.walking import FIRST, MOST, WALKER
from tests.support.grids import QUICK, client
from tests.support.storage import StorageServer
from tests.support.trees import Files, new_root, opened

ONE = Encoding(1, 1, 1)
COUNT = 60


def _content(number: int) -> bytes:
    return b"content of file %d " % number * 20


def _name(number: int) -> str:
    return f"dir/file{number:03}"


def _counted(number: int) -> str:
    return f"dir/file {number}.txt"


@asynccontextmanager
async def _fresh_tree(
    servers: list[StorageServer], directory: Path, name: Callable[[int], str] = _name
) -> AsyncIterator[tuple[Files, list[bytes]]]:
    """A tree with many small files, opened anew; and the storage indexes that are read from then on."""
    async with client(servers, ONE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, directory / "one") as fs:
            await fs.mkdir("dir")
            for number in range(COUNT):
                await fs.write(name(number), _content(number))
            await fs.write("dir/file000.large", b"large" * 50_000)
            await fs.drain()
    async with client(servers, ONE, timeouts=QUICK) as nodes, opened(nodes, root, directory / "two") as fs:
        yield fs, _watched(nodes)


def _watched(nodes: NodeMaker) -> list[bytes]:
    asked: list[bytes] = []
    (server,) = nodes._grid.servers
    call = server.read_immutable

    async def read(storage_index: bytes, shnum: int, offset: int, size: int) -> bytes:
        answer = await call(storage_index, shnum, offset, size)
        asked.append(storage_index)
        return answer

    server.read_immutable = read  # type: ignore[method-assign]
    return asked


async def _until_asked(asked: list[bytes], count: int) -> None:
    """So many files were read from the server."""
    with trio.fail_after(20):
        while len(set(asked)) < count:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_who_reads_in_order_finds_the_next_files_there(
    three: list[StorageServer], tmp_path: Path
) -> None:
    async with _fresh_tree(three[:1], tmp_path) as (fs, asked):
        for number in range(WALKER):
            assert await fs.read(_name(number)) == _content(number)
        assert fs.tree.walks.waiting == FIRST
        await _until_asked(asked, WALKER + FIRST)
        three[0].kill()
        for number in range(WALKER, WALKER + FIRST):
            assert await fs.read(_name(number)) == _content(number)


async def test_who_counts_finds_the_next_files_there(three: list[StorageServer], tmp_path: Path) -> None:
    """From 7 to 11, where the order of names is another; and with no name left out."""
    async with _fresh_tree(three[:1], tmp_path, _counted) as (fs, asked):
        for number in range(7, 11):
            assert await fs.read(_counted(number)) == _content(number)
        await _until_asked(asked, 4 + FIRST)
        three[0].kill()
        for number in range(11, 11 + FIRST):
            assert await fs.read(_counted(number)) == _content(number)


async def test_whoever_counts_has_every_file_fetched_once(three: list[StorageServer], tmp_path: Path) -> None:
    async with _fresh_tree(three[:1], tmp_path, _counted) as (fs, asked):
        for number in range(COUNT):
            assert await fs.read(_counted(number)) == _content(number)
        assert len(asked) == len(set(asked)) == COUNT
        assert fs.tree.walks.waiting == 0


async def test_every_file_is_fetched_once(three: list[StorageServer], tmp_path: Path) -> None:
    async with _fresh_tree(three[:1], tmp_path) as (fs, asked):
        for number in range(COUNT):
            assert await fs.read(_name(number)) == _content(number)
        assert len(asked) == len(set(asked)) == COUNT


async def test_other_orders_fetch_nothing_else(three: list[StorageServer], tmp_path: Path) -> None:
    async with _fresh_tree(three[:1], tmp_path) as (fs, asked):
        for number in (5, 40, 3, 30, 2, 50, 1):
            assert await fs.read(_name(number)) == _content(number)
        assert fs.tree.walks.waiting == 0
        assert len(asked) == 7


async def test_a_walk_that_ends_wastes_little(three: list[StorageServer], tmp_path: Path) -> None:
    async with _fresh_tree(three[:1], tmp_path) as (fs, asked):
        for number in range(20):
            assert await fs.read(_name(number)) == _content(number)
        assert 0 < fs.tree.walks.waiting <= MOST
        assert len(set(asked)) <= 20 + MOST


async def test_what_could_not_be_fetched_ahead_is_read_later(
    three: list[StorageServer], tmp_path: Path
) -> None:
    async with _fresh_tree(three[:1], tmp_path) as (fs, asked):
        for number in range(WALKER):
            assert await fs.read(_name(number)) == _content(number)
        await _until_asked(asked, WALKER + FIRST)
        three[0].kill()
        for number in range(WALKER, WALKER + FIRST):
            assert await fs.read(_name(number)) == _content(number)
        with pytest.raises(TimeoutError):
            await fs.read(_name(WALKER + FIRST))
        three[0].start()
        for number in range(COUNT):
            assert await fs.read(_name(number)) == _content(number)
