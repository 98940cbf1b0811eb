"""Directories that several clients move into each other.

Each move alone is harmless; together they cut what was moved off from the root, as a circle. So the old name of a moved
directory goes only when the grid, asked just then, leads from the root to the new one, and afterwards the grid is asked
again: of those who move at the same time, the last at least sees what the others did, and takes its own move back.
What is left of it is a directory inside itself, and whoever comes across that takes the name away.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from lafsfs.nodes.directory import Snapshot
from lafsfs.tree.change import Change
from lafsfs.tree.directories import Folder, Pending
from lafsfs.tree.entries import entries_with, parsed, see
from lafsfs.tree.half_written import newest, when_written
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.merge import PARKED, conflict_name

if TYPE_CHECKING:
    from lafsfs.tree.merging import Merging
    from lafsfs.tree.reachability import Reachability
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

MOST = 3
"""A directory is taken back so often; after that the name that it was moved from just stays."""

Step = tuple[Folder, bytes, Inode]  # a directory, a name in it, and what that must lead to


class Moves:
    """Looks at moved directories, and takes moves back. The caller has the lock of the one they were moved from."""

    def __init__(self, tree: Tree, merging: Merging, reach: Reachability) -> None:
        self._tree = tree
        self._merging = merging
        self._reach = reach
        self._taken_back: Counter[int] = Counter()

    def moved_from(self, folder: Folder, names: Iterable[bytes]) -> dict[bytes, Inode]:
        """The directories that were moved away from those of the names that are to go."""
        moved = ((name, moved_directory(self._tree, folder.pending.get(name))) for name in names)
        return {name: inode for name, inode in moved if inode is not None}

    async def check(self, folder: Folder, name: bytes, moved: Inode) -> None:
        """Before the old name goes: if the new one does not lead to the directory, the move is taken back. GridError
        when the grid does not tell.
        """
        if self._is_new_name(folder, name, moved):
            self._merging.let_theirs_stand(folder, name)
        elif (
            not await self._is_reached(folder, moved)
            and moved_directory(self._tree, folder.pending.get(name)) is moved
        ):
            self._take_back(folder, name, moved)

    def _is_new_name(self, folder: Folder, name: bytes, moved: Inode) -> bool:
        """Whether the old name is the new one: it was moved between two names of one directory."""
        others = (
            self._tree.inodes.get(ino) for ino, new in self._tree.hard_links.names(moved) if new == name
        )
        cap = folder.inode.read_cap
        return any(other is not None and other.read_cap == cap for other in others)

    async def look_back(self, folder: Folder, moved: Mapping[bytes, Inode]) -> None:
        """After the old names went: what others cut off in the meantime gets its name back."""
        for name, inode in moved.items():
            if not await self._is_reached(folder, inode) and inode.nlink > 0 and name not in folder.pending:
                self._take_back(folder, name, inode)

    # --- asking the grid -----------------------------------------------------------------------------------

    async def _is_reached(self, folder: Folder, moved: Inode) -> bool:
        while True:
            steps = list(way_to(self._tree, moved))
            if not steps or steps[0][0] is folder:
                return True  # recovered and not looked up since, so the grid has it; or one version has both names
            if _ends_off_the_root(steps):
                return False
            reached = await self._is_way(folder, steps)
            if steps == list(way_to(self._tree, moved)):
                return reached  # else we moved something on that way meanwhile

    async def _is_way(self, folder: Folder, steps: list[Step]) -> bool:
        for above, name, inode in steps:
            if above is not folder and not await self._leads_to(above, name, inode):
                for stale, _, _ in steps:
                    stale.checked = float("-inf")
                return False
        return all(_shows(above, name, inode) for above, name, inode in steps if above is folder)

    async def _leads_to(self, folder: Folder, name: bytes, inode: Inode) -> bool:
        node, known, pending = folder.node, folder.snapshot, folder.pending.get(name)
        if pending is not None and pending.base_ino != inode.ino:
            return True  # on its way: the old name is not ready to go (reachability.py)
        if node is None or node.deep_immutable:
            return _shows(folder, name, inode)
        if known is None or not folder.loaded:  # since the last start; its lock is not ours to wait for
            return _holds(await when_written(node.read), inode)
        raw = (await newest(node, known)).packed.raw(folder.stored(name))
        return raw is not None and inode.caps is not None and parsed(raw).ro_uri == inode.caps[1]

    # --- taking back ---------------------------------------------------------------------------------------

    def take_back_lost(self, folder: Folder) -> None:
        """What was moved into a directory that others then moved or removed would be waited for for ever."""
        for name in [name for name, pending in folder.pending.items() if pending.base_ino is not None]:
            for moved in self._reach.lost(folder, name) if name in folder.pending else ():
                if not self._reach.is_shown(moved):  # it may have come back with another one
                    self._take_back(folder, name, moved)

    def _take_back(self, folder: Folder, name: bytes, moved: Inode) -> None:
        tree = self._tree
        if not tree.may_be_on_grid(folder.inode):
            return  # removed meanwhile, which waits for what was moved out of it
        self._taken_back[moved.ino] += 1
        inside_itself = any(above is moved for above in (folder.inode, *tree.ancestors(folder.inode)))
        to_and_fro = self._taken_back[moved.ino] > MOST and name in folder.pending
        if inside_itself or to_and_fro:
            # Others moved what is around it, or two names are not agreed on: both stay.
            folder.checked = float("-inf")
            self._merging.stand_aside(folder, name)
            return
        link = next(tree.hard_links.names(moved), None)
        if link is None:
            return
        log.info("something was moved into a directory that others moved or removed; it goes back")
        pending = folder.pending.get(name)
        change = Change(tree)
        directory, new = link
        target = tree.inode(directory)
        assert target.folder is not None
        change.point(target.folder, new, None)
        if moved.is_dir and target.nlink > 0:
            change.count_links(target, -1)
        back = name
        out_of_it = pending is not None and pending.base_ino != moved.ino  # of a directory that is removed
        if out_of_it or name in folder.kids or name in folder.hidden or name.startswith(PARKED):
            back = conflict_name(new, tree.options.label, time.time(), folder.kids.__contains__)
        change.point(folder, back, moved)
        change.stamp(folder.inode)
        change.commit(freeing=True)
        for changed, old in ((directory, new), (folder.inode.ino, back)):
            tree.kernel.entry_changed(changed, old)
        tree.count_subdirectories(folder)


def moved_directory(tree: Tree, pending: Pending | None) -> Inode | None:
    """The directory that stood under a name which is to go, and lives under another one now."""
    if pending is None or pending.ino is not None:
        return None
    inode = tree.inodes.get(pending.base_ino or 0)
    lives = inode is not None and inode.is_dir and inode.nlink > 0 and inode.links
    return inode if lives else None


def way_to(tree: Tree, inode: Inode) -> Iterator[Step]:
    """From a directory up to the root, as far as names are known."""
    seen: set[int] = set()
    while inode.ino != ROOT and inode.first_link is not None and inode.ino not in seen:
        seen.add(inode.ino)
        directory, name = inode.first_link
        above = tree.inodes.get(directory)
        if above is None or above.folder is None:
            return
        yield above.folder, name, inode
        inode = above


def _ends_off_the_root(steps: list[Step]) -> bool:
    """Whether a way leads to a directory that is gone, or in a circle. (Others end where nothing more is known.)"""
    if not steps:
        return False
    last = steps[-1][0].inode
    return last.nlink <= 0 or any(inode is last for _, _, inode in steps)


def _shows(folder: Folder, name: bytes, inode: Inode) -> bool:
    return name in folder.kids and folder.kids[name][1] == inode.ino


def _holds(snapshot: Snapshot, inode: Inode) -> bool:
    """Whether an object is in a directory, whatever it is called there."""
    return next(entries_with(snapshot.packed, inode.read_cap), None) is not None


# --- directories inside themselves -------------------------------------------------------------------------


def above_itself(tree: Tree, folder: Folder, cap: bytes) -> Inode | None:
    """The directory at or above `folder` with this read cap, if the root is above that."""
    directories = (folder.inode, *tree.ancestors(folder.inode))
    if directories[-1].ino != ROOT:
        return None  # what is above has changed, and is not known yet
    return next((above for above in directories if above.caps is not None and above.caps[1] == cap), None)


def take_away(tree: Tree, folder: Folder, name: bytes, above: Inode) -> bool:
    """Remove a name that leads to the directory `above` it, if a move left it there: others may mean it so."""
    raw = folder.base_raw(name)
    if (
        raw is None
        or name in folder.pending
        or tree.read_only
        or folder.node is None
        or not folder.node.writable
    ):
        return False
    seen = see(raw, None, tree.options)
    if seen.ino is None or seen.attributes.crtime != above.attributes.crtime:
        return False
    log.info("a directory is inside itself, as moves at the same time leave it; the inner name is removed")
    folder.show(name, above.ino)
    change = Change(tree)
    change.point(folder, name, None)
    change.commit(freeing=True)
    tree.kernel.entry_changed(folder.inode.ino, name)
    tree.count_subdirectories(folder)
    return True
