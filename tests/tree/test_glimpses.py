"""Files of which there is only a glimpse: references of the kernel are never miscounted, nobody sees anything old."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from lafsfs.errors import LafsError
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree import trimming
from lafsfs.tree.glimpses import NOWHERE, Glimpse
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.kernel import NoKernel
from lafsfs.tree.links import Link
from lafsfs.tree.namespace import RENAME_EXCHANGE
from lafsfs.tree.options import TreeOptions
from tests.support.pairs import NEVER, both, look_again
from tests.support.trees import Files, new_root, opened

LAZY = TreeOptions(publish_delay=3600.0, refresh=3600.0, label="test")


class Listing:
    """What the kernel was told of by listings of a tree, and how often."""

    def __init__(self, fs: Files) -> None:
        self.fs = fs
        self.references: Counter[int] = Counter()

    async def list(self, path: str = "") -> dict[bytes, int]:
        """List a directory as readdirplus does: names and inode numbers."""
        tree = self.fs.tree
        folder = await tree.folder((await self.fs.find(path)).ino)
        found: dict[bytes, int] = {}
        for _, name, number in folder.after(2):
            glimpsed = tree.glimpse(folder, name, number) if tree.inodes.get(number) is None else None
            if glimpsed is not None:
                tree.inodes.glimpsed(*glimpsed)
                found[name] = glimpsed[0]
            else:
                inode = tree.resolve(folder, name)
                assert inode is not None
                inode.lookups += 1
                found[name] = inode.ino
            self.references[found[name]] += 1
        return found

    async def look_up(self, path: str) -> int:
        """Ask for a name as the kernel does; its number."""
        tree = self.fs.tree
        directory, _, name = os.fsencode(path).rpartition(b"/")
        above = await self.fs.find(directory)
        await tree.folder(above.ino)
        glimpsed = tree.names.glimpse(above.ino, name)
        if glimpsed is not None:
            tree.inodes.glimpsed(*glimpsed)
            self.references[glimpsed[0]] += 1
            return glimpsed[0]
        inode = await tree.names.lookup(above.ino, name)
        inode.lookups += 1
        self.references[inode.ino] += 1
        return inode.ino

    def forget(self, number: int) -> None:
        """The kernel gives up what listings and lookups told it of a file."""
        self.fs.tree.forget(number, self.references.pop(number))

    def check(self) -> None:
        """All references are known, and every directory knows how many names in it are."""
        inodes = self.fs.tree.inodes
        for number, count in (self.references + self.fs._lookups).items():
            inode, glimpse = inodes.get(number), inodes.glimpse(number)
            assert inode is None or glimpse is None
            known = inode.lookups if inode is not None else glimpse.lookups if glimpse is not None else 0
            assert known == count + (number == ROOT)
        anchors = Counter(directory for inode in inodes for directory, _ in inode.links)
        anchors.update(glimpse.directory for glimpse in _glimpses(self.fs).values())
        del anchors[NOWHERE]
        guarded = Counter(inode.ino for inode in self.fs.tree.guard._since)
        removed = Counter({inode.ino: inode.anchors for inode in inodes if inode.nlink <= 0})
        for inode in inodes:
            if inode.is_dir and inode.ino not in removed:
                assert inode.anchors == anchors[inode.ino] + guarded[inode.ino]


def _glimpses(fs: Files) -> dict[int, Glimpse]:
    return fs.tree.inodes._glimpses


async def many(fs: Files, count: int, size: int = 100) -> None:
    """Files on the grid, known to nobody."""
    await fs.mkdir("d")
    for number in range(count):
        await fs.write(f"d/{number}", b"%d " % number * size)
    await fs.drain()


async def test_a_listing_keeps_glimpses(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a", LAZY) as fs:
        await many(fs, 10)
        await fs.setxattr("d/3", b"user.x", b"y")
        await fs.link("d/4", "d/other")
        await fs.drain()
    async with opened(nodes, root, tmp_path / "b", LAZY) as fs:
        listing = Listing(fs)
        first = await listing.list("d")
        assert set(_glimpses(fs)) == {first[b"%d" % number] for number in (0, 1, 2, 5, 6, 7, 8, 9)}
        assert first[b"4"] == first[b"other"]
        assert await listing.list("d") == first
        listing.check()
        for number in range(10):
            shown = await fs.find(f"d/{number}")
            assert shown.ino == first[b"%d" % number]
            assert await fs.read(f"d/{number}") == b"%d " % number * 100
        assert not _glimpses(fs)
        listing.check()
        for number in set(first.values()):
            listing.forget(number)
        fs.forget()
        listing.check()
        assert not _glimpses(fs)
        assert all(inode.is_dir or inode.nlink == 2 for inode in fs.tree.inodes)


async def test_forgotten_glimpses_let_go_of_their_directory(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a", LAZY) as fs:
        await many(fs, 5)
    async with opened(nodes, root, tmp_path / "b", LAZY) as fs:
        listing = Listing(fs)
        found = await listing.list("d")
        fs.forget()
        directory = (await fs.find("d")).ino
        fs.forget()
        assert fs.tree.inodes.get(directory) is not None
        for number in found.values():
            listing.forget(number)
        assert fs.tree.inodes.get(directory) is None
        assert len(fs.tree.inodes) == 1


async def test_what_is_in_use_is_not_reduced(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path, LAZY) as fs:
        await many(fs, 6)
        listing = Listing(fs)
        await fs.setxattr("d/1", b"user.x", b"y")
        await fs.link("d/2", "d/two")
        await fs.symlink(b"0", "d/link")
        await fs.drain()
        handle = await fs.open("d/3")
        await fs.write("d/4", b"new")
        inodes = {name: await fs.find(f"d/{name}") for name in ("0", "1", "2", "3", "4", "5", "link")}
        reduced = {name for name, inode in inodes.items() if fs.tree.reduce(inode)}
        assert reduced == {"0", "5", "link"}
        assert not fs.tree.reduce(await fs.find("d"))
        listing.check()
        assert await fs.readlink("d/link") == b"0"
        assert await listing.look_up("d/5") == inodes["5"].ino
        assert fs.tree.inodes.is_glimpsed(inodes["5"].ino)
        await fs.set("d/5", mode=0o600)
        assert (await fs.find("d/5")).attributes.mode == 0o100600
        await fs.close(handle)
        listing.check()


async def test_an_operation_that_still_has_a_reduced_inode(nodes: NodeMaker, tmp_path: Path) -> None:
    async with opened(nodes, await new_root(nodes), tmp_path, LAZY) as fs:
        await many(fs, 2)
        inode = await fs.find("d/1")
        listing = Listing(fs)
        assert fs.tree.reduce(inode)
        await fs.tree.files.truncate(inode, 3)
        assert await fs.read("d/1") == b"1 1"
        listing.check()


class Recorder(NoKernel):
    """A kernel that has everything and forgets what it is asked to."""

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self.contents: set[int] = set()
        self.names: list[Link] = []

    def inode_changed(self, ino: int, content: bool) -> None:
        """Note it."""
        if content:
            self.contents.add(ino)

    async def let_go(self, names: Sequence[Link]) -> None:
        """Forget."""
        self.names += names
        for directory, name in names:
            above = self.listing.fs.tree.inodes.get(directory)
            assert above is not None
            assert above.folder is not None
            number = above.folder.kids[name][1]
            if number in self.listing.references:
                self.listing.forget(number)


async def test_what_others_change_is_seen(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await many(there, 6)
        listing = Listing(here)
        here.tree.kernel = kernel = Recorder(listing)
        before = await listing.list("d")
        await there.replace("d/0", b"changed")
        await there.rename("d/1", "d/2", RENAME_EXCHANGE)
        await there.unlink("d/3")
        await there.rename("d/4", "d/moved")
        await there.drain()
        look_again(here)
        after = await listing.list("d")
        assert set(after) == {b"0", b"1", b"2", b"moved", b"5"}
        assert kernel.contents >= {before[b"%d" % number] for number in range(5)}
        listing.check()
        assert await here.read("d/0") == b"changed"
        assert await here.read("d/1") == b"2 " * 100
        assert await here.read("d/2") == b"1 " * 100
        assert await here.read("d/moved") == b"4 " * 100
        listing.check()
        with pytest.raises(OSError, match="Stale"):
            here.tree.inode(before[b"3"])
        for number in list(listing.references):
            listing.forget(number)
        here.forget()
        listing.check()


async def test_two_files_with_one_number(nodes: NodeMaker, tmp_path: Path) -> None:
    """Somebody copied entries, numbers included, as tools that know nothing of them do."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a", LAZY) as fs:
        await many(fs, 2)
        await fs.mkdir("e")
        await fs.drain()
        one = (await fs.find("d")).folder
        two = (await fs.find("e")).folder
        assert one is not None
        assert two is not None
        for folder, stored in (one, "copy"), (two, "0"):
            raw = one.base_raw(b"0")
            assert raw is not None
            assert folder.snapshot is not None
            assert folder.node is not None
            packed = folder.snapshot.packed.with_changes(
                {stored: raw.replace(b"1:0,", b"%d:%s," % (len(stored), stored.encode()), 1)}
            )
            folder.replace(await folder.node.publish(folder.snapshot, packed))
    async with opened(nodes, root, tmp_path / "b", LAZY) as fs:
        listing = Listing(fs)
        numbers = [*(await listing.list("d")).values(), *(await listing.list("e")).values()]
        assert len(set(numbers)) == 4
        listing.check()
        for path in "d/0", "d/copy", "e/0":
            assert await fs.read(path) == b"0 " * 100
        listing.check()


async def test_directories_are_read_again(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names beyond the limit are forgotten, by the kernel first."""
    monkeypatch.setattr(trimming, "KNOWN", 20)
    monkeypatch.setattr(trimming, "NAMES", 15)
    monkeypatch.setattr(trimming, "_IDLE", 0.0)
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a", LAZY) as fs:
        for directory in range(6):
            await fs.mkdir(f"d{directory}")
            for number in range(10):
                await fs.write(f"d{directory}/{number}", b"%d" % directory * 70)
        await fs.drain()
    async with opened(nodes, root, tmp_path / "b", LAZY) as fs:
        listing = Listing(fs)
        fs.tree.kernel = kernel = Recorder(listing)
        for directory in range(6):
            await listing.list(f"d{directory}")
        handle = await fs.open("d1/3")
        fs.forget()
        with trio.fail_after(20):
            while len(fs.tree.inodes) > 20 or _names(fs) > 25:  # noqa: ASYNC110
                await trio.sleep(0.05)
        listing.check()
        assert len(kernel.names) >= 40
        assert await fs.pread(handle, 100, 0) == b"1" * 70
        await fs.close(handle)
        for directory in range(6):
            assert len(await listing.list(f"d{directory}")) == 10
            assert await fs.read(f"d{directory}/7") == b"%d" % directory * 70
        listing.check()


def _names(fs: Files) -> int:
    return sum(len(inode.folder) for inode in fs.tree.inodes if inode.folder is not None)


async def test_inodes_become_glimpses(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "WHOLE", 10)
    monkeypatch.setattr(trimming, "_IN_A_ROW", 5)
    async with opened(nodes, await new_root(nodes), tmp_path, LAZY) as fs:
        await many(fs, 40)
        listing = Listing(fs)
        with trio.fail_after(20):
            while fs.tree.inodes.whole > 15:  # noqa: ASYNC110
                await trio.sleep(0.05)
        listing.check()
        for number in range(40):
            assert await fs.read(f"d/{number}") == b"%d " % number * 100
        listing.check()


@pytest.mark.parametrize("seed", range(4))
async def test_at_random(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, seed: int) -> None:
    """Whatever both sides do, every reference of the kernel is accounted for, and all is read as it is."""
    chance = random.Random(seed)
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await many(there, 6, 40)
        listing = Listing(here)
        here.tree.kernel = Recorder(listing)
        for _ in range(120):
            await _step(chance, here, there, listing)
            listing.check()
        await here.drain()
        await there.drain()
        await here.drain()
        look_again(here)
        look_again(there)
        names = await there.names("d")
        assert set(await listing.list("d")) == names
        for name in names:
            path = os.fsdecode(b"d/" + name)
            assert await here.read(path) == await there.read(path)
        listing.check()


async def _step(chance: random.Random, here: Files, there: Files, listing: Listing) -> None:
    path, other = (f"d/{chance.randrange(8)}" for _ in range(2))
    what = chance.randrange(12)
    fs = there if what < 4 else here
    try:
        if what in (0, 4):
            await fs.write(path, chance.randbytes(5))
        elif what in (1, 5):
            await fs.unlink(path)
        elif what in (2, 6):
            await fs.rename(path, other, chance.choice((0, RENAME_EXCHANGE)))
        elif what in (3, 7):
            await fs.drain()
        elif what == 8:
            await listing.list("d")
        elif what == 9:
            await listing.look_up(path)
        elif what == 10:
            here.forget()
            if listing.references:
                listing.forget(chance.choice(sorted(listing.references)))
        else:
            _reduce_all(here)
    except (OSError, LafsError):
        return  # no such name, or others were quicker


def _reduce_all(fs: Files) -> None:
    inodes: list[Inode] = list(fs.tree.inodes)
    for inode in inodes:
        fs.tree.reduce(inode)
