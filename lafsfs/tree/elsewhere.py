"""Whether a directory that lost its name here has another one.

Somebody else takes a directory's name away, while something changed in it here: if he removed it, it has to come back.
If he moved it, it is where he moved it to, and what changed in it gets there by itself: would its old name come back
as well, it would be in two places from then on, and all that is below it, too. What he moves has its new name before
it loses the old one, so it is looked for in the directories that are known here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lafsfs.errors import LafsError
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree.directories import Folder, digest
from lafsfs.tree.entries import entries_with, parsed
from lafsfs.tree.half_written import newest
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.moves import way_to
from lafsfs.tree.seen import Seen

if TYPE_CHECKING:
    from lafsfs.tree.merging import Merging
    from lafsfs.tree.tree import Tree

MOST = 128  # directories that are looked through, by one small read from each server
_AT_ONCE = 8


class Elsewhere:
    """Asks the grid. No lock is taken: whoever publishes a directory has that one's, and must not wait for others."""

    def __init__(self, tree: Tree, merging: Merging) -> None:
        self._tree = tree
        self._merging = merging

    def coming_back(self, folder: Folder, name: bytes) -> Inode | None:
        """The directory that a name leads to, if others took that name from it and we did not give it to it."""
        pending = folder.pending.get(name)
        if pending is None or pending.ino is None or folder.base_raw(name) is not None:
            return None
        inode = self._tree.inodes.get(pending.ino)
        if inode is None or not inode.is_dir or inode.caps is None:
            return None
        return inode if inode.ino in (pending.base_ino, folder.returned.get(name)) else None

    async def has(self, inode: Inode, but: Folder | None = None) -> bool:
        """Whether the grid, asked just now, leads from the root to a directory, as it is here, by some name. `but`: the
        caller has its lock, and knows its newest version.
        """
        if but is not None and but.snapshot is not None and self._is_in(but, but.snapshot.packed, inode):
            return True
        found: list[Folder] = []
        limit = trio.CapacityLimiter(_AT_ONCE)

        async def look(folder: Folder) -> None:
            async with limit:
                if await self._holds(folder, inode) and await self._is_reached(folder):
                    found.append(folder)
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for folder in self._known(but):
                nursery.start_soon(look, folder)
        return bool(found)

    def let_go(self, folder: Folder, name: bytes, inode: Inode) -> None:
        """The name does not come back: what changed in the directory is seen under its other one."""
        self._merging.let_theirs_stand(folder, name)
        folder.returned.pop(name, None)
        self._tree.lose(folder, name, inode)

    def _known(self, but: Folder | None) -> list[Folder]:
        """Directories that may have it, those that were used last first."""
        folders = [
            inode.folder
            for inode in self._tree.inodes
            if inode.folder is not None and inode.folder is not but and inode.nlink > 0
        ]
        changeable = [one for one in folders if one.loaded and one.node is not None and one.node.writable]
        return sorted(changeable, key=lambda one: one.checked, reverse=True)[:MOST]

    async def _holds(self, folder: Folder, inode: Inode) -> bool:
        snapshot = await self._newest(folder)
        return snapshot is not None and self._is_in(folder, snapshot.packed, inode)

    def _is_in(self, folder: Folder, packed: Packed, inode: Inode) -> bool:
        """Whether an entry that is to stay leads to the directory, and says of it what is to be said."""
        going = {one.base for one in folder.pending.values() if one.ino is None or one.ino != one.base_ino}
        return any(
            digest(raw) not in going and _is_same(self._tree.see(folder, raw), inode)
            for raw in entries_with(packed, inode.read_cap)
        )

    async def _is_reached(self, folder: Folder) -> bool:
        """Whether names that are to stay lead from the root to a directory."""
        inode = folder.inode
        for above, name, below in way_to(self._tree, inode):
            pending = above.pending.get(name)
            if pending is not None and pending.ino != pending.base_ino:
                return False
            snapshot = await self._newest(above)
            raw = snapshot.packed.raw(above.stored(name)) if snapshot is not None else None
            if raw is None or parsed(raw).ro_uri != below.read_cap:
                return False
            inode = above.inode
        return inode.ino == ROOT

    async def _newest(self, folder: Folder) -> Snapshot | None:
        """The newest version; None if it cannot be had."""
        if folder.node is None or folder.snapshot is None:
            return None
        try:
            return await newest(folder.node, folder.snapshot)
        except LafsError:
            return None


def _is_same(seen: Seen, inode: Inode) -> bool:
    """Whether an entry says the same but for times."""
    theirs, ours = seen.attributes, inode.attributes
    alike = (theirs.mode, theirs.uid, theirs.gid) == (ours.mode, ours.uid, ours.gid)
    return alike and seen.caps == inode.caps and (seen.xattrs or {}) == (inode.xattrs or {})
