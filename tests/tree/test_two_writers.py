"""Two mounts of one directory: what both do is kept, and both come to see the same."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lafsfs.errors import PendingError, RollbackError
from lafsfs.formats.caps import LiteralCap
from lafsfs.formats.dirnode import Entry, make_entry
from lafsfs.nodes.directory import Snapshot
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.attaching import attach, caps_to_attach
from lafsfs.tree.directories import Folder
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.kernel import NoKernel
from lafsfs.tree.options import TreeOptions
from tests.support.grids import client, share_files
from tests.support.pairs import NEVER, ONCE, agree, both, look_again
from tests.support.storage import StorageServer
from tests.support.torn import TWO_OF_THREE, leave_half
from tests.support.trees import Files, left_in, new_root, opened


@pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])
async def test_different_names_merge(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        await here.write("ours", b"1")
        await there.write("theirs", b"2")
        await here.mkdir("dir")
        assert await agree(here, there) == {b"ours", b"theirs", b"dir"}
        await here.write("dir/x", b"3")
        await there.write("dir/y", b"4" * 100)
        await there.unlink("theirs")
        assert await agree(here, there) == {b"ours", b"dir", b"dir/x", b"dir/y"}
        assert not here.tree.conflicts
        assert not there.tree.conflicts


@pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])
async def test_the_same_new_name_twice(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        await here.write("same.txt", b"ours" * 30)
        await there.write("same.txt", b"theirs" * 30)
        await there.mkdir("d")
        await there.write("d/in", b"in")
        await here.write("d", b"a file")
        await there.drain()
        paths = await agree(here, there)
        assert {b"same.txt", b"d", b"d/in"} < paths
        assert await here.read("same.txt") == b"theirs" * 30
        copies = {path for path in paths if b".conflict-" in path}
        assert len(copies) == 2
        label = options.label.encode()
        contents = {await here.read(path) for path in copies if path.startswith(b"same.conflict-" + label)}
        contents |= {await here.read(path) for path in copies if path.startswith(b"d.conflict-" + label)}
        assert contents == {b"ours" * 30, b"a file"}
        assert len(here.tree.conflicts) == 2
        assert not there.tree.conflicts


@pytest.mark.parametrize("take_away", ["unlink", "rename"])
async def test_what_is_taken_away_was_not_what_others_put_there(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, take_away: str
) -> None:
    """Ours is shown until it is published; when it goes before that, theirs appears, and is not replaced unseen."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("name", b"ours")
        await there.write("name", b"theirs")
        await there.drain()
        assert await here.read("name") == b"ours"
        await (here.unlink("name") if take_away == "unlink" else here.rename("name", "other"))
        assert await here.read("name") == b"theirs"
        await agree(here, there)
        assert await there.read("name") == b"theirs"


@pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])
async def test_both_change_one_file(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        await here.write("file", b"before" * 20)
        await agree(here, there)
        await here.write("file", b"OURS")
        await there.write("file", b"THEIRS")
        await there.drain()
        paths = await agree(here, there)
        assert await there.read("file") == b"THEIRS" + b"before" * 19
        (copy,) = paths - {b"file"}
        assert await there.read(copy) == (b"OURS" + b"before" * 20)[:4] + (b"before" * 20)[4:]


async def write_late(fs: Files, inode: Inode) -> None:
    """Write as the kernel does, which opens what it remembers of a name."""
    handle = await fs.tree.files.open(inode, os.O_WRONLY)
    await fs.pwrite(handle, b"LATE", 60)
    await fs.close(handle)


async def test_a_file_opened_by_what_a_name_led_to_that_others_took(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("file", b"before" * 20)
        await agree(here, there)
        inode = await here.find("file")
        await there.unlink("file")
        await there.drain()
        assert await here.names() == set()
        await write_late(here, inode)
        assert await agree(here, there) == {b"file"}
        assert b"LATE" in await there.read("file")


async def test_a_file_opened_by_what_its_name_led_to_before_a_conflict(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """The kernel opens a file by the number it got before it is told that the name leads elsewhere."""
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.write("file", b"before" * 20)
        await agree(here, there)
        inode = await here.find("file")
        await here.write("file", b"OURS")
        await there.write("file", b"THEIRS")
        await there.drain()
        await here.drain()
        await write_late(here, inode)
        await agree(here, there)
        contents = [seen.content for seen in (await there.everything()).values()]
        for word in (b"OURS", b"THEIRS", b"LATE"):
            assert any(word in content for content in contents), word


@pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])
async def test_a_change_wins_over_a_removal(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, options: TreeOptions
) -> None:
    async with both(nodes, other_nodes, tmp_path, options) as (here, there):
        for name in ("a", "b"):
            await here.write(name, b"before" * 20)
        await here.mkdir("dir")
        await agree(here, there)
        await here.unlink("a")
        await there.write("a", b"changed")
        await here.write("b", b"changed")
        await there.unlink("b")
        await here.rmdir("dir")
        await there.write("dir/new", b"new")
        await there.drain()
        assert await agree(here, there) == {b"a", b"b", b"dir", b"dir/new"}
        for name in ("a", "b"):
            assert (await here.read(name)).startswith(b"changed")
        assert not here.tree.conflicts
        assert here.tree.inode(1).nlink == there.tree.inode(1).nlink == 3


async def test_renames_of_others_are_followed(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Inode numbers stay, and an exchange is seen as one."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("a", b"a" * 100)
        await here.write("b", b"b" * 100)
        await here.mkdir("d")
        await here.write("d/x", b"x" * 100)
        await agree(here, there)
        numbers = {name: (await there.find(name)).ino for name in ("a", "b", "d", "d/x")}
        there.forget()
        await there.names()
        await here.rename("a", "b", 2)
        await here.rename("d", "e")
        await here.drain()
        assert (await there.find("b")).ino == numbers["a"]
        assert (await there.find("a")).ino == numbers["b"]
        assert await there.read("a") == b"b" * 100
        assert (await there.find("e")).ino == numbers["d"]
        assert (await there.find("e/x")).ino == numbers["d/x"]
        assert not await there.exists("d")
        assert await agree(here, there) == {b"a", b"b", b"e", b"e/x"}


async def test_an_open_file_keeps_the_version_it_opened(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("file", b"old" * 100)
        await agree(here, there)
        handle = await there.open("file")
        await here.replace("file", b"new" * 50)
        await here.drain()
        assert await there.read("file") == b"new" * 50
        assert await there.pread(handle, 1000, 0) == b"old" * 100
        await there.close(handle)


async def test_an_append_goes_to_the_end_that_others_moved(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """The kernel reckons the end from the size it knows, which may be that of the version before."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("file", b"1" * 100)
        await agree(here, there)
        await there.write("file", b"2" * 50, 100)
        await there.drain()
        handle = await here.open("file", os.O_WRONLY | os.O_APPEND)
        await here.pwrite(handle, b"3" * 10, 100)
        await here.pwrite(handle, b"4" * 70_000, 110)
        await here.close(handle)
        await agree(here, there)
        assert await there.read("file") == b"1" * 100 + b"2" * 50 + b"3" * 10 + b"4" * 70_000


async def test_both_write_all_the_time(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    """Collisions while publishing: nothing is lost, no conflict copies, and it ends."""
    eager = TreeOptions(publish_delay=0.0, refresh=0.0)
    async with both(nodes, other_nodes, tmp_path, eager) as (here, there):
        async with trio.open_nursery() as nursery:
            for fs, prefix in ((here, "h"), (there, "t")):
                nursery.start_soon(_write_many, fs, prefix)
        expected = {f"{prefix}{number}".encode() for prefix in "ht" for number in range(15)}
        assert await agree(here, there) == expected
        assert not here.tree.conflicts
        assert not there.tree.conflicts


async def _write_many(fs: Files, prefix: str) -> None:
    for number in range(15):
        await fs.write(f"{prefix}{number}", prefix.encode() * 10)
        await fs.write(f"{prefix}{number}", b"again", 5)
        await trio.sleep(0.01)


async def test_an_answer_that_is_lost_makes_no_conflict(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published without our knowing is ours, also when it has changed again since."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "here", ONCE) as fs:
        await fs.write("changed", b"one" * 30)
        await fs.write("removed", b"one" * 30)
        await fs.write("late", b"one" * 30)
        folder = fs.tree.inode(1).folder
        assert folder is not None
        node = folder.node
        assert node is not None
        lost = trio.Event()
        publish = node.publish

        async def loses_the_answer(*arguments: object) -> object:
            await publish(*arguments)  # type: ignore[arg-type]
            monkeypatch.undo()
            lost.set()
            raise RollbackError("the answer is lost")

        monkeypatch.setattr(node, "publish", loses_the_answer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.drain)
            await lost.wait()
            await fs.write("changed", b"two" * 50)
            await fs.unlink("removed")
            handle = await fs.open("late", 2)
            await fs.write("other", b"other")
        await fs.pwrite(handle, b"three", 0)
        await fs.close(handle)
        await fs.drain()
        assert not fs.tree.conflicts
        assert left_in(fs.tree) == []
        before = await fs.everything()
        assert set(before) == {b"changed", b"late", b"other"}
    async with opened(other_nodes, root, tmp_path / "there") as fs:
        assert await fs.everything() == before


# --- a writer that was killed ------------------------------------------------------------------------


async def test_a_removed_directory_comes_back_that_was_found_again_by_another_name(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Its number stands for what the other name leads to by then."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        for name in ("a", "b", "a/d"):
            await here.mkdir(name)
        await here.write("a/d/f", b"f")
        await agree(here, there)
        removed = await here.find("a/d")
        await _link_too(here, removed, "b")
        await here.unlink("a/d/f")
        await here.rmdir("a/d")
        here.forget()
        again = await here.find("b/d")
        assert again is not removed
        assert again.ino == removed.ino
        await there.write("a/d/new", b"new")
        await there.drain()
        await here.write("b/d/here", b"here")
        for fs in (here, there, here):
            await fs.drain()
            look_again(fs)
        assert left_in(here.tree) == []
        seen = set(await here.everything())  # (that their numbers are the same nobody can promise)
        assert seen == set(await there.everything())
        assert seen == {b"a", b"b"} | {
            path for top in (b"a/d", b"b/d") for path in (top, top + b"/f", top + b"/new", top + b"/here")
        }


async def test_what_others_changed_is_not_removed_with_the_directory(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """It was removed here before, and the directory looks empty."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.mkdir("d")
        for name in ("d/f", "d/g"):
            await here.write(name, b"before" * 50)
        await agree(here, there)
        await here.unlink("d/f")
        await here.unlink("d/g")
        await there.write("d/f", b"after")
        await there.drain()
        assert await here.names("d") == {b"f"}
        with pytest.raises(OSError, match="not empty"):
            await here.rmdir("d")
        assert await agree(here, there) == {b"d", b"d/f"}
        assert (await here.read("d/f"))[:6] == b"aftere"


class SlowKernel(NoKernel):
    """Has not yet read what it was told."""

    def __init__(self) -> None:
        self.unread: set[tuple[int, bytes]] = set()

    def entry_changed(self, directory: int, name: bytes) -> None:
        self.unread.add((directory, name))

    def knows(self, directory: int, name: bytes) -> bool:
        return (directory, name) not in self.unread

    def asked(self, directory: int, name: bytes) -> None:
        self.unread.discard((directory, name))


async def test_what_the_kernel_does_not_know_yet_is_not_moved(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """It would take the new object under the new name for the one that it knows under the old name."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("f", b"before")
        await here.write("g", b"another")
        await agree(here, there)
        await there.unlink("f")
        await there.write("f", b"after")
        await there.drain()
        kernel = here.tree.kernel = SlowKernel()
        for names in (("f", "new"), ("g", "f")):
            with pytest.raises(OSError, match="Stale") as refused:
                await here.rename(*names)
            assert refused.value.errno == errno.ESTALE
        await here.rename("g", "new")
        kernel.asked(ROOT, b"f")
        await here.rename("f", "moved")
        assert await here.read("moved") == b"after"


async def _link_too(fs: Files, directory: Inode, above: str) -> None:
    """As another client may, give a directory a second name: "d" in `above`."""
    folder = (await fs.find(above)).folder
    assert directory.caps is not None
    assert directory.first_link is not None
    old = fs.tree.inode(directory.first_link[0]).folder
    assert folder is not None
    assert folder.node is not None
    assert old is not None
    raw = old.base_raw(directory.first_link[1])
    assert raw is not None
    entry = make_entry(
        "d", directory.caps[1], directory.caps[0], Entry.parse(raw).metadata, folder.node.writekey
    )
    snapshot = await folder.node.read()
    await folder.node.publish(snapshot, snapshot.packed.with_changes({"d": entry}))


@asynccontextmanager
async def of_three(servers: list[StorageServer]) -> AsyncIterator[NodeMaker]:
    async with client(servers, TWO_OF_THREE) as nodes:
        yield nodes


async def test_a_writer_killed_in_the_middle(three: list[StorageServer], tmp_path: Path) -> None:
    """One of three shares is of a version that nobody can recover: the directory shows the one before, and can be
    changed.
    """
    async with of_three(three) as nodes, of_three(three) as other:
        root = await new_root(nodes)
        async with (
            opened(nodes, root, tmp_path / "here", NEVER) as here,
            opened(other, root, tmp_path / "there", NEVER) as there,
        ):
            await here.write("before", b"1")
            await here.drain()
            assert await there.names() == {b"before"}
            await leave_half(three, root)
            await there.write("after", b"2")
            assert await there.names() == {b"before", b"after"}
            await there.drain()
            assert await here.names() == {b"before", b"after"}
        async with of_three(three) as fresh, opened(fresh, root, tmp_path / "fresh") as fs:
            assert await fs.names() == {b"before", b"after"}


async def test_a_directory_left_in_the_middle_can_be_opened(
    three: list[StorageServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with of_three(three) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "here", NEVER) as here:
            await here.write("before", b"1")
            await here.drain()
    await leave_half(three, root)
    async with of_three(three) as nodes, opened(nodes, root, tmp_path / "there", NEVER) as fs:
        assert await fs.names() == {b"before"}
        assert "older version" in caplog.text
        await fs.unlink("before")
        await fs.drain()
        assert await fs.names() == set()


def _shares(server: StorageServer, storage_index: bytes) -> list[Path]:
    return list(share_files(server, storage_index).values())


async def test_a_grid_that_goes_back_in_time_is_noticed_after_a_remount(
    three: list[StorageServer], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The highest version seen is remembered across mounts: what is older is neither shown nor written on."""
    async with of_three(three) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
            await fs.write("a", b"1")
            await fs.drain()
            assert root.storage_index is not None
            old = {path: path.read_bytes() for s in three for path in _shares(s, root.storage_index)}
            await fs.write("b", b"2")
            await fs.drain()
    for server in three:
        server.stop()
    for path, data in old.items():
        path.write_bytes(data)
    for server in three:
        server.start()
    async with of_three(three) as nodes, opened(nodes, root, tmp_path / "state", NEVER) as fs:
        assert await fs.names() == {b"a", b"b"}
        assert "was seen before" in caplog.text
        await fs.write("c", b"3")
        with pytest.raises(PendingError):
            await fs.tree.drain(1.0)
        assert "was seen before" in fs.tree.status().items[0].reason
    async with of_three(three) as nodes, opened(nodes, root, tmp_path / "another", NEVER) as fs:
        assert await fs.names() == {b"a"}


async def test_a_file_that_arrives_while_its_directory_is_removed_is_kept(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory was seen empty when it was removed; that a reading under way brings a newer version is too late."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.mkdir("dir")
        await agree(here, there)
        directory = await here.find("dir")
        await there.write("dir/file", b"x")
        await there.drain()
        read = here.tree.newest

        async def read_and_remove(folder: Folder) -> Snapshot:
            found = await read(folder)
            if folder.inode is directory and directory.nlink > 0:
                await here.tree.names.rmdir(ROOT, b"dir")
            return found

        with monkeypatch.context() as while_reading:
            while_reading.setattr(here.tree, "newest", read_and_remove)
            await here.names("dir")
        assert directory.nlink <= 0
        assert await agree(here, there) == {b"dir", b"dir/file"}


async def test_a_directory_is_removed_while_somebody_looks_above_what_was_published_in_it(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """All that is above comes back, however many of them others removed."""
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        for path in ("a", "a/b", "a/b/c"):
            await here.mkdir(path)
        await agree(here, there)
        c = await here.find("a/b/c")
        await attach(here.tree, c.ino, b"new", caps_to_attach(LiteralCap(b"new").to_bytes()))
        for path in ("a/b/c", "a/b", "a"):
            await there.rmdir(path)
        await there.drain()
        for inode in (c, await here.find("a/b")):  # its times are in the directory above
            assert inode.folder is not None
            await here.tree.publisher._directory_publisher.publish(inode.folder, late=True)
        here.tree.inode(ROOT).folder.checked = float("-inf")  # type: ignore[union-attr]
        here.tree.options = replace(here.tree.options, refresh=0.0)
        assert await here.names() == set()
        await here.tree.look_above(c)
        await here.drain()
        assert b"a/b/c/new" in await agree(here, there)
