"""A part of the tree that holds still: nothing in it changes for a while, and all of it is on the grid."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import BusyError, PendingError
from lafsfs.tree.inodes import Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


@asynccontextmanager
async def still(tree: Tree, top: Inode, timeout: float | None = None) -> AsyncIterator[None]:
    """While the context lasts, changes in directory `top` and below are answered EROFS; on entry all is on the grid.

    BusyError when a file there is open for writing; PendingError when publishing took longer than `timeout` seconds.
    """
    if top.ino in tree.stilled:
        raise BusyError("somebody does that already")
    tree.stilled.add(top.ino)
    try:
        writing = next((inode for inode in below(tree, top) if inode.writers), None)
        if writing is not None:
            raise BusyError(f"{tree.path_of(writing)} is open for writing")
        with trio.move_on_after(float("inf") if timeout is None else timeout) as patience:
            await _publish(tree, top)
        if patience.cancelled_caught:
            raise PendingError("not all of it is on the grid yet; nothing was changed")
        yield
    finally:
        tree.stilled.discard(top.ino)


async def _publish(tree: Tree, top: Inode) -> None:
    """Return when everything at and below `top` is on the grid. Nothing new can come, but conflict copies."""
    with tree.publisher.hurried():
        while left := [inode for inode in below(tree, top) if differs(inode)]:
            for inode in left:
                await tree.publisher.published(inode)


def differs(inode: Inode) -> bool:
    """Whether the grid does not have it as it is now."""
    pending = inode.folder is not None and bool(inode.folder.pending)
    return inode.nlink > 0 and (inode.dirty or inode.pending > 0 or pending)


def below(tree: Tree, top: Inode) -> Iterator[Inode]:
    """What is in memory of `top` and all below it."""
    for inode in list(tree.inodes):
        if inode is top or any(above is top for above in tree.ancestors(inode)):
            yield inode
