"""Directories are asked for ahead of who walks through a tree: in either direction, and never in vain for long."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from lafsfs.formats.caps import DirCap, parse
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree import looking_ahead
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.looking_ahead import FIRST, MOST, NEAR
from lafsfs.tree.options import TreeOptions
from tests.support.errnos import refused
from tests.support.grids import share_files
from tests.support.pairs import look_again
from tests.support.storage import StorageServer
from tests.support.trees import Files, new_root, opened

LAZY = TreeOptions(publish_delay=3600.0, refresh=3600.0, label="test")
COUNT = 40
NAMES = [f"d{number:02}" for number in range(COUNT)]


@pytest.fixture
async def root(nodes: NodeMaker, tmp_path: Path) -> DirCap:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "made", LAZY) as fs:
        await fs.mkdir("top")
        for name in NAMES:
            await fs.mkdir(f"top/{name}")
            await fs.write(f"top/{name}/{name}", name.encode() * 50)
        await fs.drain()
    return root


@asynccontextmanager
async def another(nodes: NodeMaker, root: DirCap, state: Path) -> AsyncIterator[Files]:
    """A tree that knows nothing of what is below the top, and forgets nothing wrongly."""
    async with opened(nodes, root, state, LAZY) as fs:
        yield fs
        fs.forget()
        anchors = Counter(link[0] for inode in fs.tree.inodes for link in inode.links)
        anchors.update(fs.tree.ahead.expected.keys())
        for inode in fs.tree.inodes:
            assert inode.anchors == anchors[inode.ino]


def loaded(fs: Files) -> set[str]:
    found = set()
    for inode in fs.tree.inodes:
        if inode.folder is not None and inode.folder.loaded and inode.ino != ROOT and inode.first_link:
            found.add(inode.first_link[1].decode())
    return found - {"top", ".lafsfs-links"}


async def until_loaded(fs: Files, names: Iterable[str]) -> None:
    with trio.fail_after(20):
        while not loaded(fs) >= set(names):  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.parametrize("backwards", [False, True])
async def test_neighbours_are_there_before_a_walker(
    nodes: NodeMaker, tmp_path: Path, root: DirCap, backwards: bool
) -> None:
    names = NAMES[::-1] if backwards else NAMES
    async with another(nodes, root, tmp_path / "state") as fs:
        assert await fs.names(f"top/{names[0]}") == {names[0].encode()}
        assert loaded(fs) == {names[0]}
        assert await fs.names(f"top/{names[1]}") == {names[1].encode()}
        await until_loaded(fs, names[: 2 + FIRST])
        assert loaded(fs) == set(names[: 2 + FIRST])
        most = 0
        for number, name in enumerate(names[2:], 2):
            assert await fs.names(f"top/{name}") == {name.encode()}
            most = max(most, len(fs.tree.ahead.expected))
            assert not any(other in loaded(fs) for other in names[number + 1 + MOST :])
        assert FIRST < most <= MOST
        assert not fs.tree.ahead.expected
        assert await fs.read(f"top/{names[7]}/{names[7]}") == names[7].encode() * 50


async def test_who_jumps_about_is_no_walker(nodes: NodeMaker, tmp_path: Path, root: DirCap) -> None:
    wanted = [NAMES[place * (NEAR + 3) % COUNT] for place in range(12)]
    async with another(nodes, root, tmp_path / "state") as fs:
        for name in wanted:
            await fs.names(f"top/{name}")
        assert loaded(fs) == set(wanted)
        assert not fs.tree.ahead.expected


async def test_news_are_looked_for_ahead(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, root: DirCap
) -> None:
    async with (
        another(nodes, root, tmp_path / "state") as fs,
        opened(other_nodes, root, tmp_path / "b", LAZY) as there,
    ):
        for name in NAMES:
            await fs.names(f"top/{name}")
        for name in NAMES[::3]:
            await there.write(f"top/{name}/new", b"new" * 50)
        await there.drain()
        look_again(fs)
        for name in NAMES:
            names = {name.encode()} | ({b"new"} if name in NAMES[::3] else set())
            assert await fs.names(f"top/{name}") == names
        assert all(inode.folder is None or fs.tree.is_fresh(inode.folder) for inode in fs.tree.inodes)


async def test_what_nobody_comes_to_is_given_up(
    nodes: NodeMaker, tmp_path: Path, root: DirCap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking_ahead, "_KEPT", 3)
    async with another(nodes, root, tmp_path / "state") as fs:
        for place in range(0, COUNT - 3, 4):  # two neighbours, then somewhere else
            await fs.names(f"top/{NAMES[place]}")
            await fs.names(f"top/{NAMES[place + 1]}")
            assert len(fs.tree.ahead.expected) <= 3
        fs.forget()
        with trio.fail_after(20):
            # The root, the top, what is expected, and what is being looked at still.
            while len(fs.tree.inodes) > 2 + 3 + 1:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_a_directory_that_cannot_be_read_is_passed_by(
    nodes: NodeMaker, three: list[StorageServer], tmp_path: Path, root: DirCap
) -> None:
    async with another(nodes, root, tmp_path / "state") as fs:
        broken = await fs.find(f"top/{NAMES[4]}")
        assert broken.caps is not None
        cap = parse(broken.caps[1])
        assert isinstance(cap, DirCap)
        assert cap.file.storage_index is not None
        for path in share_files(three[0], cap.file.storage_index).values():
            path.unlink()
        for name in NAMES:
            if name == NAMES[4]:
                with refused(errno.EIO):
                    await fs.names(f"top/{name}")
            else:
                assert await fs.names(f"top/{name}") == {name.encode()}
