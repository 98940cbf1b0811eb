"""Others move a directory while something changes in it here."""

from __future__ import annotations

from pathlib import Path

import pytest

from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.changing import NewAttributes
from lafsfs.tree.options import TreeOptions
from tests.support.pairs import NEVER, ONCE, agree, both, look_again
from tests.support.trees import Files

both_ways = pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])
DEEP = {b"other", b"top", b"top/d", b"top/d/file"}


async def make(here: Files, there: Files, *paths: str) -> None:
    """Directories that both know, and that are loaded here."""
    for path in paths:
        await here.mkdir(path)
    await agree(here, there)
    await here.everything()


@both_ways
@pytest.mark.parametrize("new", ["top/renamed", "other/d", "d"])
@pytest.mark.parametrize("changed", ["d/new", "d/below/new"])
async def test_it_does_not_come_back_to_where_it_was(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions, new: str, changed: str
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        for path in ("other", "top", "top/d", "top/d/below"):
            await here.mkdir(path)
        await here.write("top/d/file", b"file")
        await agree(here, there)
        await here.everything()
        await here.write(f"top/{changed}", b"new")
        await there.rename("top/d", new)
        await there.drain()
        await here.drain()
        moved = {f"{new}{path}".encode() for path in ("", "/below", "/file", changed.removeprefix("d"))}
        assert await agree(here, there) == {b"other", b"top"} | moved
        assert await there.read(new + changed.removeprefix("d")) == b"new"


@both_ways
@pytest.mark.parametrize("moved_before", [True, False])
async def test_what_was_removed_comes_back(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions, moved_before: bool
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        await make(here, there, "other", "top", "top/d")
        await here.write("top/d/file", b"file")
        if moved_before:
            await there.rename("top/d", "other/d")
            await there.drain()
        await there.rmdir("other/d" if moved_before else "top/d")
        await there.drain()
        await here.drain()
        assert await agree(here, there) == DEEP


@both_ways
async def test_what_is_removed_again_after_that_comes_back(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        await make(here, there, "other", "top", "top/d")
        await here.write("top/d/file", b"file")
        await there.rename("top/d", "other/d")
        await there.drain()
        assert await there.names("other/d") == set()
        await there.rmdir("other/d")
        await here.drain()  # it is there still
        await there.drain()
        assert await agree(here, there) == {b"other", b"other/d", b"other/d/file", b"top"}


@both_ways
async def test_where_it_is_cannot_be_known(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        await make(here, there, "top", "top/d")
        await here.write("top/d/file", b"file")
        await there.mkdir("made")
        await there.mkdir("made/deep")
        await there.rename("top/d", "made/deep/d")
        await there.drain()
        await here.drain()
        everywhere = {
            b"made",
            b"made/deep",
            b"made/deep/d",
            b"made/deep/d/file",
            b"top",
            b"top/d",
            b"top/d/file",
        }
        for fs in here, there:
            look_again(fs)
            assert set(await fs.everything()) == everywhere


async def test_attributes_that_changed_here_are_not_lost(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await make(here, there, "other", "top", "top/d")
        await here.tree.changing.set_attributes(await here.find("top/d"), NewAttributes(mode=0o700))
        await there.rename("top/d", "other/d")
        await there.drain()
        await here.drain()
        assert await agree(here, there) == {b"other", b"other/d", b"top", b"top/d"}
        assert (await there.find("top/d")).attributes.mode & 0o7777 == 0o700
