"""Directories fetched, or looked at again, ahead of a program that walks through a tree (find, du, tar, rm -r, git).

Each of them costs a round trip before the next is asked for. Whoever comes from one directory to one next to it, in
either direction, is taken for a walker: those that follow are asked for side by side, more of them as long as the
program comes to them indeed, fewer when it does not.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import LafsError
from lafsfs.tree.directories import Folder
from lafsfs.tree.entries import subdirectories
from lafsfs.tree.inodes import Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

FIRST, MOST = 2, 16  # directories asked for ahead
AT_ONCE = 8
NEAR = 8  # places between two directories that are next to each other: those in between may be known
_WALKS = 16  # directories remembered in which somebody walks
_KEPT = 64  # directories remembered that were asked for, and that nobody came to
_NAMES = 5_000  # in a larger directory nobody is taken for a walker


class _Walk:
    """Where a program is among the directories of a directory (`names`, in order), and how far ahead was asked for."""

    def __init__(self, names: list[bytes], at: int) -> None:
        self.names = names
        self.places = {name: place for place, name in enumerate(names)}
        self.at = self.ahead = at
        self.step = 0
        self.window = FIRST
        self.waiting = 0  # asked for, and the program did not come to them yet

    def comes_to(self, place: int) -> bool:
        """Note where the program is now; whether it walks."""
        step = (place > self.at) - (place < self.at)
        if not step or abs(place - self.at) > NEAR:
            self.step = 0
        elif step != self.step:
            self.step, self.ahead = step, place
        self.at = place
        self.ahead = max(self.ahead, place) if self.step > 0 else min(self.ahead, place)
        return self.step != 0


class LookingAhead:
    """Follows what programs ask for in all directories. Used from the trio thread only."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._walks: OrderedDict[int, _Walk] = OrderedDict()
        self.expected: OrderedDict[int, tuple[Inode, _Walk]] = OrderedDict()
        """Directories that were asked for ahead, by number; an anchor keeps each of them in memory."""
        self._send, self._receive = trio.open_memory_channel[Inode](_KEPT)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        async for inode in self._receive:
            try:
                await self._tree.look_ahead(inode)
            except (LafsError, OSError, trio.TooSlowError) as problem:  # whoever comes to it will be told
                log.debug("a directory was not looked at ahead: %s", problem)

    def comes_to(self, inode: Inode) -> None:
        """A program needs to know what is in a directory, and the grid has to be asked, or was asked ahead."""
        expected = self.expected.pop(inode.ino, None)
        if expected is not None:
            wanted, its = expected
            wanted.anchors -= 1
            its.waiting -= 1
            its.window = min(MOST, its.window + 2)
        link = inode.first_link
        above = self._tree.inodes.get(link[0]) if link is not None else None
        if link is None or above is None or above.folder is None or self._tree.options.refresh < 1:
            return
        walk = self._walk(above.folder, link[1])
        if walk is None or not walk.comes_to(walk.places[link[1]]) or walk.waiting > walk.window // 2:
            return
        try:
            self._ask_ahead(above.folder, walk)
        except trio.WouldBlock:
            log.debug("enough directories are being looked at")

    def _walk(self, folder: Folder, name: bytes) -> _Walk | None:
        """The walk in a directory, which goes on or begins at `name`; None where there is none."""
        walk = self._walks.pop(folder.inode.ino, None)
        if walk is None or name not in walk.places:
            walk = _begun(folder, name)
        if walk is not None:
            self._walks[folder.inode.ino] = walk
            if len(self._walks) > _WALKS:
                self._walks.popitem(last=False)
        return walk

    def _ask_ahead(self, folder: Folder, walk: _Walk) -> None:
        for _ in range(MOST):
            place = walk.ahead + walk.step
            if walk.waiting >= walk.window or not 0 <= place < len(walk.names):
                return
            walk.ahead = place
            inode = self._unknown(folder, walk.names[place])
            if inode is None:
                continue
            self._send.send_nowait(inode)
            inode.anchors += 1
            walk.waiting += 1
            self.expected[inode.ino] = inode, walk
            if len(self.expected) > _KEPT:
                self._give_up(*self.expected.popitem(last=False)[1])

    def _unknown(self, folder: Folder, name: bytes) -> Inode | None:
        """The directory with this name, if the grid has to be asked to know what is in it."""
        try:
            inode = self._tree.resolve(folder, name) if name in folder.kids else None
        except (LafsError, OSError) as problem:
            log.debug("an entry was passed over: %s", problem)
            return None
        if inode is None or not inode.is_dir or inode.ino in self.expected:
            return None
        if inode.folder is not None and (inode.folder.node is None or self._tree.is_fresh(inode.folder)):
            return None
        return inode

    def _give_up(self, inode: Inode, walk: _Walk) -> None:
        """Nobody came to a directory for long."""
        walk.waiting -= 1
        walk.window = max(1, walk.window // 2)
        inode.anchors -= 1
        self._tree.inodes.drop_if_unused(inode)


def _begun(folder: Folder, name: bytes) -> _Walk | None:
    if folder.snapshot is None or len(folder) > _NAMES:
        return None
    found = (stored.encode() for stored in subdirectories(folder.snapshot.packed))
    names = [one for one in found if one not in folder.hidden]
    return _Walk(names, names.index(name)) if name in names else None
