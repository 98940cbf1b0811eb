"""What a mount remembers of all that programs walk through stays bounded.

The kernel keeps what it was told of a file as long as it has memory, and until it forgets, something is kept here.
Of more than WHOLE inodes, those that nobody uses become glimpses (glimpses.py). Beyond KNOWN inodes and glimpses the
kernel is asked to give up names of files that nobody has open. Those go first that are there for longest. Directories
stay: a program may be in one of them, and would not find itself any more. What directories say is kept compressed where
nobody looks at it (folding.py). Beyond NAMES names in memory, directories of which nothing else is known are read again
when somebody asks.
"""

from __future__ import annotations

import stat
import time
from itertools import count
from typing import TYPE_CHECKING

import trio

from lafsfs.tree.directories import Folder
from lafsfs.tree.emptied import LONGEST
from lafsfs.tree.folding import Folding
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.links import Link

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

WHOLE = 10_000
KNOWN = 250_000
NAMES = 300_000
_PAUSE = 1.0  # seconds between two looks
_FOLDING_PAUSE = (
    0.3  # the same, for what may be compressed: in a second, thousands of entries are left behind
)
_AT_ONCE = 2_000  # names in one request to the kernel
_IN_A_ROW = 250  # inodes, without letting others go on
_LOOKED_AT = 4 * _AT_ONCE  # inodes, for so many names
_IDLE = 3.0  # seconds since somebody looked for news of a directory
_MOMENTS = 20  # tries to find one in which no program waits for an answer
_NAMES_EVERY = 30  # looks, if nothing else happened


class Trimming:
    """Keeps the memory of one tree bounded. Used from the trio thread only."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.folding = Folding()

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fold)
            nursery.start_soon(self._trim)

    async def _fold(self) -> None:
        for look in count(1):
            await trio.sleep(_FOLDING_PAUSE)
            if self._tree.last_request > self.folding.done_at or look % _NAMES_EVERY == 0:
                await self.folding.look(self._folders())

    async def _trim(self) -> None:
        for look in count(1):
            await trio.sleep(_PAUSE)
            await self._reduce()
            if await self._ask_the_kernel() or look % _NAMES_EVERY == 0:
                self._unload()

    async def _reduce(self) -> None:
        """Have glimpses in place of inodes that nobody uses, down to WHOLE inodes if there are so many of that kind."""
        inodes = self._tree.inodes
        for _ in range(max(0, inodes.whole - WHOLE) // _IN_A_ROW):
            if not await self._rests():
                return  # who is at work may have one of them in hand
            for inode in list(inodes.oldest(_IN_A_ROW)):
                self._tree.reduce(inode)

    async def _rests(self) -> bool:
        """Whether no request is under way; waits for such a moment a little."""
        for _ in range(_MOMENTS):
            await trio.sleep(0.001)
            if not self._tree.running:
                return not self._tree.stilled
        return False

    def _folders(self) -> list[Folder]:
        return [inode.folder for inode in self._tree.inodes if inode.folder is not None]

    async def _ask_the_kernel(self) -> bool:
        """Have it give up so many names as there are inodes too many; whether there were any."""
        surplus = left = len(self._tree.inodes) - KNOWN
        while left > 0:
            names = list(self._tree.inodes.oldest_glimpses(_AT_ONCE))
            if len(names) < _AT_ONCE:
                looked_at = list(self._tree.inodes.oldest(_LOOKED_AT))
                names += (link for inode in looked_at if (link := _dispensable(inode)) is not None)
                del names[_AT_ONCE:]
            if not names:
                break  # what is not found now will be when all others were looked at
            await self._tree.kernel.let_go(names)
            left -= len(names)
        return surplus > 0

    def _unload(self) -> None:
        """Unload the directories that were looked at longest ago, down to NAMES names."""
        folders = self._folders()
        names = sum(map(len, folders))
        if names <= NAMES:
            return
        for folder in sorted(folders, key=lambda folder: folder.checked):
            if names <= NAMES:
                return
            if self._can_be_read_again(folder):
                names -= len(folder)
                folder.unload()

    def _can_be_read_again(self, folder: Folder) -> bool:
        inode, node = folder.inode, folder.node
        if not folder.loaded or node is None or folder.checked > trio.current_time() - _IDLE:
            return False
        if (
            inode.ino == ROOT
            or inode.opens
            or inode.anchors
            or inode.stored
            or inode.dirty
            or inode.nlink <= 0
        ):
            return False
        if time.monotonic() - folder.was_empty < LONGEST or folder.lock.locked():
            return False
        return not folder.differs


def _dispensable(inode: Inode) -> Link | None:
    """The name of a file that the kernel knows and nobody uses; None if it is something else."""
    kind = stat.S_IFMT(inode.attributes.mode)
    if kind not in (stat.S_IFREG, stat.S_IFLNK) or len(inode.links) != 1:
        return None
    return inode.first_link if inode.idle else None
