"""Removed directories and mutable files that somebody else is changing: a change wins over a removal.

An entry tells which object a name leads to, not what is in that object. So before the entry of a removed one goes, its
version must still be the one that was seen when it was removed, and afterwards, too: what came in between brings it
back. Directories that others removed while something was changed in them here come back the same way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import NotEnoughSharesError, RollbackError
from lafsfs.formats.caps import MutableWriteCap, parse
from lafsfs.transfer.servermap import Version
from lafsfs.tree.change import Change
from lafsfs.tree.directories import Folder
from lafsfs.tree.half_written import when_written
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.merge import PARKED, conflict_name

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

_AT_ONCE = 8

Ask = Callable[[Inode], Awaitable[bool]]
"""Whether a removed object was changed by somebody else."""


class Removals:
    """Looks at what is removed, and brings it back."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    async def is_contested(self, folder: Folder, name: bytes) -> bool:
        """Before a name's entry goes: if what stood there changed, a removal is undone. True: it was to be replaced,
        and both have to be kept. GridError when the grid does not tell.
        """
        inode = folder.removed[name]
        changed = await self._changed(inode)
        pending = folder.pending.get(name)
        if not changed or folder.removed.get(name) is not inode or pending is None:
            return False
        if not self._tree.may_be_on_grid(folder.inode):
            return False  # removed meanwhile: it is looked at again with the directory
        log.info("something removed was changed by somebody else; it stays")
        if pending.ino is not None:
            del folder.removed[name]
            return True
        bring_back(self._tree, folder, name, inode, changed)
        return False

    async def look_back(self, folder: Folder, removed: Mapping[bytes, Inode], ask: Ask | None = None) -> None:
        """After the entries went: whoever changed the objects in the meantime has them back. `ask`: what counts as a
        change; by default everything.
        """
        for name, inode in removed.items():
            changed = await self._changed(inode, ask)
            if not changed or inode.nlink > 0:
                continue
            if not self._tree.may_be_on_grid(folder.inode):
                folder.removed.setdefault(name, inode)  # it is looked at again with the directory
                continue
            log.info("something was changed while it was removed; it comes back")
            keep_linked(self._tree, folder, name, inode, changed)

    async def _changed(self, top: Inode, ask: Ask | None = None) -> set[Inode]:
        """What is not as it was when it was removed, and all removed directories above that."""
        ask = ask or self._is_changed
        above = dict(removed_with(top, None))
        found: set[Inode] = set()
        limit = trio.CapacityLimiter(_AT_ONCE)
        failures: list[Exception] = []

        async def look(inode: Inode) -> None:
            try:
                async with limit:
                    if await ask(inode):
                        found.add(inode)
            except Exception as problem:
                failures.append(problem)

        async with trio.open_nursery() as nursery:
            for inode in above:
                nursery.start_soon(look, inode)
        if failures:
            raise failures[0]
        for inode in list(found):
            parent = above[inode]
            while parent is not None:
                found.add(parent)
                parent = above[parent]
        return found

    async def _is_changed(self, inode: Inode) -> bool:
        """Whether it is not as it was seen last."""
        try:
            return await when_written(partial(self._has_other_version, inode))
        except (RollbackError, NotEnoughSharesError):
            return False  # nothing that could be kept

    async def _has_other_version(self, inode: Inode) -> bool:
        folder = inode.folder
        if folder is not None:
            async with folder.lock:  # not while we publish it ourselves
                if folder.node is None or folder.snapshot is None or not folder.node.writable:
                    return False
                return await folder.node.version() != folder.snapshot.version
        cap = parse(inode.caps[0]) if inode.caps is not None else None
        known = self._tree.measured_version(inode)
        if known is None or not isinstance(cap, MutableWriteCap):
            return False
        return self._is_foreign(cap, await self._tree.nodes.mutable_file(cap).newest(), known)

    def _is_foreign(self, cap: MutableWriteCap, newest: Version, known: Version) -> bool:
        """Whether somebody else wrote the newest version. (We may have, by another name of the same object.)"""
        index = cap.storage_index
        ours = self._tree.nodes.memory.written.get(index) if index is not None else None
        return newest not in (known, ours)


def bring_back(
    tree: Tree, folder: Folder, name: bytes, inode: Inode, changed: Collection[Inode] = ()
) -> None:
    """Link a removed object again, and what is removed below it and in `changed`."""
    if folder.removed.get(name) is inode:
        del folder.removed[name]
    inode = _in_table(tree, inode)
    tree.lost_directories.discard(inode)
    change = Change(tree)
    change.settled(inode)
    if inode.nlink <= 0:
        change.count_links(inode, (2 if inode.is_dir else 1) - inode.nlink)
    change.point(folder, name, inode)
    change.commit()
    tree.count_subdirectories(folder)
    tree.kernel.entry_changed(folder.inode.ino, name)
    below = inode.folder
    if below is None:
        return
    below.checked = float("-inf")
    for kid, removed in list(below.removed.items()):
        if removed in changed and kid not in below.kids:
            bring_back(tree, below, kid, removed, changed)
    tree.publisher.directory_changed(below)


def _in_table(tree: Tree, inode: Inode) -> Inode:
    """The inode that now stands for a removed object. Its number may have been given again since; and a directory that
    was found by another name is another inode under this one.
    """
    known = tree.inodes.get(inode.ino) or inode
    same = known is inode or known.read_cap == inode.read_cap
    if same and not (known.is_dir and known.links):
        return known
    return inode.twin(tree.inodes.fresh_number())


def keep_linked(
    tree: Tree, folder: Folder, name: bytes, inode: Inode, changed: Collection[Inode] = ()
) -> None:
    """Somebody removed or replaced what we are changing: it keeps its name, or gets another one if that is taken, or
    was a temporary one.
    """
    if name in folder.kids or name.startswith(PARKED):
        name = conflict_name(name, tree.options.label, time.time(), folder.kids.__contains__)
        bring_back(tree, folder, name, inode, changed)
        tree.note_conflict(inode)
    else:
        bring_back(tree, folder, name, inode, changed)
    folder.returned[name] = folder.kids[name][1]


def ensure_linked(tree: Tree, inode: Inode) -> None:
    """A file is about to be written: if others took its name, or a directory above it, meanwhile, that comes back."""
    if inode.lost is not None and inode.nlink <= 0:
        _reappear(tree, inode)
    if tree.lost_directories:
        for directory in tree.ancestors(inode):
            if directory.lost is not None and directory.nlink <= 0:
                _reappear(tree, directory)


def _reappear(tree: Tree, inode: Inode) -> None:
    assert inode.lost is not None
    above = tree.inodes.get(inode.lost[0])
    if above is None or above.folder is None or above.nlink <= 0:
        above = tree.inode(ROOT)
    assert above.folder is not None
    tree.check_changeable(above.folder)
    name, inode.lost = inode.lost[1], None
    if not inode.is_dir:
        inode.alias = tree.inodes.fresh_number()
    keep_linked(tree, above.folder, name, inode)


def removed_with(inode: Inode, parent: Inode | None) -> Iterator[tuple[Inode, Inode | None]]:
    """What was removed with an object, each with the directory above it."""
    yield inode, parent
    if inode.folder is not None:
        for removed in inode.folder.removed.values():
            yield from removed_with(removed, inode)
