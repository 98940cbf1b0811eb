"""Versions that did not get to all servers get there later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap, MutableWriteCap
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.check import CheckResult, check
from lafsfs.tree import mending
from lafsfs.tree.inodes import ROOT
from tests.support.faulty_server import FAULTY, forget_changes
from tests.support.grids import client
from tests.support.many import many_servers
from tests.support.pairs import NEVER, look_again
from tests.support.storage import StorageServer
from tests.support.trees import Files, new_root, opened

TWO_OF_THREE = Encoding(2, 2, 3)


async def health(servers: Sequence[StorageServer], cap: DirCap) -> CheckResult:
    assert isinstance(cap.file, MutableWriteCap)
    async with client(servers, TWO_OF_THREE) as nodes:
        return await check(nodes._grid, cap.file)


@asynccontextmanager
async def published_without_the_last(
    three: list[StorageServer], folder: Path
) -> AsyncIterator[tuple[NodeMaker, DirCap, Files]]:
    """A tree whose root has an older version on the last server, which is there again."""
    async with client(three, TWO_OF_THREE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, folder, replace(NEVER, refresh=3600.0)) as fs:
            await fs.write("one", b"1")
            await fs.drain()
            three[-1].stop()
            try:
                await fs.write("two", b"2")
                await fs.drain()
            finally:
                three[-1].start()
            result = await health(three, root)
            assert not result.healthy
            assert result.other
            yield nodes, root, fs


async def mended(fs: Files) -> None:
    """One time to publish it again, one to see that it is there."""
    for _ in range(2):
        await fs.drain()
    assert fs.tree.inode(ROOT) not in fs.tree.mending


async def test_it_is_mended_when_somebody_flushes(three: list[StorageServer], tmp_path: Path) -> None:
    async with published_without_the_last(three, tmp_path / "state") as (_, root, fs):
        await mended(fs)
        assert (await health(three, root)).healthy
        assert await fs.names() == {b"one", b"two"}
        await fs.write("three", b"3")
        await fs.drain()
        assert (await health(three, root)).healthy


async def test_it_is_mended_after_a_while(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "FIRST", 0.2)
    async with published_without_the_last(three, tmp_path / "state") as (_, root, fs):
        with trio.fail_after(60):
            while fs.tree.inode(ROOT) in fs.tree.mending:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert (await health(three, root)).healthy


async def test_who_comes_across_it_mends_it(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "FIRST", 3600.0)
    async with published_without_the_last(three, tmp_path / "state") as (_, root, _):
        async with client(three, TWO_OF_THREE) as other, opened(other, root, tmp_path / "other", NEVER) as fs:
            assert await fs.names() == {b"one", b"two"}
            assert fs.tree.inode(ROOT) in fs.tree.mending
            await mended(fs)
        assert (await health(three, root)).healthy


async def test_what_is_whole_is_let_alone(three: list[StorageServer], tmp_path: Path) -> None:
    async with client(three, TWO_OF_THREE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
            await fs.mkdir("d")
            await fs.drain()
            await fs.write("d/file", b"content")
            await fs.drain()
            assert not [inode for inode in fs.tree.inodes if inode in fs.tree.mending]
            folder = fs.tree.inode(ROOT).folder
            assert folder is not None
            assert folder.node is not None
            before = await folder.node.version()
            fs.tree.mending._note(folder.inode, 3600.0)
            await fs.drain()
            assert folder.inode not in fs.tree.mending
            assert await folder.node.version() == before


async def test_a_server_that_forgets_is_not_written_again_and_again(
    tmp_path: Path,
) -> None:
    with many_servers(tmp_path, 3, FAULTY) as servers:
        async with (
            client(servers, TWO_OF_THREE) as nodes,
            opened(nodes, await new_root(nodes), tmp_path / "state", NEVER) as fs,
        ):
            await fs.write("one", b"1")
            await fs.drain()
            forget_changes(servers[-1])
            await fs.write("two", b"2")
            await fs.drain()
            folder = fs.tree.inode(ROOT).folder
            assert folder is not None
            assert folder.node is not None
            before = (await folder.node.version()).seqnum
            for _ in range(5):
                look_again(fs)
                fs.tree.mending.seen(folder)
                await fs.drain()
            assert (await folder.node.version()).seqnum <= before + 1
            assert folder.inode not in fs.tree.mending
