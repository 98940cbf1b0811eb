"""Replacing a directory in the tree by an immutable one that holds the same (immutable.py makes it)."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from lafsfs.errors import BadCapError, BusyError, UsageError
from lafsfs.formats.caps import DirCap, parse
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree.attributes import now
from lafsfs.tree.change import Change, attempts_key
from lafsfs.tree.directories import UNKNOWN, Folder
from lafsfs.tree.immutable import Builder, Sealed
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.stillness import below, differs, still

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


async def seal(tree: Tree, top: Inode, timeout: float | None = None) -> tuple[DirCap, Sealed]:
    """Make the directory `top`, and all below it, immutable; its read cap, and what was done.

    All of it is on the grid on return, and the edge to it in the journal. While it works, changes below `top` are
    answered EROFS, as they are from then on. UsageError for the root and for files; BadCapError for what cannot be
    immutable, ReadOnlyError where the edge cannot be changed; BusyError, PendingError: see `still`. GridError. None of
    them changes anything.
    """
    if top.ino == ROOT:
        raise UsageError("the root of a mount has no name that could lead to an immutable directory instead")
    if not top.is_dir:
        raise UsageError("only a directory can be sealed")
    _check_edge(tree, top)
    async with still(tree, top, timeout):
        cap = _cap_of(top)
        if not cap.is_mutable:
            return cap, Sealed()
        builder = Builder(tree)
        sealed_cap = await builder.directory(cap, tree.path_of(top), frozenset())
        await _replace(tree, top, builder.sealed)
        return sealed_cap, builder.sealed


def _check_edge(tree: Tree, top: Inode) -> None:
    for directory, _ in top.links:
        parent = tree.inode(directory).folder
        if parent is not None:
            tree.check_changeable(parent)
    if top.nlink <= 0 or not top.links:
        raise UsageError("that directory is not there any more")


def _cap_of(inode: Inode) -> DirCap:
    cap = parse(inode.caps[0] or inode.caps[1]) if inode.caps is not None else None
    if not isinstance(cap, DirCap):
        raise BadCapError("a directory that cannot be read")
    return cap


async def _replace(tree: Tree, top: Inode, sealed: Sealed) -> None:
    """Let the edge to `top` lead to the immutable directory, and what is in memory below it follow."""
    async with AsyncExitStack() as stack:
        await _hold(tree, top, stack)
        _check_edge(tree, top)
        if any(differs(inode) for inode in below(tree, top) if inode is not top):
            raise BusyError("something was changed there just when it began; nothing was sealed")
        change = Change(tree)
        _separate(tree, top, sealed, change)
        before = _read_cap(top)
        made = sealed.caps[before]
        change.caps(top, (b"", made.to_bytes()))
        change.touch(top, ctime=now())
        for inode in below(tree, top):
            if inode.folder is not None and inode.folder.attempts:
                change.meta(attempts_key(inode.ino), None)
        change.then(partial(_follow, tree, top, before, sealed))
        change.commit()
    tree.kernel.inode_changed(top.ino, content=False)


async def _hold(tree: Tree, top: Inode, stack: AsyncExitStack) -> None:
    """Take the locks of all directories in memory: nobody fetches one while it becomes another one."""
    held: set[Folder] = set()
    while more := [
        inode.folder for inode in below(tree, top) if inode.folder is not None and inode.folder not in held
    ]:
        for folder in more:
            await stack.enter_async_context(folder.lock)
            held.add(folder)


def _read_cap(inode: Inode) -> bytes:
    assert inode.caps is not None
    return inode.caps[1]


def _separate(tree: Tree, top: Inode, sealed: Sealed, change: Change) -> None:
    """Files with several names lose those at and below `top`, which lead to files of their own now."""
    inside = {inode.ino for inode in below(tree, top) if inode.is_dir}
    for ino, count in sealed.apart.items():
        inode = tree.hard_links.find(ino)
        if inode is None:
            continue
        for directory, name in tuple(inode.links):
            above = tree.inodes.get(directory)
            if directory in inside and above is not None and above.folder is not None:
                above.folder.show(name, UNKNOWN)
                tree.kernel.entry_changed(directory, name)
                tree.inodes.unlink(inode, directory, name)
        change.count_links(inode, -min(count, inode.nlink))
        change.touch(inode, ctime=now())
        tree.hard_links.tidy(change, inode, tree.hard_links.count(inode))


def _follow(tree: Tree, top: Inode, before: bytes, sealed: Sealed) -> None:
    """What programs hold of the subtree stays valid: the same inodes are those of the immutable objects now."""
    inodes = [
        (inode, _read_cap(inode)) for inode in below(tree, top) if inode.caps is not None and inode is not top
    ]
    loaded: list[tuple[Folder, Snapshot]] = []
    for inode, key in [*inodes, (top, before)]:
        cap = sealed.caps.get(key)
        if cap is None:
            continue
        inode.caps = (b"", cap.to_bytes())
        inode.version += 1
        if inode.folder is not None and isinstance(cap, DirCap):
            inode.folder.node = tree.nodes.directory(cap)
            inode.folder.attempts = {}
            if inode.folder.loaded:
                loaded.append((inode.folder, sealed.snapshots[key]))
    for folder, snapshot in loaded:
        tree.adopt_same(folder, snapshot)
