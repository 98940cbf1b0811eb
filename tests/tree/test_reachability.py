"""What may go to the grid, and when, against a model of the grid: nothing alive is lost, and all gets there."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.directories import Folder, Pending
from lafsfs.tree.hard_links import HardLinks
from lafsfs.tree.inodes import ROOT, Caps, Inode, InodeTable
from lafsfs.tree.reachability import Reachability, moved_out, removed_below

ON_GRID: Caps = (b"", b"somewhere")
NAMES = [b"a", b"b", b"c"]


class World:
    """A tree in memory and what the grid has of it: directory -> name -> inode number."""

    def __init__(self) -> None:
        self.inodes = InodeTable()
        self.grid: dict[int, dict[bytes, int]] = {}
        tree: Any = SimpleNamespace(inodes=self.inodes)
        self.reach = Reachability(self.inodes, HardLinks(tree))
        self.add(ROOT, is_dir=True, published=True)

    def add(self, ino: int, *, is_dir: bool, published: bool) -> Inode:
        """Something without a name."""
        mode = 0o40755 if is_dir else 0o100644
        inode = Inode(ino, new_attributes(mode, 0, 0), ON_GRID if published else None, 2 if is_dir else 1)
        inode.stored = True
        if is_dir:
            inode.folder = Folder(inode, None)
            if published:
                self.grid[ino] = {}
        self.inodes.add(inode)
        return inode

    def folder(self, ino: int) -> Folder:
        inode = self.inodes.get(ino)
        assert inode is not None
        assert inode.folder is not None
        return inode.folder

    def show(self, directory: int, name: bytes, ino: int | None) -> None:
        """The tree shows this; it is pending if the grid does not have it."""
        there = self.grid.get(directory, {}).get(name)
        folder = self.folder(directory)
        folder.pending.pop(name, None)
        if there != ino:
            folder.pending[name] = Pending(ino, b"base" if there else None, there, 0)
        inode = self.inodes.get(ino) if ino is not None else None
        if inode is not None:
            self.inodes.link(inode, directory, name)

    # --- the publisher ---------------------------------------------------------------------------------

    def publish(self, folder: Folder) -> bool:
        """One version of a directory, as publishing.py makes it."""
        here = folder.inode.ino
        clean = set()
        for name, pending in folder.pending.items():
            inode = self.inodes.get(pending.ino) if pending.ino is not None else None
            if inode is not None and not inode.dirty:
                clean.add(name)
        ready = self.reach.ready(folder, clean)
        if here not in self.grid:
            self.grid[here] = {}
            folder.inode.caps = ON_GRID
        elif not ready:
            return False
        version = dict(self.grid[here])
        adding = {(here, name) for name in ready if folder.pending[name].ino is not None}
        parked: dict[bytes, Pending] = {}
        for name in ready:
            moved = self.reach.must_park(folder, name, adding)
            if moved is not None:
                temporary = b"parked-%x" % moved.ino
                version[temporary] = moved.ino
                parked[temporary] = Pending(None, b"base", moved.ino, 0)
        gone = []
        for name in ready:
            pending = folder.pending.pop(name)
            gone.append(pending.base_ino)
            if pending.ino is None:
                version.pop(name, None)
            else:
                version[name] = pending.ino
        folder.pending.update(parked)
        self.grid[here] = version
        for ino in gone:
            old = self.inodes.get(ino) if ino is not None else None
            if old is not None and old.nlink <= 0 and ino not in {one.base_ino for one in parked.values()}:
                for inode in list(removed_below(self.inodes, old)):
                    inode.stored = False
                    self.inodes.drop_if_unused(inode)
        return True

    def publish_one(self, chance: random.Random) -> bool:
        """Some upload or version, if there is anything to do; whether a directory went to the grid."""
        uploads = [inode for inode in self.inodes if inode.nlink > 0 and inode.dirty and not inode.is_dir]
        if uploads and chance.random() < 0.4:
            chance.choice(uploads).caps = ON_GRID
        waiting = [
            inode.folder
            for inode in self.inodes
            if inode.nlink > 0 and inode.folder is not None and (inode.folder.pending or inode.dirty)
        ]
        return bool(waiting) and self.publish(chance.choice(waiting))

    # --- what programs do ------------------------------------------------------------------------------

    def shown(self) -> dict[tuple[int, bytes], int]:
        """All names in memory."""
        return {link: inode.ino for inode in self.inodes if inode.nlink > 0 for link in inode.links}

    def move_or_remove_one(self, chance: random.Random) -> None:
        places = self.shown()
        if not places:
            return
        place = chance.choice(sorted(places))
        inode = self.inodes.get(places[place])
        assert inode is not None
        below = {inode.ino}
        for _ in places:
            below |= {ino for (directory, _), ino in places.items() if directory in below}
        there = [i.ino for i in self.inodes if i.is_dir and i.nlink > 0 and i.ino not in below]
        free = [(directory, name) for directory in there for name in NAMES if (directory, name) not in places]
        remove = below == {inode.ino} and chance.random() < 0.3
        if not remove and not free:
            return
        self.inodes.unlink(inode, *place)
        if remove:
            inode.nlink = 0
        self.show(*place, None)
        if not remove:
            self.show(*chance.choice(free), inode.ino)

    # --- what is true -------------------------------------------------------------------------------------

    def on_grid(self) -> set[int]:
        """Everything that the grid leads to from the root."""
        found, left = {ROOT}, [ROOT]
        while left:
            for ino in self.grid.get(left.pop(), {}).values():
                if ino not in found:
                    found.add(ino)
                    left.append(ino)
        return found

    def alive(self) -> set[int]:
        return {inode.ino for inode in self.inodes if inode.nlink > 0}


def random_places(
    chance: random.Random, directories: list[int], files: list[int]
) -> dict[tuple[int, bytes], int]:
    """A tree: each object at one free name of a directory that is there already; some are left out."""
    places: dict[tuple[int, bytes], int] = {}
    there = [ROOT]
    order = [*directories, *files]
    chance.shuffle(order)
    for ino in order:
        free = [(where, name) for where in there for name in NAMES if (where, name) not in places]
        if free and chance.random() < 0.85:
            places[chance.choice(free)] = ino
            if ino in directories:
                there.append(ino)
    return places


def random_world(seed: int) -> tuple[World, dict[tuple[int, bytes], int]]:
    """Some tree on the grid, and any other in memory: moved, exchanged, removed and new files and directories."""
    chance = random.Random(seed)
    directories, files = [2, 3, 4, 5], [10, 11, 12]
    before = random_places(chance, directories, files)
    after = random_places(chance, directories, files)
    world = World()
    published, alive = set(before.values()), set(after.values())
    for ino in [*directories, *files]:
        if ino in published or ino in alive:
            world.add(ino, is_dir=ino in directories, published=ino in published)
    for (directory, name), ino in before.items():
        world.grid[directory][name] = ino
    for inode in world.inodes:
        if inode.ino != ROOT and inode.ino not in alive:
            inode.nlink = 0
    for directory in {place[0] for place in (*before, *after)}:
        for name in NAMES:
            world.show(directory, name, after.get((directory, name)))
    return world, after


@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize("moves", [0, 12])
def test_any_change_reaches_the_grid_and_nothing_alive_is_lost(part: int, moves: int) -> None:
    """Whatever the order in which directories are published and files are uploaded, and what moves meanwhile."""
    for seed in range(part * 40, part * 40 + 40):
        world = random_world(seed)[0]
        chance = random.Random(-seed - 1)
        safe = world.on_grid() & world.alive()
        left, rest = moves, 0
        while rest < 80:
            if left and chance.random() < 0.3:
                world.move_or_remove_one(chance)
                safe &= world.alive()
                left -= 1
            rest = 0 if world.publish_one(chance) else rest + 1
            now = world.on_grid()
            assert safe <= now, f"seed {seed}: {safe - now} were lost"
            safe = now & world.alive()
        expected: dict[int, dict[bytes, int]] = {ino: {} for ino in world.alive() if ino in world.grid}
        for (directory, name), ino in world.shown().items():
            expected[directory][name] = ino
        assert {ino: world.grid[ino] for ino in expected} == expected, (
            f"seed {seed}: something waits for ever"
        )
        assert world.on_grid() == world.alive()
        assert not any(world.folder(ino).pending for ino in expected)


def test_reachable_means_that_the_grid_leads_there() -> None:
    """By names that are here and there; nothing else is known to stay."""
    for seed in range(300):
        world, after = random_world(seed)
        both = {
            place: ino for place, ino in after.items() if world.grid.get(place[0], {}).get(place[1]) == ino
        }
        expected = {ROOT}
        for _ in after:
            expected |= {ino for (directory, _), ino in both.items() if directory in expected}
        for inode in world.inodes:
            if inode.nlink > 0:
                assert world.reach.reachable(inode) == (inode.ino in expected)
                for link in inode.links:
                    assert not world.reach.reachable(inode, frozenset({link}))
                above_is_there = inode.links and inode.links[0][0] in expected
                assert not above_is_there or world.reach.reachable(inode, adding=inode.links)


def test_exchanged_names_do_not_wait_for_each_other() -> None:
    world = World()
    for directory, file in ((2, 10), (3, 11)):
        world.add(directory, is_dir=True, published=True)
        world.add(file, is_dir=False, published=True)
        world.grid[ROOT][NAMES[directory - 2]] = directory
        world.grid[directory][b"x"] = file
        world.show(ROOT, NAMES[directory - 2], directory)
    world.show(2, b"x", 11)
    world.show(3, b"x", 10)
    assert world.publish(world.folder(2))
    assert world.on_grid() == {1, 2, 3, 10, 11}
    assert world.grid[2] == {b"x": 11, b"parked-a": 10}
    assert world.publish(world.folder(3))
    assert world.publish(world.folder(2))
    assert world.grid == {1: {b"a": 2, b"b": 3}, 2: {b"x": 11}, 3: {b"x": 10}}


def deep(count: int) -> World:
    world = World()
    for ino in range(2, count + 2):
        world.add(ino, is_dir=True, published=True)
        world.grid[ino - 1][b"d"] = ino
    for ino in range(2, count + 2):
        world.show(ino - 1, b"d", ino)
    return world


def test_very_deep_directories() -> None:
    """Deeper than Python calls can be nested."""
    count = 3000
    world = deep(count)
    last = world.inodes.get(count + 1)
    assert last is not None
    assert world.reach.reachable(last)
    assert not world.reach.reachable(last, frozenset({(ROOT, b"d")}))


def test_very_deep_removed_directories() -> None:
    count = 3000
    world = deep(count)
    for ino in range(2, count + 2):
        inode = world.inodes.get(ino)
        assert inode is not None
        inode.nlink = 0
        world.show(ino - 1, b"d", None)
        inode.links = ()
    top, last = world.inodes.get(2), world.inodes.get(count + 1)
    assert top is not None
    assert last is not None
    assert list(moved_out(world.inodes, top)) == []
    assert len(list(removed_below(world.inodes, top))) == count
    last.nlink = 2
    assert list(moved_out(world.inodes, top)) == [last]
    assert world.reach.ready(world.folder(ROOT), set()) == []


def test_removed_directories_that_the_grid_has_in_each_other() -> None:
    """A was moved into B, which the grid has got; B was moved out of A, which it has not; then both were removed."""
    world = World()
    a = world.add(2, is_dir=True, published=True)
    b = world.add(3, is_dir=True, published=True)
    world.grid = {ROOT: {b"a": 2}, 2: {b"b": 3}, 3: {b"a": 2}}
    for directory, name in ((ROOT, b"a"), (2, b"b"), (3, b"a")):
        world.show(directory, name, None)
    a.nlink = b.nlink = 0
    assert list(moved_out(world.inodes, a)) == []
    assert {inode.ino for inode in removed_below(world.inodes, b)} == {2, 3}
    assert world.reach.ready(world.folder(ROOT), set()) == [b"a"]
