"""What the grid can still be asked for: whether an object can be reached from the root, and what must wait for that.

What keeps a moved object reachable at any instant (contrib/doc/concurrency.md):

* a name is added only when what it leads to is on the grid;
* a removed name whose object lives on elsewhere waits until it can be reached there, and so does a removed
  directory out of which something was moved;
* a replaced name whose object lives on elsewhere, but not yet on the grid, or is a directory that holds such an
  object, leaves it under a temporary name in the same version, removed later by the rule before (so two exchanged
  names cannot wait for each other).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

from lafsfs.tree.directories import Folder, Pending
from lafsfs.tree.inodes import ROOT, Inode, InodeTable
from lafsfs.tree.links import Link

if TYPE_CHECKING:
    from lafsfs.tree.hard_links import HardLinks


class Reachability:
    """Answers from what is in memory: everything that differs from the grid is."""

    def __init__(self, inodes: InodeTable, hard_links: HardLinks) -> None:
        self._inodes = inodes
        self._hard_links = hard_links

    def reachable(
        self, inode: Inode, without: frozenset[Link] = frozenset(), adding: Collection[Link] = ()
    ) -> bool:
        """Whether the grid leads from the root to `inode` by names other than `without`, as far as we know.

        `adding` are names that count as published.
        """

        def has(link: Link, pending: Pending | None, ino: int) -> bool:
            return link not in without and (pending is None or pending.base_ino == ino or link in adding)

        return self._leads_to(inode, has)

    def is_shown(self, inode: Inode) -> bool:
        """Whether the grid leads from the root to `inode` when everything pending has been published."""
        return self._leads_to(inode, lambda *_: True)

    def _leads_to(self, inode: Inode, has: Callable[[Link, Pending | None, int], bool]) -> bool:
        """Whether names lead from the root to `inode`, of those that are known the ones that the grid `has`."""
        seen: set[int] = set()
        left = [inode]
        while left:
            here = left.pop()
            if here.ino == ROOT:
                return True
            if here.ino in seen:
                continue
            seen.add(here.ino)
            links = list(self._hard_links.names(here))
            # Recovered, and not looked up since, or its other names were not: not pending, so the grid has them.
            if not links and here.nlink > 0 and (here.hint is not None or self._hard_links.has_anchor(here)):
                return True
            for link in links:
                parent = self._inodes.get(link[0])
                if parent is None or parent.folder is None:
                    if has(link, None, here.ino):
                        return True  # its directory is not even loaded: nothing of it is pending
                elif has(link, parent.folder.pending.get(link[1]), here.ino):
                    left.append(parent)
        return False

    def ready(self, folder: Folder, added: set[bytes]) -> list[bytes]:
        """The names of `folder` that one version can have: of `added`, and of the removed ones."""
        # A replaced name is parked if need be: only removed ones may have to wait.
        removing = any(pending.ino is None for pending in folder.pending.values())
        links = {(folder.inode.ino, name) for name in added} if removing else set[Link]()
        return [
            name
            for name, pending in folder.pending.items()
            if name in added or (pending.ino is None and self._may_go(folder, name, links))
        ]

    def _may_go(self, folder: Folder, name: bytes, adding: set[Link]) -> bool:
        """Whether the grid's entry of a removed name is not needed any more."""
        old = self._replaced(folder, name)
        if old is None:
            return True
        if old.nlink <= 0:
            return self._is_emptied(old, adding)
        if not old.links:
            return True
        return self._is_elsewhere(old, (folder.inode.ino, name), adding)

    def lost(self, folder: Folder, name: bytes) -> list[Inode]:
        """What a removed or replaced name would have to wait for in vain."""
        pending, old = folder.pending[name], self._replaced(folder, name)
        if old is None:
            return []
        if old.nlink <= 0:
            return [moved for moved in moved_out(self._inodes, old) if not self.is_shown(moved)]
        return [old] if pending.ino is None and old.links and not self.is_shown(old) else []

    def _replaced(self, folder: Folder, name: bytes) -> Inode | None:
        """What the grid still has under a removed or replaced name, as far as it is known here."""
        pending = folder.pending[name]
        old = self._inodes.get(pending.base_ino) if pending.base_ino is not None else None
        return None if old is None or old.ino == pending.ino else old

    def must_park(self, folder: Folder, name: bytes, adding: set[Link]) -> Inode | None:
        """The object that would be lost by replacing `name` in a version that adds `adding`, or in which something else
        would be. A directory could be lost by what others move at the same time (moves.py), unless the same version
        has it.
        """
        moved = self._replaced(folder, name)
        if folder.pending[name].ino is None or moved is None:
            return None
        if moved.nlink <= 0:
            return None if self._is_emptied(moved, adding) else moved
        if not moved.links:
            return None
        if moved.is_dir:
            return None if _is_within(moved, adding) else moved
        return None if self._is_elsewhere(moved, (folder.inode.ino, name), adding) else moved

    def _is_emptied(self, removed: Inode, adding: set[Link]) -> bool:
        """Whether all that was moved out of a removed directory can be reached elsewhere."""
        return all(self.reachable(moved, adding=adding) for moved in moved_out(self._inodes, removed))

    def _is_elsewhere(self, moved: Inode, before: Link, adding: set[Link]) -> bool:
        return _is_within(moved, adding) or self.reachable(moved, frozenset({before}), adding)


def _is_within(moved: Inode, adding: set[Link]) -> bool:
    """Whether the same version has it under another name."""
    return any(link in adding for link in moved.links)


def moved_out(inodes: InodeTable, directory: Inode) -> Iterator[Inode]:
    """Objects that live on elsewhere, but that the grid still has somewhere in a removed directory."""
    for removed in _removed_below(inodes, directory):
        for old in _were_in(inodes, removed):
            if old.nlink > 0:
                yield old


def removed_below(inodes: InodeTable, directory: Inode) -> Iterator[Inode]:
    """A removed directory, and the removed ones that the grid still has in it."""
    return (
        removed for removed in _removed_below(inodes, directory) if removed is directory or removed.is_dir
    )


def kept_for(inodes: InodeTable, pending: Pending) -> list[Inode]:
    """The removed directories of which the journal keeps what was moved out, as long as a name is `pending`."""
    old = inodes.get(pending.base_ino) if pending.base_ino is not None else None
    return list(removed_below(inodes, old)) if old is not None and old.nlink <= 0 and old.stored else []


def _removed_below(inodes: InodeTable, directory: Inode) -> Iterator[Inode]:
    """Each once, however deep they are: on the grid, directories that were moved may still contain each other."""
    seen: set[int] = set()
    left = [directory]
    while left:
        here = left.pop()
        if here.ino not in seen:
            seen.add(here.ino)
            yield here
            left += (old for old in _were_in(inodes, here) if old.nlink <= 0)


def _were_in(inodes: InodeTable, directory: Inode) -> Iterator[Inode]:
    if directory.folder is None:
        return
    for pending in list(directory.folder.pending.values()):
        old = inodes.get(pending.base_ino) if pending.base_ino is not None else None
        if old is not None:
            yield old
