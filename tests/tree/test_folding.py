"""What directories say is kept compressed, and nobody notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from lafsfs.formats import packed
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree import folding
from lafsfs.tree.options import TreeOptions
from tests.support.pairs import both, look_again
from tests.support.trees import Files, new_root, opened

LAZY = TreeOptions(publish_delay=3600.0, refresh=3600.0, label="test")


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "FEW", 0)
    monkeypatch.setattr(packed, "_WORTH_FOLDING", 0)


async def three_directories(fs: Files) -> None:
    for directory in "abc":
        await fs.mkdir(directory)
        for number in range(5):
            await fs.write(f"{directory}/{number}", directory.encode() * 100)
    await fs.drain()


def folded(fs: Files) -> int:
    """How many directories are."""
    loaded = [inode.folder.snapshot for inode in fs.tree.inodes if inode.folder is not None]
    return sum(snapshot is not None and snapshot.packed._data is None for snapshot in loaded)


async def look(fs: Files, times: int = 1) -> None:
    for _ in range(times):
        await fs.tree.trimming.folding.look(fs.tree.trimming._folders())


async def test_directories_are_folded_when_nobody_looks(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a", LAZY) as fs:
        await three_directories(fs)
    async with opened(nodes, root, tmp_path / "b", LAZY) as fs:
        folds = fs.tree.trimming.folding
        given: list[None] = []
        folds.give_back = lambda: given.append(None)
        for directory in "abc":
            assert await fs.names(directory) == {b"%d" % number for number in range(5)}
        await look(fs)
        assert folded(fs) == 0
        await look(fs)
        assert folded(fs) == 4
        assert not given
        await look(fs)
        assert len(given) == 1
        assert folds.done_at > float("-inf")
        for directory in "abc":
            assert await fs.read(f"{directory}/3") == directory.encode() * 100
        await fs.write("b/3", b"new" * 50)
        await fs.unlink("b/4")
        await look(fs, 2)
        await fs.drain()
        await look(fs, 3)
        assert folded(fs) >= 3
        assert await fs.names("b") == {b"0", b"1", b"2", b"3"}
        assert await fs.read("b/3") == b"new" * 50
        assert await fs.read("c/4") == b"c" * 100
    async with opened(nodes, root, tmp_path / "c", LAZY) as fs:
        assert await fs.names("b") == {b"0", b"1", b"2", b"3"}
        assert await fs.read("b/3") == b"new" * 50


async def test_few_names_are_left_alone(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "FEW", 100)
    async with opened(nodes, await new_root(nodes), tmp_path, LAZY) as fs:
        await three_directories(fs)
        await look(fs, 3)
        assert folded(fs) == 0


async def test_what_others_change_is_seen(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    async with both(nodes, other_nodes, tmp_path, LAZY) as (here, there):
        await three_directories(there)
        look_again(here)
        for directory in "abc":
            await here.names(directory)
        await look(here, 3)
        assert folded(here) >= 3
        await there.write("a/0", b"theirs" * 20)
        await there.rename("a/1", "a/one")
        await there.drain()
        look_again(here)
        assert await here.names("a") == {b"0", b"2", b"3", b"4", b"one"}
        assert await here.read("a/0") == b"theirs" * 20
        assert await here.read("a/one") == b"a" * 100
