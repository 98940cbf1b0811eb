"""Subtrees become immutable directories; names are taken away without what they lead to."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from lafsfs.errors import BadCapError, BusyError, NotEnoughServersError, PendingError, UsageError
from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, MutableWriteCap, parse
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.attaching import detach
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.seal_subtree import seal
from tests.support.errnos import refused
from tests.support.storage import StorageServer
from tests.support.trees import (
    EAGER,
    IDLE,
    CrashPoints,
    Files,
    errno_of_lafs,
    left_in,
    new_root,
    opened,
)


async def fill(fs: Files, nodes: NodeMaker) -> None:
    """A directory `top` with something of every kind that can be sealed."""
    for name in ("top", "top/a", "top/a/b", "top/empty", "beside"):
        await fs.mkdir(name)
    await fs.write("top/small", b"literal")
    await fs.write("top/a/large", os.urandom(100_000))
    await fs.write("top/a/b/deep", b"d" * 100)
    await fs.symlink(b"a/large", "top/link")
    await fs.make("top/fifo", stat.S_IFIFO | 0o600)
    await fs.write(b"top/raw \xff", b"not UTF-8")
    await fs.set("top/a/b/deep", mode=0o640, mtime=1_234_567_890_123_456_789)
    await fs.setxattr("top/a/b/deep", b"user.x", b"1")
    await fs.write("beside/file", b"b" * 100)
    for name, mdmf in (("sdmf", False), ("mdmf", True)):
        cap = (await nodes.create_mutable(b"mutable" * 30_000, mdmf)).cap
        await fs.attach(f"top/a/{name}", cap.to_bytes())
    await fs.attach("top/future", b"imm.future:1")


async def everything_readable(fs: Files) -> dict[bytes, object]:
    """What is in the tree, but for the unknown capability (which nobody can read) and what only sealing changes."""
    parent, name = await fs._above("top/future")
    hidden = (await fs.tree.folder(parent.ino)).kids.get(name)
    assert hidden is not None
    found = {}
    for path in sorted(await paths(fs)):
        inode = await fs.find(path)
        content = b""
        if inode.is_dir or path == b"top/future":
            pass
        elif stat.S_ISLNK(inode.attributes.mode):
            content = await fs.readlink(path)
        else:
            content = await fs.read(path)
        a = inode.attributes
        found[path] = (a.mode, a.size, a.mtime, inode.nlink, inode.ino, inode.xattrs, content)
    return found


async def paths(fs: Files, top: bytes = b"") -> set[bytes]:
    found = set()
    for name in await fs.names(top):
        below = top + b"/" + name if top else name
        found.add(below)
        if (await fs.find(below)).is_dir:
            found |= await paths(fs, below)
    return found


async def seal_at(fs: Files, path: str) -> DirCap:
    with trio.fail_after(60):
        return (await seal(fs.tree, await fs.find(path)))[0]


async def check_immutable(nodes: NodeMaker, cap: DirCap) -> int:
    """All below is immutable; how many objects there are."""
    assert not cap.is_mutable
    count = 1
    snapshot = await nodes.directory(cap).read()
    for name in snapshot.packed.names():
        entry = snapshot.packed.get(name)
        assert entry is not None
        assert entry.rwdata == b""
        child = parse(entry.ro_uri, deep_immutable=True)
        if isinstance(child, DirCap):
            count += await check_immutable(nodes, child)
        else:
            count += 1
            assert entry.ro_uri == b"imm.future:1"[4:] or isinstance(child, ChkCap | LiteralCap)
    return count


async def test_everything_stays_but_the_right_to_change_it(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fill(fs, other_nodes)
        before = await everything_readable(fs)
        handle = await fs.open("top/a/large")
        mutable = await fs.open("top/a/mdmf")
        assert await fs.pread(mutable, 7, 0) == b"mutable"
        cap = await seal_at(fs, "top")
        assert await fs.pread(handle, 10, 50_000) == before[b"top/a/large"][6][50_000:50_010]  # type: ignore[index]
        assert await fs.pread(mutable, 7, 7) == b"mutable"
        assert await everything_readable(fs) == before
        assert await check_immutable(other_nodes, cap) == 13
        for path in ("top", "top/a", "top/a/b"):
            with refused(errno.EROFS):
                await fs.create(f"{path}/new")
        for path in ("top/a/large", "top/a/mdmf", "top/small"):
            with refused(errno.EROFS):
                await fs.open(path, os.O_WRONLY)
            with refused(errno.EROFS):
                await fs.set(path, mode=0o600)
        await fs.close(handle)
        await fs.close(mutable)
    async with opened(nodes, root, tmp_path / "one") as fs:  # from the journal
        assert (await fs.tree.caps_at(b"top")) == (b"", cap.to_bytes())
        assert await everything_readable(fs) == before
        await fs.rename("top", "beside/sealed")
        await fs.drain()
        assert left_in(fs.tree) == []
    async with opened(other_nodes, root, tmp_path / "two", EAGER) as fs:
        assert await fs.read("beside/sealed/a/b/deep") == b"d" * 100
        again, done = await seal(fs.tree, await fs.find("beside/sealed"))
        assert again == cap
        assert done.counts == (0, 0)


async def test_what_was_sealed_twice_is_the_same(nodes: NodeMaker, tmp_path: Path) -> None:
    """The same content gives the same capability, whoever seals it."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fs.mkdir("a")
        await fs.write("a/file", b"x" * 100)
        await fs.drain()
        original = (await fs.tree.caps_at(b"a"))[0]
        first = await seal_at(fs, "a")
        await fs.attach("b", original)
        assert await seal_at(fs, "b") == first


async def test_empty_and_small_directories_are_literals(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        await fs.mkdir("empty")
        assert await seal_at(fs, "empty") == DirCap(LiteralCap(b""))
        assert await fs.names("empty") == set()
        with refused(errno.EROFS):
            await fs.mkdir("empty/new")
        await fs.rmdir("empty")
        await fs.drain()
        assert await fs.names() == set()


async def test_somebody_elses_read_only_directory(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """It can be read, so it can be sealed here: what he changes later is not seen any more."""
    theirs = await new_root(other_nodes)
    async with opened(other_nodes, theirs, tmp_path / "theirs") as fs:
        await fs.write("file", b"1" * 100)
        await fs.drain()
        async with opened(nodes, await new_root(nodes), tmp_path / "ours") as ours:
            await ours.attach("copy", theirs.read_cap().to_bytes())
            await seal_at(ours, "copy")
            await fs.replace("file", b"2" * 100)
            await fs.drain()
            assert await ours.read("copy/file") == b"1" * 100


async def test_files_with_several_names(nodes: NodeMaker, tmp_path: Path) -> None:
    """Each name that is sealed becomes a file of its own; the others go on."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fs.mkdir("top")
        await fs.write("top/one", b"before" * 20)
        await fs.link("top/one", "top/two")
        await fs.link("top/one", "outside")
        await fs.write("top/x", b"x" * 100)
        await fs.link("top/x", "top/y")
        await fs.drain()
        await seal_at(fs, "top")
        assert (await fs.find("outside")).nlink == 1
        assert {(await fs.find(f"top/{name}")).nlink for name in ("one", "two", "x", "y")} == {1}
        numbers = {(await fs.find(name)).ino for name in ("outside", "top/one", "top/two", "top/x", "top/y")}
        assert len(numbers) == 5
        await fs.replace("outside", b"after" * 20)
        await fs.drain()
        assert left_in(fs.tree) == []
        assert await fs.read("top/two") == b"before" * 20
    async with opened(nodes, root, tmp_path / "two") as fs:
        assert await fs.read("outside") == b"after" * 20
        assert await fs.read("top/one") == await fs.read("top/two") == b"before" * 20
        assert await fs.read("top/x") == await fs.read("top/y") == b"x" * 100
        assert (await fs.find("outside")).nlink == 1
        links = (await fs.tree.folder(ROOT)).kids.get(b".lafsfs-links")
        assert links is not None
        assert (await fs.tree.folder((await fs.find(b"")).ino)).hidden == {b".lafsfs-links"}


async def test_what_cannot_be_sealed(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        for name in ("top", "top/a"):
            await fs.mkdir(name)
        await fs.write("top/file", b"x")
        await fs.attach("top/a/future", b"ro.future:1")
        top = await fs.find("top")
        with pytest.raises(UsageError, match="root"):
            await seal(fs.tree, fs.tree.inode(ROOT))
        with pytest.raises(UsageError, match="only a directory"):
            await seal(fs.tree, await fs.find("top/file"))
        with pytest.raises(BadCapError, match="top/a/future"):
            await seal(fs.tree, top)
        await fs.unlink("top/a/future")
        handle = await fs.open("top/file", os.O_RDWR)
        with pytest.raises(BusyError, match="top/file"):
            await seal(fs.tree, top)
        await fs.close(handle)
        await fs.write("top/file", b"still writable")
        fs.tree.freeze()
        with refused(errno.EROFS), errno_of_lafs():
            await seal(fs.tree, top)
        fs.tree.thaw()
        assert isinstance(await seal_at(fs, "top"), DirCap)


async def test_a_directory_inside_itself(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        await fs.mkdir("top")
        await fs.mkdir("other")
        await fs.drain()
        top, other = [(await fs.tree.caps_at(name))[0] for name in (b"top", b"other")]
        await fs.attach("top/other", other)
        await fs.drain()
        await fs.attach("other/top", top)
        await fs.drain()
        with pytest.raises(BadCapError, match="inside itself"):
            await seal(fs.tree, await fs.find("top"))


async def test_servers_that_are_gone(nodes: NodeMaker, three: list[StorageServer], tmp_path: Path) -> None:
    """Nothing happens, and the directory can be changed again."""
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        await fs.mkdir("top")
        await fs.write("top/file", b"x" * 100)
        top = await fs.find("top")
        three[0].stop()
        with pytest.raises(PendingError):
            await seal(fs.tree, top, timeout=0.5)
        await fs.write("top/file", b"y" * 100)
        three[0].start()
        await fs.drain()
        three[0].stop()
        with pytest.raises(NotEnoughServersError):
            await seal(fs.tree, top, timeout=30)
        three[0].start()
        await fs.write("top/more", b"z")
        await fs.drain()
        assert await fs.names("top") == {b"file", b"more"}


async def test_changes_while_it_is_sealed(nodes: NodeMaker, tmp_path: Path) -> None:
    """What programs do meanwhile is either in it or refused."""
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        await fs.mkdir("top")
        await fs.mkdir("top/a")
        done: list[bytes] = []
        refusals: list[int | None] = []

        async def write_on() -> None:
            for number in range(10_000):
                try:
                    await fs.write(f"top/a/{number}", b"%d" % number * 30)
                except OSError as problem:
                    refusals.append(problem.errno)
                    return
                done.append(b"%d" % number)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_on)
            while True:
                try:
                    await seal_at(fs, "top")
                    break
                except BusyError:
                    await trio.lowlevel.checkpoint()
        assert refusals == [errno.EROFS]
        assert await fs.names("top/a") == set(done)
        for name in done:
            assert await fs.read(b"top/a/" + name) == name * 30


@pytest.mark.parametrize("number", [1, 2, 3, 5])
async def test_a_death_around_the_first_commits(nodes: NodeMaker, tmp_path: Path, number: int) -> None:
    """The directory is as it was, or immutable; never anything else."""
    root = await new_root(nodes)
    commits = CrashPoints(tmp_path / "state", tmp_path / "copy", number, lambda step: "commit" in step)
    commits.paused = True
    with commits.armed():
        async with opened(nodes, root, tmp_path / "state") as fs:
            await fs.mkdir("top")
            await fs.mkdir("top/a")
            await fs.write("top/a/file", b"x" * 100)
            await fs.link("top/a/file", "other")
            await fs.drain()
            commits.paused = False
            await seal_at(fs, "top")
            await fs.drain()
    assert commits.dead
    async with opened(nodes, root, tmp_path / "copy") as fs:
        assert await fs.read("top/a/file") == await fs.read("other") == b"x" * 100
        await fs.drain()
        assert left_in(fs.tree) == []
        cap = parse((await fs.tree.caps_at(b"top"))[1])
        assert isinstance(cap, DirCap)
        assert (await fs.find("top/a/file")).nlink == (await fs.find("other")).nlink == 1 + cap.is_mutable


async def test_what_another_mount_had_not_published_is_kept_beside(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await new_root(nodes)
    options = replace(IDLE, refresh=0.0)
    async with (
        opened(nodes, root, tmp_path / "here", options) as here,
        opened(other_nodes, root, tmp_path / "there", options) as there,
    ):
        await here.mkdir("top")
        await here.write("top/before", b"1" * 100)
        await here.drain()
        await there.write("top/late", b"2" * 100)
        cap = await seal_at(here, "top")
        await here.drain()
        await there.drain()
        assert left_in(there.tree) == []
        (conflict,) = there.tree.conflicts
        for fs in (here, there):
            assert await fs.names("top") == {b"before"}
            assert await fs.names(conflict) == {b"before", b"late"}
            assert await fs.read(f"{conflict}/late") == b"2" * 100
            assert (await fs.tree.caps_at(b"top")) == (b"", cap.to_bytes())


# --- detach ----------------------------------------------------------------------------------------------


async def detach_at(fs: Files, path: str) -> None:
    parent, name = await fs._above(path)
    await detach(fs.tree, parent.ino, name, 30)


async def test_a_name_goes_and_the_object_stays(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await new_root(nodes)
    theirs = await new_root(other_nodes)
    async with opened(other_nodes, theirs, tmp_path / "theirs") as fs:
        await fs.mkdir("dir")
        await fs.write("dir/file", b"1" * 100)
        await fs.drain()
    async with opened(nodes, root, tmp_path / "one") as fs:
        file = await nodes.create_mutable(b"mutable", mdmf=False)
        for name, cap in (("rw", theirs), ("ro", theirs.read_cap()), ("file", file.cap)):
            await fs.attach(name, cap.to_bytes())
        assert await fs.read("ro/dir/file") == b"1" * 100
        await fs.write("rw/dir/new", b"2" * 100)
        handle = await fs.open("rw/dir/file", os.O_RDWR)
        with pytest.raises(BusyError):
            await detach_at(fs, "rw")
        await fs.close(handle)
        for name in ("rw", "ro", "file"):
            await detach_at(fs, name)
        with refused(errno.ENOENT):
            await detach_at(fs, "rw")
        assert await fs.names() == set()
        assert (await fs.find("")).nlink == 2
        await fs.drain()
        assert left_in(fs.tree) == []
    async with opened(nodes, root, tmp_path / "two") as fs:
        assert await fs.names() == set()
    async with opened(other_nodes, theirs, tmp_path / "again") as fs:
        assert await fs.read("dir/new") == b"2" * 100
    assert isinstance(file.cap, MutableWriteCap)
    assert await other_nodes.mutable_file(file.cap).read(0, 10) == b"mutable"


async def test_new_directories_are_published_before_their_name_goes(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        await fs.mkdir("new")
        await fs.write("new/file", b"x" * 100)
        before = await fs.find("new")
        await detach_at(fs, "new")
        assert before.caps is not None
        cap = parse(before.caps[0])
        assert isinstance(cap, DirCap)
        assert list((await nodes.directory(cap).read()).packed.names()) == ["file"]
        await fs.attach("back", cap.to_bytes())
        assert await fs.read("back/file") == b"x" * 100
