"""Finding an object by its number alone, as an NFS server asks for it (open_by_handle_at(2), name_to_handle_at(2)).

The kernel remembers a number and no path, for longer than it, or we, keep the inode. Where the inodes were that were
dropped lately is remembered; any other is looked for in the whole tree.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import LafsError
from lafsfs.tree.directories import UNKNOWN, Folder
from lafsfs.tree.inodes import ROOT, Inode, derived_number

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

_HINTS = 1 << 16  # dropped inodes whose directory is remembered
_DEPTH = 4096
_SEARCH = 60.0  # seconds for which a tree is searched


class Finder:
    """Numbers to inodes, for one tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._hints: OrderedDict[int, int] = OrderedDict()

    def dropped(self, ino: int, directory: int) -> None:
        """An inode is forgotten; it was in `directory`."""
        self._hints[ino] = directory
        self._hints.move_to_end(ino)
        if len(self._hints) > _HINTS:
            self._hints.popitem(last=False)

    async def find(self, ino: int) -> Inode:
        """The inode with that number; ESTALE if there is none, or none was found in time."""
        inode = self._tree.known(ino) or await self._by_hint(ino)
        if inode is None:
            with trio.move_on_after(_SEARCH) as scope:
                inode = await self._by_search(ino)
            if scope.cancelled_caught:
                log.warning("a file handle was not found within %.0f s", _SEARCH)
        if inode is None or (inode.nlink <= 0 and not inode.opens):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return inode

    async def _by_hint(self, ino: int) -> Inode | None:
        """Follow what is remembered up to a directory that is at hand, then down again."""
        way = [ino]
        while way[-1] not in self._tree.inodes:
            above = self._hints.get(way[-1])
            if above is None or len(way) > _DEPTH:
                return None
            way.append(above)
        inode = self._tree.inode(way.pop())
        while way:
            found = await self._in(inode.ino, way.pop())
            if found is None:
                return None
            inode = found
        return inode

    async def _by_search(self, ino: int) -> Inode | None:
        """Look through the tree, breadth first."""
        queue = deque([ROOT])
        while queue:
            directory = queue.popleft()
            found = await self._in(directory, ino)
            if found is not None:
                return found
            folder = self._tree.inodes.get(directory)
            if folder is not None and folder.folder is not None:
                queue.extend(self._directories(folder.folder))
        return None

    def _directories(self, folder: Folder) -> list[int]:
        inodes = (self._tree.resolve(folder, name) for name in list(folder.kids) if name not in folder.hidden)
        return [inode.ino for inode in inodes if inode is not None and inode.is_dir]

    async def _in(self, directory: int, ino: int) -> Inode | None:
        """The inode called `ino` among the names of a directory."""
        try:
            folder = await self._tree.folder(directory)
        except (OSError, LafsError) as problem:
            log.warning("a directory could not be searched: %s", problem)
            return None
        for name, (_, number) in list(folder.kids.items()):
            if name not in folder.hidden and (
                number == ino or (number == UNKNOWN and _may_be(folder, name, ino))
            ):
                inode = self._tree.resolve(folder, name)
                if inode is not None and inode.ino == ino:
                    return inode
        return None


def _may_be(folder: Folder, name: bytes, ino: int) -> bool:
    """Whether an entry that nobody looked at yet may carry a number; cheap, as all entries are asked."""
    raw = folder.base_raw(name)
    if raw is None:
        return False
    return b"%d" % ino in raw or derived_number(folder.inode.ino, name) == ino
