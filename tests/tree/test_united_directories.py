"""Two mkdirs of one name, and directories that one side removes while the other changes something in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lafsfs.formats.caps import DirCap, parse
from lafsfs.formats.dirnode import make_entry
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.options import TreeOptions
from tests.support.pairs import NEVER, ONCE, agree, both, look_again
from tests.support.trees import Files, opened

both_ways = pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])


@both_ways
async def test_two_mkdirs_merge_their_contents(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        for fs, word in ((here, b"ours"), (there, b"theirs")):
            await fs.mkdir("d")
            await fs.mkdir("d/deep")
            await fs.mkdir("d/deep/er")
            await fs.write("d/same", b"the same")
            await fs.write("d/both.txt", word * 30)
            await fs.write(b"d/deep/" + word, word)
            await fs.write(b"d/deep/er/" + word, word * 20)
            await fs.symlink(word, b"d/link-" + word)
        await here.mkdir("d/only here")
        await there.drain()
        paths = await agree(here, there)
        copies = {path for path in paths if b".conflict-" in path}
        assert paths - copies == {
            *(b"d", b"d/deep", b"d/deep/er", b"d/same", b"d/both.txt", b"d/only here"),
            *(b"d/deep/ours", b"d/deep/theirs", b"d/deep/er/ours", b"d/deep/er/theirs"),
            *(b"d/link-ours", b"d/link-theirs"),
        }
        (copy,) = copies
        assert copy.startswith(b"d/both.conflict-" + options.label.encode())
        assert copy.endswith(b".txt")
        assert await there.read("d/both.txt") == b"theirs" * 30
        assert await there.read(copy) == b"ours" * 30
        assert here.tree.status().conflicts == [copy.decode()]
        assert not there.tree.conflicts
        assert (await here.find("d")).nlink == (await there.find("d")).nlink == 4
        await here.unlink(copy)
        assert here.tree.status().conflicts == []


async def test_work_goes_on_in_a_directory_that_was_united(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Its inode number, its open files and what comes later stay good."""
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await there.mkdir("d")
        await there.write("d/theirs", b"theirs")
        await there.drain()
        number = (await here.mkdir("d")).ino
        handle = await here.create("d/open")
        await here.pwrite(handle, b"begin", 0)
        await here.drain()
        assert (await here.find("d")).ino == number
        assert await here.names("d") == {b"open", b"theirs"}
        await here.pwrite(handle, b"end", 5)
        await here.close(handle)
        await here.write("d/later", b"later")
        await here.unlink("d/theirs")
        assert await agree(here, there) == {b"d", b"d/open", b"d/later"}
        assert await there.read("d/open") == b"beginend"
    async with opened(nodes, _root(here), tmp_path / "fresh") as fresh:
        assert set(await fresh.everything()) == {b"d", b"d/open", b"d/later"}


async def test_a_directory_that_came_from_elsewhere_is_not_taken_apart(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Others may know it under its old name and be adding to it."""
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.mkdir("old")
        await here.write("old/x", b"x")
        await agree(here, there)
        await here.rename("old", "d")
        await there.mkdir("d")
        await there.write("d/y", b"y")
        await there.drain()
        paths = await agree(here, there)
        (copy,) = {path for path in paths if path.startswith(b"d.conflict-") and b"/" not in path}
        assert paths == {b"d", b"d/y", copy, copy + b"/x"}


# --- removed here, changed there -------------------------------------------------------------------------


async def add_behind(nodes: NodeMaker, fs: Files, path: str, name: str) -> None:
    """Put a small file into a directory as Tahoe does it: the entry of the directory itself stays as it is."""
    inode = await fs.find(path)
    assert inode.caps is not None
    cap = parse(inode.caps[0])
    assert isinstance(cap, DirCap)
    directory = nodes.directory(cap)
    snapshot = await directory.read()
    entry = make_entry(name, b"URI:LIT:me", b"", b"{}", directory.writekey)
    await directory.publish(snapshot, snapshot.packed.with_changes({name: entry}))


async def test_what_comes_into_a_removed_directory_brings_it_back(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        for path in ("a", "b", "b/sub", "c"):
            await here.mkdir(path)
        await here.write("b/file", b"1")
        await here.write("b/sub/file", b"2")
        await agree(here, there)
        await here.rmdir("a")
        await here.unlink("b/file")
        await here.unlink("b/sub/file")
        await here.rmdir("b/sub")
        await here.rmdir("b")
        await here.rmdir("c")
        here.forget()
        await add_behind(other_nodes, there, "a", "new")
        await add_behind(other_nodes, there, "b/sub", "new")
        assert await agree(here, there) == {b"a", b"a/new", b"b", b"b/sub", b"b/sub/new"}
        assert await here.read("b/sub/new") == b"a"
        assert (await here.find("")).nlink == 4


async def test_a_removed_and_changed_directory_that_is_replaced(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.mkdir("a")
        await here.mkdir("b")
        await agree(here, there)
        await here.rmdir("a")
        await here.mkdir("a")
        await here.write("a/ours", b"ours")
        await here.rmdir("b")
        await here.write("b", b"a file")
        await add_behind(other_nodes, there, "a", "new")
        await add_behind(other_nodes, there, "b", "new")
        paths = await agree(here, there)
        (copy,) = {path for path in paths if path.startswith(b"b.conflict-")} or {b"?"}
        united = {path for path in paths if path.startswith(b"a")}
        assert {b"b", b"b/new", copy} < paths
        assert await here.read(copy) == b"a file"
        assert {path.rpartition(b"/")[2] for path in united} > {b"ours", b"new"}


async def test_a_directory_that_others_removed_while_something_in_it_waits(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Its entry was published already, so that nothing but what is in it differs from the grid."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.mkdir("d")
        await here.write("d/old", b"old")
        await agree(here, there)
        handle = await here.open("d/old", os.O_WRONLY)
        await here.pwrite(handle, b"new", 0)
        await there.unlink("d/old")
        await there.rmdir("d")
        await there.drain()
        await here.names()
        await here.close(handle)
        assert await agree(here, there) == {b"d", b"d/old"}
        assert await there.read("d/old") == b"new"


async def test_an_open_file_that_others_removed_is_kept_once_it_is_written(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        for name in ("removed", "replaced.txt", "read"):
            await here.write(name, name.encode() * 20)
        await agree(here, there)
        handles = [
            await here.open("removed", os.O_RDWR),
            await here.open("replaced.txt", os.O_RDWR),
            await here.open("read"),
        ]
        await there.unlink("removed")
        await there.unlink("read")
        await there.replace("replaced.txt", b"theirs" * 30)
        await there.drain()
        assert await here.names() == {b"replaced.txt"}
        assert await here.read("replaced.txt") == b"theirs" * 30
        for handle in handles[:2]:
            await here.pwrite(handle, b"OURS", 0)
        for handle in handles:
            await here.close(handle)
        paths = await agree(here, there)
        (copy,) = paths - {b"removed", b"replaced.txt"}
        assert copy.startswith(b"replaced.conflict-here-")
        assert await there.read("replaced.txt") == b"theirs" * 30
        assert await there.read(copy) == b"OURS" + (b"replaced.txt" * 20)[4:]
        assert await there.read("removed") == b"OURS" + (b"removed" * 20)[4:]
        assert here.tree.status().conflicts == [copy.decode()]


async def test_conflict_copies_are_listed_after_a_remount(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.write("x", b"ours")
        await there.write("x", b"theirs")
        await there.drain()
        await here.drain()
        listed = here.tree.status().conflicts
        look_again(here)
        root = _root(here)
    async with opened(nodes, root, tmp_path / "here", ONCE) as fs:
        assert fs.tree.status().conflicts == listed != []
        await fs.unlink(listed[0])
        assert fs.tree.status().conflicts == []


def _root(fs: Files) -> DirCap:
    caps = fs.tree.inode(ROOT).caps
    assert caps is not None
    cap = parse(caps[0])
    assert isinstance(cap, DirCap)
    return cap
