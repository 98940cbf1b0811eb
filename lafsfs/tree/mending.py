"""Directories of which some servers have an older version, or nothing: a version counts as published as soon as enough
servers have it. When the others answer again, it is published once more.

Whoever published such a version looks after it, and whoever comes across one, a while later: somebody may be at work
on it. A server may forget what it took, and would be written for ever: one directory is tried first, and a server that
shows the older version again is left out of account from then on.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, NamedTuple

import trio

from lafsfs.errors import LafsError
from lafsfs.nodes.slot import Pinned
from lafsfs.transfer.servermap import Version
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


ROUNDS = 3  # of publishing and looking, when somebody flushes


class _Trial(NamedTuple):
    """A directory that is published once more, because of `servers`; `version` None: not yet."""

    servers: frozenset[str]
    version: Version | None = None


class Mending:
    """The directories of one tree that are to be made whole. Used from the trio thread only."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._due: dict[Inode, float] = {}  # when to look at each
        self._waits: dict[Inode, float] = {}  # how long each waited before
        self._trials: dict[Inode, _Trial] = {}
        self._forgetful: set[str] = set()  # ids of servers,
        self._reliable: set[str] = set()  # and of those that kept what they took
        self._wake = trio.Event()

    def __contains__(self, inode: Inode) -> bool:
        return inode in self._due

    def published(self, folder: Folder) -> None:
        """A version of ours went to the grid: if some servers do not have it, that is noted."""
        snapshot, inode = folder.snapshot, folder.inode
        if inode in self._trials and snapshot is not None:
            self._trials[inode] = self._trials[inode]._replace(version=snapshot.version)
            self._note(inode, FIRST)
        elif snapshot is None or snapshot.whole:
            self._forget(inode)
        else:
            self._note(inode, FIRST)

    def seen(self, folder: Folder) -> None:
        """A version was read: if some servers showed an older one, that is noted."""
        writable = folder.node is not None and folder.node.writable and not self._tree.read_only
        if not writable or folder.snapshot is None or folder.inode in self._due:
            return
        if folder.snapshot.behind - self._forgetful:
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
        self._trials.pop(inode, None)
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
            await self._look_at_all([inode for inode, due in self._due.items() if due <= now])

    async def look(self) -> None:
        """Look at all of them now, some seconds at most; what is to be published again has its job then."""
        hopeful = any(self._is_hopeful(inode.folder) for inode in self._due)
        with trio.move_on_after(PATIENCE if hopeful else SHORT):
            await self._look_at_all(list(self._due))

    @staticmethod
    def _is_hopeful(folder: Folder | None) -> bool:
        pinned = folder.snapshot.pinned if folder is not None and folder.snapshot is not None else None
        return pinned is None or not pinned.is_hopeless

    async def _look_at_all(self, inodes: list[Inode]) -> None:
        limit = trio.CapacityLimiter(AT_ONCE)

        async def look(inode: Inode) -> None:
            async with limit:
                await self._look(inode)

        async with trio.open_nursery() as nursery:
            for inode in inodes:
                nursery.start_soon(look, inode)

    async def _look(self, inode: Inode) -> None:
        folder = inode.folder
        if inode not in self._due:
            return
        if folder is None or folder.node is None or not folder.loaded or inode.nlink <= 0:
            self._forget(inode)
            return
        self._note(inode, min(2.0 * self._waits[inode], LAST))
        try:
            found = await folder.node.everywhere()
        except (LafsError, OSError) as problem:
            log.info("whether a directory is whole is not known: %s", problem)
        except Exception:  # nothing is lost by it
            log.exception("whether a directory is whole is not known")
        else:
            self._judge(folder, found)

    def _judge(self, folder: Folder, found: Pinned | None) -> None:
        inode = folder.inode
        if found is None:
            self._forget(inode)
            return
        tried = self._learn(inode, found)
        behind = found.behind - self._forgetful
        if not behind and (found.complete or found.behind):
            if not found.misses_servers:
                self._forget(inode)
        elif tried:
            self._forget(inode)  # another time would not help
        elif behind <= self._reliable or not self._trials:
            self._trials[inode] = _Trial(behind)
            folder.again = True
            self._tree.publisher.publish_again(folder)
        else:
            self._note(inode, FIRST)

    def _learn(self, inode: Inode, found: Pinned) -> bool:
        """What a trial shows of its servers; false if there was none, or somebody else published meanwhile."""
        trial = self._trials.pop(inode, None)
        if trial is None or trial.version != found.version:
            return False
        forgot = trial.servers & found.behind
        if forgot:
            log.warning("a server forgets what it took; it is not written again because of that")
        self._forgetful |= forgot
        self._reliable |= trial.servers - forgot
        return True
