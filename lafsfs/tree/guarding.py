"""Directories that were empty lately, and in which something was published: what Tahoe may drop from them (emptied.py)
is noticed only by who knows it, so they are kept in memory and looked at until no such change can be under way.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import trio

from lafsfs.tree.directories import Folder
from lafsfs.tree.emptied import LONGEST
from lafsfs.tree.inodes import Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

LOOKS = (2.0, 5.0, 9.0, 14.0, 22.0, 32.0, LONGEST)  # seconds after something was published in it
MOST = 64  # directories at a time


class Guard:
    """The guarded directories of one tree. Used from the trio thread only."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._since: dict[Inode, float] = {}  # when each was published last
        self._next: dict[Inode, float] = {}  # when to look at each again
        self._wake = trio.Event()

    def published(self, folder: Folder) -> None:
        """Something was published in a directory: guard it if it was empty lately."""
        inode = folder.inode
        if time.monotonic() - folder.was_empty > LONGEST:
            return
        if inode not in self._since:
            if len(self._since) >= MOST:
                return
            inode.anchors += 1
        self._since[inode] = trio.current_time()
        self._next[inode] = self._since[inode] + LOOKS[0]
        self._wake.set()

    async def run(self) -> None:
        """Look at what is guarded, until cancelled."""
        while True:
            self._wake = trio.Event()
            with trio.move_on_at(min(self._next.values(), default=float("inf"))):
                await self._wake.wait()
            for inode in [one for one, due in self._next.items() if due <= trio.current_time()]:
                await self._look(inode)

    async def _look(self, inode: Inode) -> None:
        now, folder = trio.current_time(), inode.folder
        later = next((due for look in LOOKS if (due := self._since[inode] + look) > now), None)
        if later is not None and inode.nlink > 0:
            self._next[inode] = later
        else:
            del self._since[inode], self._next[inode]
        if folder is not None and folder.loaded and not folder.lock.locked():
            try:
                await self._tree.look_for_news(folder)
            except Exception:  # what is there is looked at again when somebody opens it
                log.exception("a directory could not be looked at")
        if inode not in self._since:
            inode.anchors -= 1
            self._tree.inodes.drop_if_unused(inode)
