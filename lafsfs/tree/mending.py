"""Directories of which some servers have an older version, or nothing: a version counts as published as soon as enough
servers have it, and the others get it here, when they answer again.

Whoever published such a version looks after it, and whoever comes across one, a while later: somebody may be at work
on it.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import LafsError
from lafsfs.tree.directories import Folder
from lafsfs.tree.inodes import Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

FIRST, LAST = 5.0, 600.0  # seconds to the first look, and at most between two
OTHERS = 30.0  # seconds for which a version of somebody else is left to him
MOST = 1000  # directories that are looked after at a time
AT_ONCE = 4
PATIENCE, SHORT = 10.0, 2.0  # seconds that draining waits for it; the same, for servers that are put aside


class Mending:
    """The directories of one tree that are to be made whole. Used from the trio thread only."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._due: dict[Inode, float] = {}  # when to look at each
        self._waits: dict[Inode, float] = {}  # how long each waited before
        self._wake = trio.Event()

    def __contains__(self, inode: Inode) -> bool:
        return inode in self._due

    def published(self, folder: Folder) -> None:
        """A version of ours went to the grid: if some servers do not have it, that is noted."""
        snapshot = folder.snapshot
        if snapshot is None or snapshot.whole:
            self._forget(folder.inode)
        else:
            self._note(folder.inode, FIRST)

    def seen(self, folder: Folder) -> None:
        """A version was read: if some servers showed another one, that is noted."""
        writable = folder.node is not None and folder.node.writable and not self._tree.read_only
        if (
            writable
            and folder.snapshot is not None
            and folder.snapshot.mixed
            and folder.inode not in self._due
        ):
            self._note(folder.inode, OTHERS * random.uniform(1.0, 2.0))

    def _note(self, inode: Inode, wait: float) -> None:
        if inode not in self._due:
            if len(self._due) >= MOST:
                return
            inode.anchors += 1  # stays in memory
        self._due[inode] = trio.current_time() + wait
        self._waits[inode] = wait
        self._wake.set()

    def _forget(self, inode: Inode) -> None:
        if self._due.pop(inode, None) is not None:
            del self._waits[inode]
            inode.anchors -= 1
            self._tree.inodes.drop_if_unused(inode)

    async def run(self) -> None:
        """Look after them when it is time, until cancelled."""
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(min(self._due.values(), default=float("inf"))):
                await self._wake.wait()
            now = trio.current_time()
            await self._mend_all([inode for inode, due in self._due.items() if due <= now])

    async def settle(self) -> None:
        """Look after all of them now, some seconds at most. What cannot be made whole is tried again later."""
        snapshots = [inode.folder.snapshot for inode in self._due if inode.folder is not None]
        hopeful = any(one is not None and not one.misses_servers for one in snapshots)
        with trio.move_on_after(PATIENCE if hopeful else SHORT):
            await self._mend_all(list(self._due))

    async def _mend_all(self, inodes: list[Inode]) -> None:
        limit = trio.CapacityLimiter(AT_ONCE)

        async def mend(inode: Inode) -> None:
            async with limit:
                await self._mend(inode)

        async with trio.open_nursery() as nursery:
            for inode in inodes:
                nursery.start_soon(mend, inode)

    async def _mend(self, inode: Inode) -> None:
        folder = inode.folder
        if inode not in self._due:
            return
        if folder is None or folder.node is None or not folder.loaded or inode.nlink <= 0:
            self._forget(inode)
            return
        self._note(inode, min(2.0 * self._waits[inode], LAST))
        try:
            async with folder.lock:
                whole = await folder.node.mend()
        except (LafsError, OSError) as problem:
            log.info("a directory is not whole yet: %s", problem)
        except Exception:  # nothing is lost by it
            log.exception("a directory could not be made whole")
        else:
            if whole:
                self._forget(inode)
            await self._tree.look_for_news(folder)
