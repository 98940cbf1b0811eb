"""Directories that several clients move into each other, and directories that contain themselves."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from lafsfs.formats.caps import DirCap, parse
from lafsfs.formats.dirnode import Entry, make_entry
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.attaching import attach, caps_to_attach
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.moves import MOST
from lafsfs.tree.options import TreeOptions
from tests.support.pairs import NEVER, ONCE, agree, both, look_again
from tests.support.trees import Files, all_in, new_root, opened

both_ways = pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])
DEADLINE = 60.0


async def publish_at_once(mounts: Sequence[Files]) -> None:
    """All of them drain at the same time."""
    with trio.fail_after(DEADLINE):
        async with trio.open_nursery() as nursery:
            for fs in mounts:
                nursery.start_soon(fs.drain)


async def settled(*mounts: Files) -> set[bytes]:
    """What all agree on; names that lead in a circle are taken away when somebody comes across them."""
    for _ in range(3):
        for fs in mounts:
            look_again(fs)
            await all_in(fs)
            await fs.drain()
    return await agree(*mounts)


async def contents(fs: Files) -> set[bytes]:
    return {seen.content for seen in (await fs.everything()).values() if seen.content}


@both_ways
@pytest.mark.parametrize("in_one", [True, False], ids=["in one directory", "in two"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in turn"])
async def test_two_moves_into_each_other(
    nodes: NodeMaker,
    other_nodes: NodeMaker,
    tmp_path: Path,
    options: TreeOptions,
    in_one: bool,
    at_once: bool,
) -> None:
    x, y = ("x", "x") if in_one else ("x", "y")
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        for path in dict.fromkeys((x, y, f"{x}/d1", f"{y}/d2")):
            await here.mkdir(path)
        await here.write(f"{x}/d1/one", b"1")
        await here.write(f"{y}/d2/two", b"2")
        await agree(here, there)
        await here.rename(f"{x}/d1", f"{y}/d2/d1")
        await there.rename(f"{y}/d2", f"{x}/d1/d2")
        if at_once:
            await publish_at_once([here, there])
        await settled(here, there)
        assert await contents(here) == {b"1", b"2"}
        paths = sorted(await here.everything())
        names = sorted(path.rpartition(b"/")[2] for path in paths)
        if at_once or not in_one:
            # A directory may end under both names; in turn, when the machine is busy (several-writers.md).
            names = sorted(set(names))
        assert names == sorted({x.encode(), y.encode()} | {b"d1", b"d2", b"one", b"two"}), paths


async def test_three_moves_in_a_ring(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with AsyncExitStack() as stack:
        mounts = [
            await stack.enter_async_context(opened(maker, root, tmp_path / str(number), ONCE))
            for number, maker in enumerate((nodes, other_nodes, nodes))
        ]
        for number in range(3):
            await mounts[0].mkdir(f"p{number}")
            await mounts[0].mkdir(f"p{number}/d{number}")
            await mounts[0].write(f"p{number}/d{number}/file", b"%d" % number)
        await agree(*mounts)
        for number, fs in enumerate(mounts):
            after = (number + 1) % 3
            await fs.rename(f"p{number}/d{number}", f"p{after}/d{after}/d{number}")
        await publish_at_once(mounts)
        await settled(*mounts)
        assert await contents(mounts[0]) == {b"0", b"1", b"2"}


@both_ways
async def test_a_directory_moved_into_one_that_was_removed(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        for path in ("x", "x/d", "y", "y/t"):
            await here.mkdir(path)
        await here.write("x/d/file", b"1")
        await agree(here, there)
        await here.rename("x/d", "y/t/d")
        await there.rmdir("y/t")
        await there.rmdir("y")
        await publish_at_once([here, there])
        await settled(here, there)
        assert await contents(here) == {b"1"}


async def test_a_move_is_no_change_of_what_is_moved(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """What others do in a directory changes what its entry says of it; it is still one directory."""
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        for path in ("x", "x/d", "y"):
            await here.mkdir(path)
        await agree(here, there)
        await there.write("x/d/new", b"new")
        await there.drain()
        mtime = (await there.find("x/d")).attributes.mtime
        await here.rename("x/d", "y/d")
        assert await settled(here, there) == {b"x", b"y", b"y/d", b"y/d/new"}
        assert (await here.find("y/d")).attributes.mtime == mtime


async def link_above(nodes: NodeMaker, fs: Files, *, as_moved: bool) -> None:
    """Give d1/d2 an entry "d1" that leads to d1 again: one as a move leaves it, or as another client writes it."""
    outer, inner = await fs.find("d1"), await fs.find("d1/d2")
    above = await fs.tree.folder(1)
    raw = above.base_raw(b"d1")
    assert raw is not None
    assert outer.caps is not None
    assert inner.caps is not None
    cap = parse(inner.caps[0])
    assert isinstance(cap, DirCap)
    directory = nodes.directory(cap)
    snapshot = await directory.read()
    metadata = Entry.parse(raw).metadata if as_moved else b"{}"
    entry = make_entry("d1", outer.caps[1], outer.caps[0], metadata, directory.writekey)
    await directory.publish(snapshot, snapshot.packed.with_changes({"d1": entry}))


async def test_what_a_move_left_in_a_circle_is_taken_away(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.mkdir("d1")
        await here.mkdir("d1/d2")
        await here.write("d1/d2/file", b"1")
        await agree(here, there)
        await link_above(nodes, here, as_moved=True)
        assert await settled(here, there) == {b"d1", b"d1/d2", b"d1/d2/file"}
        inner = await there.find("d1/d2")
        assert inner.folder is not None
        assert inner.folder.node is not None
        assert len((await inner.folder.node.read()).packed) == 1


async def test_a_circle_that_somebody_else_made_is_not_entered(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """It is shown, and can be taken away."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.mkdir("d1")
        await here.mkdir("d1/d2")
        await agree(here, there)
        await link_above(nodes, here, as_moved=False)
        assert await there.names("d1/d2") == {b"d1"}
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            await there.names("d1/d2/d1")
        await there.rename("d1/d2/d1", "d1/d2/loop")
        await there.rmdir("d1/d2/loop")
        await there.drain()
        assert await settled(here, there) == {b"d1", b"d1/d2"}


@both_ways
async def test_a_move_between_two_names_of_one_directory(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    """Under the same name that changes nothing; under another one it is renamed."""
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        for path in ("d", "d/same", "d/old"):
            await here.mkdir(path)
        await here.write("d/file", b"file")
        await here.drain()
        caps = (await here.find("d")).caps
        assert caps is not None
        await attach(here.tree, ROOT, b"also", caps_to_attach(caps[0]))
        await here.drain()
        await here.names("also")
        await here.rename("d/same", "also/same")
        await here.rename("d/old", "also/new")
        await here.rename("d/file", "also/file")
        below = {b"same", b"new", b"file"}
        expected = {b"d", b"also"} | {top + b"/" + path for top in (b"d", b"also") for path in below}
        assert await settled(here, there) == expected


async def test_what_replaced_a_directory_is_kept_when_its_removal_is_given_up(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """After several moves that were taken back, a removed directory stays on the grid."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.mkdir("d")
        await here.write("d/file", b"inner")
        await agree(here, there)
        root, moved = here.tree.inode(ROOT).folder, await here.find("d/file")
        assert root is not None
        await here.rename("d/file", "file")
        await here.rmdir("d")
        await here.write("d", b"in its place")
        moves = here.tree.publisher._directory_publisher._moves
        moves._taken_back[moved.ino] = MOST
        moves._take_back(root, b"d", moved)
        assert await contents(here) >= {b"in its place"}
        await settled(here, there)
        assert await contents(there) == {b"inner", b"in its place"}
