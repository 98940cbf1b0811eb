"""Nothing that is moved is ever unreachable on the grid, for an observer that walks from the root all the time."""

from __future__ import annotations

import random
from pathlib import Path

import trio

from lafsfs.formats.caps import DirCap, parse
from lafsfs.formats.dirnode import child_caps
from lafsfs.nodes.directory import Directory
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.namespace import RENAME_EXCHANGE
from lafsfs.tree.options import TreeOptions
from tests.support.pairs import NEVER
from tests.support.trees import Files, left_in, new_root, opened

QUICK = TreeOptions(publish_delay=0.0, refresh=3600.0)
FILES = [f"{number}" * 100 for number in range(4)]


class Walker:
    """Looks for caps in everything that the grid leads to from the root."""

    def __init__(self, nodes: NodeMaker, root: DirCap, wanted: set[bytes]) -> None:
        self._nodes, self._root, self._wanted = nodes, root, wanted
        self.walks = 0

    async def run(self) -> None:
        while True:
            await self.walk()

    async def walk(self) -> None:
        """One walk. What moves while it is under way may be missed, so what is missing is looked for again in the
        directories of which the versions did not change during a walk.
        """
        while True:
            before: dict[bytes, object] = {}
            found = await self._below(self._root, before)
            after: dict[bytes, object] = {}
            again = await self._below(self._root, after)
            if before == after and found == again:
                break
        assert self._wanted <= found, f"{len(self._wanted - found)} of {len(self._wanted)} are unreachable"
        self.walks += 1

    async def _below(self, cap: DirCap, versions: dict[bytes, object]) -> set[bytes]:
        directory = self._nodes.directory(cap)
        snapshot = await directory.read()
        versions[cap.to_bytes()] = snapshot.version
        found: set[bytes] = set()
        for child in _children(directory, snapshot.packed.names(), snapshot.packed):
            found.add(child)
            sub = parse(child)
            if isinstance(sub, DirCap) and child not in versions:
                found |= await self._below(sub, versions)
        return found


def _children(directory: Directory, names: object, packed: object) -> list[bytes]:
    return [
        child_caps(packed.get(name), directory.writekey, False).cap.to_bytes()  # type: ignore[attr-defined]
        for name in names  # type: ignore[attr-defined]
    ]


async def test_moves_between_directories(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state", QUICK) as fs:
        for name in ("p", "q", "p/d", "q/e"):
            await fs.mkdir(name)
        places = ["p/0", "q/1", "p/d/2", "q/e/3"]
        for place, content in zip(places, FILES, strict=True):
            await fs.write(place, content.encode())
        await fs.drain()
        caps = {_cap(fs, place, await fs.find(place)) for place in [*places, "p/d", "q/e"]}
        walker = Walker(other_nodes, root, caps)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walker.run)
            await _moves(fs, random.Random(5))
            await fs.drain()
            nursery.cancel_scope.cancel()
        await walker.walk()
        assert left_in(fs.tree) == []
        assert not any(b".lafsfs-moving" in path for path in await fs.everything())
    async with opened(other_nodes, root, tmp_path / "fresh") as fs:
        everything = await fs.everything()
        assert {seen.content for seen in everything.values() if seen.content} == {
            content.encode() for content in FILES
        }
        assert not any(b".lafsfs-moving" in path for path in everything)


def _cap(fs: Files, place: str, inode: object) -> bytes:
    caps = inode.caps  # type: ignore[attr-defined]
    assert caps is not None, place
    return bytes(caps[0] or caps[1])


async def _moves(fs: Files, randomness: random.Random) -> None:
    """Files and directories change places, in all ways, while publishing goes on."""
    for number in range(40):
        paths = sorted(await fs.everything())
        files = [path for path in paths if not (await fs.find(path)).is_dir]
        directories = [path for path in paths if path not in files]
        one, other = randomness.sample(files, 2)
        kind = randomness.randrange(4)
        if kind == 0:
            await fs.rename(one, other, RENAME_EXCHANGE)
        elif kind == 1:
            await fs.rename(one, randomness.choice(directories) + b"/f%d" % number)
        elif kind == 2:
            movable = [path for path in directories if path.count(b"/") == 1]
            target = [path for path in directories if path.count(b"/") == 0]
            if movable:
                await fs.rename(randomness.choice(movable), randomness.choice(target) + b"/d%d" % number)
        else:
            new = b"n%d" % number
            await fs.mkdir(new)
            await fs.rename(one, new + b"/x")
            await fs.rename(new + b"/x", randomness.choice(directories) + b"/y%d" % number)
            await fs.rmdir(new)
        await trio.sleep(randomness.choice((0.0, 0.01, 0.05)))


async def test_what_was_moved_out_of_a_removed_directory(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """The removal is ready at once, the new place is a directory that takes a while to make."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state", QUICK) as fs:
        await fs.mkdir("old")
        await fs.mkdir("old/deep")
        await fs.write("old/deep/file", b"f" * 100)
        await fs.drain()
        cap = _cap(fs, "old/deep/file", await fs.find("old/deep/file"))
        walker = Walker(other_nodes, root, {cap})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walker.run)
            await fs.mkdir("new")
            await fs.write("new/big", b"x" * 200_000)
            await fs.rename("old/deep/file", "new/file")
            await fs.rmdir("old/deep")
            await fs.rmdir("old")
            await fs.rename("new", "old")
            await fs.drain()
            nursery.cancel_scope.cancel()
        await walker.walk()
        assert set(await fs.everything()) == {b"old", b"old/big", b"old/file"}
        assert left_in(fs.tree) == []


async def test_two_replaced_directories_hold_what_was_moved_out_of_each_other(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Neither version can wait for the other one."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        for name in ("p", "q", "p/old", "q/old"):
            await fs.mkdir(name)
        await fs.write("p/old/in", FILES[0].encode())
        await fs.write("q/old/in", FILES[1].encode())
        await fs.drain()
        walker = Walker(
            other_nodes, root, {_cap(fs, name, await fs.find(name)) for name in ("p/old/in", "q/old/in")}
        )
        for here, there in (("p", "q"), ("q", "p")):
            await fs.mkdir(f"{here}/new")
            await fs.rename(f"{there}/old/in", f"{here}/new/out")
        for here in ("p", "q"):
            await fs.rmdir(f"{here}/old")
            await fs.rename(f"{here}/new", f"{here}/old")
        expected = await fs.everything()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walker.run)
            await fs.drain()
            nursery.cancel_scope.cancel()
        await walker.walk()
        assert left_in(fs.tree) == []
        assert await fs.everything() == expected
    async with opened(other_nodes, root, tmp_path / "fresh") as fs:
        assert set(await fs.everything()) == {b"p", b"q", b"p/old", b"q/old", b"p/old/out", b"q/old/out"}
        assert await fs.read("q/old/out") == FILES[0].encode()


async def test_children_come_and_go_before_a_directory_is_published(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state", QUICK) as fs:
        for number in range(6):
            await fs.mkdir("d")
            await fs.write("d/a", b"a" * 100)
            await fs.mkdir("d/sub")
            if number % 2:
                await trio.sleep(0.05)
            await fs.write("d/b", b"b" * 100)
            await fs.rename("d/b", "d/a")
            await fs.rmdir("d/sub")
            await fs.unlink("d/a")
            await fs.rmdir("d")
        await fs.mkdir("kept")
        await fs.mkdir("kept/sub")
        await fs.write("kept/sub/file", b"pending")
        await fs.rename("kept", "renamed")
        await fs.drain()
        before = await fs.everything()
        assert set(before) == {b"renamed", b"renamed/sub", b"renamed/sub/file"}
        assert left_in(fs.tree) == []
    async with opened(other_nodes, root, tmp_path / "fresh") as fs:
        assert await fs.everything() == before


async def test_removal_during_a_publish(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    """What is removed or renamed while its directory is on its way does not come back."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state", QUICK) as fs:
        for name in ("removed", "renamed", "changed"):
            await fs.write(name, b"1" * 100)
        folder = fs.tree.inode(1).folder
        assert folder is not None
        with trio.fail_after(30):
            while not folder.publishing:
                await trio.lowlevel.checkpoint()
        assert set(folder.publishing) <= {b"removed", b"renamed", b"changed"}
        await fs.unlink("removed")
        await fs.rename("renamed", "new name")
        await fs.write("changed", b"2", 50)
        await fs.drain()
        before = await fs.everything()
        assert left_in(fs.tree) == []
    assert set(before) == {b"new name", b"changed"}
    async with opened(other_nodes, root, tmp_path / "fresh") as fs:
        assert await fs.everything() == before
