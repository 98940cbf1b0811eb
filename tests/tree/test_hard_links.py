"""Files with several names: one file everywhere and always (contrib/doc/adr/hard-links.md)."""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from lafsfs.formats.caps import DirCap, LiteralCap
from lafsfs.formats.dirnode import Entry, make_entry, parse_metadata
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Directory, Snapshot
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.directories import LINKS_DIRECTORY
from lafsfs.tree.inodes import ROOT
from tests.support.errnos import refused
from tests.support.trees import EAGER, IDLE, Files, left_in, new_root, opened


class Mounts:
    """One root after the other opening of it; every one but those with the same `state` knows only the grid."""

    def __init__(self, nodes: NodeMaker, root: DirCap, directory: Path) -> None:
        self._nodes, self._root, self._directory = nodes, root, directory
        self._count = 0

    @asynccontextmanager
    async def next(self, state: str | None = None) -> AsyncIterator[Files]:
        self._count += 1
        where = self._directory / (state or f"state{self._count}")
        async with opened(self._nodes, self._root, where, IDLE) as fs:
            yield fs
            await fs.drain()


@pytest.fixture
async def mounts(nodes: NodeMaker, tmp_path: Path) -> Mounts:
    """A tree with a file of two names, a/x and b/x, in two directories."""
    made = Mounts(nodes, await new_root(nodes), tmp_path)
    async with made.next() as fs:
        await fs.mkdir("a")
        await fs.mkdir("b")
        await fs.write("a/x", b"first content" * 100)
        await fs.link("a/x", "b/x")
    return made


def anchors(fs: Files) -> int:
    """How many files have a state of their own in the hidden directory."""
    root = fs.tree.inode(ROOT).folder
    assert root is not None
    if LINKS_DIRECTORY not in root.kids:
        return 0
    hidden = fs.tree.resolve(root, LINKS_DIRECTORY)
    assert hidden is not None
    assert hidden.folder is not None
    return len(hidden.folder.kids)


async def both(fs: Files, first: str, second: str) -> None:
    one, two = await fs.find(first), await fs.find(second)
    assert one is two
    assert one.nlink == 2


@pytest.mark.parametrize("order", [("a/x", "b/x"), ("b/x", "a/x")])
async def test_one_file_on_every_mount(mounts: Mounts, order: tuple[str, str]) -> None:
    async with mounts.next() as fs:
        await both(fs, *order)
    async with mounts.next() as fs:
        inode = await fs.find(order[0])
        assert inode.nlink == 2
        number = inode.ino
    async with mounts.next() as fs:
        assert (await fs.find(order[1])).ino == number


@pytest.mark.parametrize("state", [None, "same"])
@pytest.mark.parametrize("changed", ["a/x", "b/x"])
@pytest.mark.parametrize("first", ["a/x", "b/x"])
async def test_a_change_through_one_name_while_nobody_looked_at_the_other(
    mounts: Mounts, changed: str, first: str, state: str | None
) -> None:
    async with mounts.next(state) as fs:
        await fs.replace(changed, b"second content")
        await fs.set(changed, mode=0o600)
        await fs.setxattr(changed, b"user.a", b"1")
    async with mounts.next(state) as fs:
        assert await fs.read(first) == b"second content"
        inode = await fs.find(first)
        assert inode.attributes.mode & 0o777 == 0o600
        assert inode.xattrs == {b"user.a": b"1"}
        await both(fs, "a/x", "b/x")


async def test_changes_through_both_names_one_after_the_other(mounts: Mounts) -> None:
    for number, name in enumerate(("a/x", "b/x", "b/x", "a/x", "b/x")):
        async with mounts.next() as fs:
            expected = b"%d" % (number - 1) if number else b"first content" * 100
            assert await fs.read(name) == expected
            await fs.replace(name, b"%d" % number)
    async with mounts.next() as fs:
        assert await fs.read("a/x") == b"4"


@pytest.mark.parametrize("gone", ["a/x", "b/x"])
async def test_a_name_goes_while_nobody_looked_at_the_other(mounts: Mounts, gone: str) -> None:
    left = "b/x" if gone == "a/x" else "a/x"
    async with mounts.next() as fs:
        await fs.unlink(gone)
    async with mounts.next() as fs:
        assert (await fs.find(left)).nlink == 1
        assert await fs.read(left) == b"first content" * 100
        assert not await fs.exists(gone)
    async with mounts.next() as fs:
        assert (await fs.find(left)).nlink == 1
        assert anchors(fs) == 0
        await fs.unlink(left)


async def test_both_names_go_on_different_mounts(mounts: Mounts) -> None:
    for name in ("a/x", "b/x"):
        async with mounts.next() as fs:
            await fs.unlink(name)
    async with mounts.next() as fs:
        assert anchors(fs) == 0
        assert await fs.names("a") == await fs.names("b") == set()


async def test_an_only_name_needs_no_anchor(mounts: Mounts) -> None:
    async with mounts.next() as fs:
        await both(fs, "a/x", "b/x")
        assert anchors(fs) == 1
        await fs.unlink("a/x")
        assert anchors(fs) == 0
        await fs.link("b/x", "a/y")
        assert anchors(fs) == 1
        await fs.write("new", b"")
        await fs.rename("new", "b/x")
        assert anchors(fs) == 0


async def test_a_change_costs_no_more_when_there_are_more_names(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        await fs.mkdir("d")
        await fs.write("d/x", b"")
        costs = []
        for number in range(200):
            before = fs.tree.next_version()
            await fs.link("d/x", f"d/{number}")
            await fs.set("d/x", mode=0o600 + number % 2)
            costs.append(fs.tree.next_version() - before)
        for number in range(100):
            before = fs.tree.next_version()
            await fs.unlink(f"d/{number}")
            costs.append(fs.tree.next_version() - before)
        assert max(costs) < 10
        assert (await fs.find("d/150")).nlink == 101
        await fs.drain()
        before = fs.tree.next_version()
        await fs.set("d/x", mode=0o640)
        assert fs.tree.next_version() - before > 100  # the grid is told under all names
        await fs.drain()
        assert left_in(fs.tree) == []


@pytest.mark.parametrize("changed", ["mode", "content"])
async def test_a_change_while_all_names_are_published(
    mounts: Mounts, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    publish = Directory.publish
    changes = iter(range(6))

    async def change_first(self: Directory, base: Snapshot | None, packed: Packed) -> Snapshot:
        for number in islice(changes, 1):
            await change(number)
        return await publish(self, base, packed)

    async with mounts.next() as fs:

        async def change(number: int) -> None:
            if changed == "mode":
                await fs.set("a/x", mode=0o600 + number)
            else:
                await fs.replace("b/x", b"%d" % number)

        await fs.set("b/x", mode=0o644)
        monkeypatch.setattr(Directory, "publish", change_first)
        await fs.drain()
        await fs.drain()
        assert next(changes, None) is None
        assert left_in(fs.tree) == []
    for name in ("a/x", "b/x"):
        async with mounts.next() as fs:
            folder = await fs.tree.folder((await fs.find(name[0])).ino)
            raw = folder.base_raw(b"x")
            assert raw is not None
            seen = fs.tree.see(folder, raw)
            assert changed != "mode" or seen.attributes.mode & 0o777 == 0o605
            assert changed != "content" or await fs.read(name) == b"5"


async def test_renames_keep_names_together(mounts: Mounts) -> None:
    async with mounts.next() as fs:
        await fs.mkdir("c")
        await fs.rename("a/x", "c/y")
        await fs.rename("c", "d")
    async with mounts.next() as fs:
        await fs.replace("b/x", b"later")
    async with mounts.next() as fs:
        assert await fs.read("d/y") == b"later"
        await both(fs, "b/x", "d/y")


async def test_a_symlink_and_a_fifo_with_two_names(mounts: Mounts) -> None:
    async with mounts.next() as fs:
        await fs.symlink(b"target", "a/link")
        await fs.link("a/link", "b/link")
        await fs.make("a/fifo", 0o010644)
        await fs.link("a/fifo", "b/fifo")
    async with mounts.next() as fs:
        await fs.set("b/fifo", mode=0o600)
        await fs.set("b/link", mtime=5)
    async with mounts.next() as fs:
        assert (await fs.find("a/fifo")).attributes.mode == 0o010600
        assert (await fs.find("a/link")).attributes.mtime == 5
        assert await fs.readlink("a/link") == b"target"


async def test_what_keeps_the_states_is_not_shown(mounts: Mounts) -> None:
    hidden = LINKS_DIRECTORY.decode()
    async with mounts.next() as fs:
        assert await fs.names() == {b"a", b"b"}
        assert (await fs.find("")).nlink == 4
        assert not await fs.exists(hidden)
        for call in (lambda: fs.mkdir(hidden), lambda: fs.write(hidden, b""), lambda: fs.rename("a", hidden)):
            with refused(errno.EPERM):
                await call()
        with refused(errno.ENOENT):
            await fs.rmdir(hidden)


async def test_without_the_states_the_later_change_counts(mounts: Mounts, nodes: NodeMaker) -> None:
    async with mounts.next() as fs:
        await fs.replace("a/x", b"later")
    root = mounts._root
    directory = nodes.directory(root)
    snapshot = await directory.read()
    await directory.publish(snapshot, snapshot.packed.with_changes({LINKS_DIRECTORY.decode(): None}))
    async with mounts.next() as fs:
        assert await fs.read("b/x") == b"first content" * 100  # nothing tells it better
        assert await fs.read("a/x") == b"later"
        assert await fs.read("b/x") == b"later"
    async with mounts.next() as fs:
        assert await fs.read("b/x") == b"later"


async def test_content_that_another_client_puts_under_a_name_is_a_file_of_its_own(
    mounts: Mounts, nodes: NodeMaker
) -> None:
    async with mounts.next() as fs:
        ino = (await fs.find("b/x")).ino
        folder = await fs.tree.folder((await fs.find("b")).ino)
        assert folder.node is not None
        directory = folder.node
    snapshot = await directory.read()
    entry = Entry.parse(snapshot.packed.raw("x") or b"")
    metadata = parse_metadata(entry.metadata)
    assert metadata["lafsfs"]["nlink"] == 2
    metadata["tahoe"]["linkmotime"] += 1000.0
    later = round(metadata["tahoe"]["linkmotime"] * 1e9)
    cap = LiteralCap(b"by another client").to_bytes()
    raw = make_entry("x", cap, b"", json.dumps(metadata).encode(), directory.writekey)
    await directory.publish(snapshot, snapshot.packed.with_changes({"x": raw}))
    async with mounts.next() as fs:
        assert await fs.read("a/x") == b"first content" * 100
        assert await fs.read("b/x") == b"by another client"
        other = await fs.find("b/x")
        assert other.ino != ino
        assert other.nlink == 1
        assert other.attributes.mtime == pytest.approx(later, abs=1000)


async def test_two_mounts_at_once(
    mounts: Mounts, nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    root = mounts._root
    async with (
        opened(nodes, root, tmp_path / "one", EAGER) as one,
        opened(other_nodes, root, tmp_path / "two", EAGER) as two,
    ):
        assert await one.read("a/x") == await two.read("b/x")
        one.forget()
        two.forget()
        await one.replace("a/x", b"from one")
        await one.drain()
        assert await two.read("b/x") == b"from one"
        two.forget()
        one.forget()
        await two.replace("b/x", b"from two")
        await two.drain()
        assert await one.read("a/x") == b"from two"


async def test_two_mounts_make_their_first_links_at_once(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "zero") as fs:
        for name in ("one", "two"):
            await fs.mkdir(name)
            await fs.mkdir(name + "/below")
        await fs.drain()
    slow = replace(IDLE, refresh=0.0)
    async with (
        opened(nodes, root, tmp_path / "one", slow) as one,
        opened(other_nodes, root, tmp_path / "two", slow) as two,
    ):
        for fs, name in ((one, "one"), (two, "two")):
            await fs.write(f"{name}/x", name.encode())
            await fs.link(f"{name}/x", f"{name}/below/x")
        await one.drain()
        await two.drain()
        for fs, name in ((one, "one"), (two, "two")):
            await fs.replace(f"{name}/x", b"new " + name.encode())
            await fs.drain()
    async with opened(nodes, root, tmp_path / "three") as fs:
        assert await fs.names() == {b"one", b"two"}
        for name in ("one", "two"):
            assert await fs.read(f"{name}/below/x") == b"new " + name.encode()
            await both(fs, f"{name}/x", f"{name}/below/x")
        assert anchors(fs) == 2
