"""What new files and directories become on the grid."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, MutableWriteCap, parse
from lafsfs.formats.packed import Packed
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.new_files import ATTRIBUTE
from tests.support.errnos import refused
from tests.support.trees import EAGER, IDLE, CrashPoints, Files, left_in, new_root, opened

DATA = bytes(range(256)) * 2000
"""Four segments of an MDMF file."""


async def cap_at(fs: Files, path: str) -> object:
    caps = await fs.tree.caps_at(path.encode())
    return parse(caps[0] or caps[1])


async def kind_at(fs: Files, path: str) -> str:
    inode = await fs.find(path)
    return (await fs.tree.cap_attributes.get(inode, b"user.lafs.kind", owner=True)).decode()


async def test_the_mount_decides(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    for form, kind in (("chk", "CHK"), ("sdmf", "SSK"), ("mdmf", "MDMF")):
        options = replace(IDLE, new_files=form)
        async with opened(nodes, root, tmp_path / form, options) as fs:
            await fs.write(form, DATA)
            await fs.symlink(b"t" * 100, f"{form}-link")
            await fs.make(f"{form}-fifo", 0o010600)
            await fs.drain()
            assert left_in(fs.tree) == []
            assert await kind_at(fs, form) == kind
            assert isinstance(await cap_at(fs, f"{form}-link"), ChkCap)
            assert isinstance(await cap_at(fs, f"{form}-fifo"), LiteralCap)
    async with opened(nodes, root, tmp_path / "again") as fs:
        for form in ("chk", "sdmf", "mdmf"):
            assert await fs.read(form) == DATA


async def test_a_directory_decides_for_what_is_in_it(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fs.mkdir("dir")
        await fs.mkdir("dir/before")
        await fs.setxattr("dir", ATTRIBUTE, b"mdmf")
        await fs.mkdir("dir/after")
        await fs.mkdir("dir/after/deep")
        await fs.setxattr("dir/after", ATTRIBUTE, b"chk")
        for name in ("file", "dir/file", "dir/before/file", "dir/after/file", "dir/after/deep/file"):
            await fs.write(name, DATA)
        await fs.drain()
    async with opened(nodes, root, tmp_path / "two") as fs:
        kinds = {name: await kind_at(fs, name) for name in ("file", "dir/file", "dir/before/file")}
        assert kinds == {"file": "CHK", "dir/file": "MDMF", "dir/before/file": "CHK"}
        assert await kind_at(fs, "dir/after/file") == "CHK"
        assert await kind_at(fs, "dir/after/deep/file") == "MDMF"
        assert (await fs.find("dir/after/deep")).xattrs == {ATTRIBUTE: b"mdmf"}
        for name in ("dir/file", "dir/after/deep/file"):
            assert await fs.read(name) == DATA


async def test_values_of_the_attribute(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        await fs.mkdir("dir")
        await fs.write("file", b"")
        for path, value in (("dir", b"ssk"), ("dir", b""), ("file", b"mdmf")):
            with refused(errno.EINVAL):
                await fs.setxattr(path, ATTRIBUTE, value)
        for value in (b"chk", b"sdmf", b"mdmf"):
            await fs.setxattr("dir", ATTRIBUTE, value)
            assert fs.tree.xattrs.names((await fs.find("dir")).xattrs, privileged=False) == [ATTRIBUTE]
        await fs.removexattr("dir", ATTRIBUTE)
        assert (await fs.find("dir")).xattrs is None


async def test_a_mutable_file_keeps_its_cap(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    """Through changes, a rename into a directory of another kind, and another mount."""
    root = await new_root(nodes)
    options = replace(IDLE, new_files="mdmf")
    async with opened(nodes, root, tmp_path / "one", options) as fs:
        await fs.write("file", DATA)
        await fs.mkdir("dir")
        await fs.setxattr("dir", ATTRIBUTE, b"chk")
        await fs.drain()
        cap = await cap_at(fs, "file")
        assert isinstance(cap, MutableWriteCap)
        await fs.write("file", b"patched", 300_000)
        await fs.rename("file", "dir/file")
        await fs.drain()
        assert await cap_at(fs, "dir/file") == cap
    expected = DATA[:300_000] + b"patched" + DATA[300_007:]
    async with opened(other_nodes, root, tmp_path / "two", EAGER) as fs:
        assert await fs.read("dir/file") == expected
        await fs.replace("dir/file", b"short")
        await fs.drain()
        assert await cap_at(fs, "dir/file") == cap
    async with opened(nodes, root, tmp_path / "one", options) as fs:
        assert await fs.read("dir/file") == b"short"


@pytest.mark.parametrize("size", [100, 100_000], ids=["in the journal", "in a log"])
async def test_written_while_it_is_being_made(nodes: NodeMaker, tmp_path: Path, size: int) -> None:
    """What is written during the first upload goes to the same file."""
    root = await new_root(nodes)
    made: list[bytes] = []
    async with opened(nodes, root, tmp_path / "one", replace(IDLE, new_files="mdmf")) as fs:
        create = nodes.create_mutable

        async def watched(data: object, mdmf: bool) -> object:
            node = await create(data, mdmf)  # type: ignore[arg-type]
            made.append(node.cap.to_bytes())
            await fs.pwrite(handle, b"later", size)
            return node

        nodes.create_mutable = watched  # type: ignore[method-assign, assignment]
        handle = await fs.create("file")
        await fs.pwrite(handle, b"x" * size, 0)
        await fs.close(handle)
        handle = await fs.open("file", os.O_WRONLY)
        with trio.fail_after(60):
            await fs.drain()
        await fs.close(handle)
        await fs.drain()
        assert made == [(await fs.tree.caps_at(b"file"))[0]]
        assert left_in(fs.tree) == []
        assert not fs.tree.conflicts
    async with opened(nodes, root, tmp_path / "two") as fs:
        assert await fs.read("file") == b"x" * size + b"later"


async def test_new_directories_follow_the_one_above(nodes: NodeMaker, tmp_path: Path) -> None:
    directory, _ = await nodes.create_directory(lambda _: Packed(), True)
    async with opened(nodes, directory.cap, tmp_path / "one") as fs:
        await fs.mkdir("a")
        await fs.mkdir("a/b")
        await fs.write("a/b/file", DATA)
        await fs.drain()
        assert await kind_at(fs, "a") == await kind_at(fs, "a/b") == "DIR2-MDMF"
        await fs.write("a/b/more", b"x" * 100)
        await fs.drain()
    async with opened(nodes, directory.cap, tmp_path / "two") as fs:
        assert await fs.names("a/b") == {b"file", b"more"}
    async with opened(nodes, await new_root(nodes), tmp_path / "three") as fs:
        await fs.mkdir("a")
        await fs.drain()
        assert isinstance(await cap_at(fs, "a"), DirCap)
        assert await kind_at(fs, "a") == "DIR2"


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7])
async def test_a_death_while_it_is_published(nodes: NodeMaker, tmp_path: Path, number: int) -> None:
    """The content is there whenever the process dies, once, and without a conflict."""
    root = await new_root(nodes)
    options = replace(IDLE, new_files="mdmf")
    commits = CrashPoints(tmp_path / "state", tmp_path / "copy", number, lambda step: "commit" in step)
    commits.paused = True
    with commits.armed():
        async with opened(nodes, root, tmp_path / "state", options) as fs:
            await fs.write("file", DATA)
            await fs.drain()
            await fs.write("file", b"again", 200_000)
            await fs.write("new", DATA)
            commits.paused = False
            await fs.drain()
    assert commits.dead
    async with opened(nodes, root, tmp_path / "copy", options) as fs:
        await fs.drain()
        assert left_in(fs.tree) == []
        assert not fs.tree.conflicts
        assert await fs.names() == {b"file", b"new"}
        assert await fs.read("new") == DATA
        assert await fs.read("file") == DATA[:200_000] + b"again" + DATA[200_005:]
        assert await kind_at(fs, "file") == await kind_at(fs, "new") == "MDMF"
