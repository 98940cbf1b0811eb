"""Directories that were removed a moment ago, and in which Tahoe-LAFS may still be writing.

A Tahoe node finds its way to a directory first, and writes in it then, some seconds later when it is busy or collides.
If the directory, or one above it, is removed meanwhile, it does not notice. (A mount looks above what it published.) So
who removed a directory looks at it for a while, and gives it its name back when something of Tahoe's turns up in it.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections.abc import Mapping

import trio

from lafsfs.errors import LafsError
from lafsfs.tree.directories import Folder
from lafsfs.tree.elsewhere import Elsewhere
from lafsfs.tree.emptied import is_tahoes
from lafsfs.tree.half_written import newest
from lafsfs.tree.inodes import Inode, InodeTable
from lafsfs.tree.removals import Removals, removed_with

log = logging.getLogger(__name__)

LOOKS = (1.5, 4.0, 8.0, 14.0, 22.0)  # seconds after it went
PATIENCE = 5.0
MOST = 64  # directories that are looked at at a time; with those that were removed in them


class RemovedLately:
    """What one tree removed. Used from the trio thread only."""

    def __init__(self, inodes: InodeTable, removals: Removals, elsewhere: Elsewhere) -> None:
        self._inodes = inodes
        self._removals = removals
        self._elsewhere = elsewhere
        self._due: list[tuple[float, int, _Removed]] = []
        self._serial = itertools.count()
        self._count = 0
        self._wake = trio.Event()

    def add(self, folder: Folder, removed: Mapping[bytes, Inode]) -> None:
        """These names of a directory went just now, with what they led to."""
        for name, inode in removed.items():
            if not inode.is_dir or inode.nlink > 0:
                continue
            size = sum(below.is_dir for below, _ in removed_with(inode, None))
            if self._count + size > MOST:
                continue
            self._count += size
            folder.inode.anchors += 1  # it is not forgotten meanwhile
            self._push(_Removed(folder, name, inode, size, trio.current_time()))
        self._wake.set()

    def _push(self, one: _Removed) -> None:
        due = one.since + LOOKS[one.looks]
        heapq.heappush(self._due, (due, next(self._serial), one))

    async def run(self) -> None:
        """Look at what was removed, until cancelled."""
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._wake.wait()
            while self._due and self._due[0][0] <= trio.current_time():
                _, _, one = heapq.heappop(self._due)
                await self._look(one)

    async def look(self) -> None:
        """Look at all of it now, for who wants everything to be where it belongs; for `PATIENCE` seconds at most."""
        with trio.move_on_after(PATIENCE):
            for _, _, one in list(self._due):
                await self._look_back(one)

    async def _look(self, one: _Removed) -> None:
        one.looks += 1
        await self._look_back(one)
        if one.inode.nlink <= 0 and one.looks < len(LOOKS):
            self._push(one)
            return
        self._count -= one.size
        one.folder.inode.anchors -= 1
        self._inodes.drop_if_unused(one.folder.inode)

    async def _look_back(self, one: _Removed) -> None:
        try:
            await self._removals.look_back(one.folder, {one.name: one.inode}, self._has_tahoes)
        except LafsError as problem:
            log.info("whether something was written in a removed directory is not known: %s", problem)
        except Exception:
            log.exception("a removed directory could not be looked at")

    async def _has_tahoes(self, inode: Inode) -> bool:
        """Whether a removed directory has an entry that Tahoe wrote since, and is nowhere else."""
        folder = inode.folder
        if folder is None or folder.node is None or folder.snapshot is None or not folder.node.writable:
            return False
        known = folder.snapshot.packed
        packed = (await newest(folder.node, folder.snapshot)).packed
        if not any(is_tahoes(packed, known, name) for name in packed.names()):
            return False
        return not await self._elsewhere.has(inode)


class _Removed:
    """A name that went, and what it led to."""

    def __init__(self, folder: Folder, name: bytes, inode: Inode, size: int, since: float) -> None:
        self.folder, self.name, self.inode = folder, name, inode
        self.size, self.since = size, since
        self.looks = 0
