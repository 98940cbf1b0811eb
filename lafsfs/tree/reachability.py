"""What the grid can still be asked for: whether an object can be reached from the root, and what must wait for that.

What keeps a moved object reachable at any instant (contrib/doc/concurrency.md):

* a name is added only when what it leads to is on the grid;
* a removed name whose object lives on elsewhere waits until it can be reached there, and so does a removed
  directory out of which something was moved;
* a replaced name whose object lives on elsewhere, but not yet on the grid, leaves that object under a temporary
  name in the same version, removed later by the rule before (so two exchanged names cannot wait for each other).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from lafsfs.tree.directories import Folder, Pending
from lafsfs.tree.inodes import ROOT, Inode, InodeTable, Link

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


class Reachability:
    """Answers from what is in memory: everything that differs from the grid is."""

    def __init__(self, tree: Tree) -> None:
        self._inodes = tree.inodes
        self._hard_links = tree.hard_links

    def reachable(
        self, inode: Inode, without: frozenset[Link] = frozenset(), adding: Collection[Link] = ()
    ) -> bool:
        """Whether the grid leads from the root to `inode` by names other than `without`, as far as we know.

        `adding` are names that count as published.
        """
        if inode.ino == ROOT:
            return True
        links = list(self._hard_links.names(inode))
        if not links:
            # Recovered, and not looked up since, or its other names were not: not pending, so the grid has them.
            return inode.nlink > 0 and (inode.hint is not None or self._hard_links.has_anchor(inode))
        for link in links:
            if link in without:
                continue
            parent = self._inodes.get(link[0])
            if parent is None or parent.folder is None:
                return True  # its directory is not even loaded: nothing of it is pending
            pending = parent.folder.pending.get(link[1])
            if pending is not None and pending.base_ino != inode.ino and link not in adding:
                continue
            if self.reachable(parent, without | {link}, adding):
                return True
        return False

    def ready(self, folder: Folder, added: set[bytes]) -> list[bytes]:
        """The names of `folder` that one version can have: of `added`, and of the removed ones."""
        while True:
            links = {(folder.inode.ino, name) for name in added}
            held = {name for name in added if not self._may_go(folder, name, links)}
            if not held:
                break
            added = added - held
        return [
            name
            for name, pending in folder.pending.items()
            if name in added or (pending.ino is None and self._may_go(folder, name, links))
        ]

    def _may_go(self, folder: Folder, name: bytes, adding: set[Link]) -> bool:
        """Whether the grid's entry of a removed or replaced name is not needed any more."""
        pending = folder.pending[name]
        old = self._inodes.get(pending.base_ino) if pending.base_ino is not None else None
        if old is None or old.ino == pending.ino:
            return True
        if old.nlink <= 0:
            return all(self.reachable(moved, adding=adding) for moved in moved_out(self._inodes, old))
        if pending.ino is not None or not old.links:
            return True  # a replaced name is parked if need be
        return self._is_elsewhere(old, (folder.inode.ino, name), adding)

    def must_park(self, folder: Folder, name: bytes, adding: set[Link]) -> Inode | None:
        """The object that would be lost by replacing `name` in a version that adds `adding`."""
        pending = folder.pending[name]
        if pending.ino is None or pending.base_ino in (None, pending.ino):
            return None
        moved = self._inodes.get(pending.base_ino)
        if moved is None or moved.nlink <= 0 or not moved.links:
            return None
        return None if self._is_elsewhere(moved, (folder.inode.ino, name), adding) else moved

    def _is_elsewhere(self, moved: Inode, before: Link, adding: set[Link]) -> bool:
        within = any(link in adding for link in moved.links)  # the same version has it under another name
        return within or self.reachable(moved, frozenset({before}), adding)


def moved_out(inodes: InodeTable, directory: Inode) -> Iterator[Inode]:
    """Objects that live on elsewhere, but that the grid still has somewhere in a removed directory."""
    for old in _were_in(inodes, directory):
        if old.nlink > 0:
            yield old
        else:
            yield from moved_out(inodes, old)


def removed_below(inodes: InodeTable, directory: Inode) -> Iterator[Inode]:
    """A removed directory, and the removed ones that the grid still has in it."""
    yield directory
    for old in _were_in(inodes, directory):
        if old.nlink <= 0 and old.is_dir:
            yield from removed_below(inodes, old)


def _were_in(inodes: InodeTable, directory: Inode) -> Iterator[Inode]:
    pendings: Collection[Pending] = directory.folder.pending.values() if directory.folder is not None else ()
    for pending in list(pendings):
        old = inodes.get(pending.base_ino) if pending.base_ino is not None else None
        if old is not None:
            yield old
