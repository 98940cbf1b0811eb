"""Opening a tree: everything the journal holds comes back to memory and goes on towards the grid.

There is no separate repair step. Reading the journal is idempotent: a crash during recovery changes nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lafsfs.errors import JournalError
from lafsfs.formats.caps import DirCap, parse
from lafsfs.tree.attributes import Attributes
from lafsfs.tree.directories import Folder, Pending
from lafsfs.tree.inodes import ROOT, Inline, Inode, Staged
from lafsfs.tree.journal import Batch
from lafsfs.tree.publishing import attempts_key

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)


def recover(tree: Tree) -> None:
    """Fill the tree from its journal; what cannot be read is listed in `tree.errors`, the rest comes back."""
    logs: set[str] = set()
    for ino, row in tree.journal.objects():
        try:
            _object(tree, ino, row, logs)
        except (OSError, JournalError, TypeError, ValueError) as problem:
            tree.journal.broken.append(f"object {ino} ({type(problem).__name__})")
    for directory, edge in tree.journal.edges():
        inode = tree.inodes.get(directory)
        if inode is None or inode.folder is None:
            tree.journal.broken.append(f"an entry of directory {directory}, which is lost")
            continue
        folder = inode.folder
        child = tree.inodes.get(edge.ino) if edge.ino is not None else None
        if edge.ino is not None and child is None:
            tree.journal.broken.append(f"an entry of directory {directory} leads to a lost object")
            continue
        folder.pending[edge.name] = Pending(edge.ino, edge.base, edge.base_ino, tree.next_version())
        if child is not None:
            child.pending += 1
            tree.inodes.link(child, directory, edge.name)
        if folder.loaded and child is not None:
            folder.show(edge.name, child.ino)
    _drop_orphans(tree)
    tree.staging.remove_all_but(logs)
    tree.errors.extend(f"the local journal is damaged: {what}" for what in tree.journal.broken)
    for what in tree.journal.broken:
        log.error("the local journal is damaged: %s", what)
    _schedule(tree)


def _object(tree: Tree, ino: int, row: Any, logs: set[str]) -> None:
    attributes, nlink, xattrs, extra, caps, content, parent = row
    inode = tree.inodes.get(ino) if ino == ROOT else None
    if inode is None:
        inode = Inode(ino, Attributes(*attributes), tuple(caps) if caps else None, nlink)
    else:
        inode.attributes, inode.nlink = Attributes(*attributes), nlink
    inode.xattrs, inode.extra, inode.stored = xattrs, extra, True
    if content is not None and content[0] == "i":
        inode.content = Inline(None)
    elif content is not None:
        _, name, size, limit, known = content
        logs.add(name)
        staged = tree.staging.recover(name, size, limit, known)
        inode.content = Staged(staged)
        t = staged.mtime
        inode.attributes = inode.attributes._replace(size=staged.size)
        if t is not None:
            inode.attributes = inode.attributes._replace(mtime=t, ctime=t)
        staged.idle()
        if staged.damaged:
            tree.journal.broken.append(f"staged content of object {ino}")
    if inode.is_dir and inode.folder is None:
        cap = parse(inode.caps[0] or inode.caps[1]) if inode.caps else None
        inode.folder = Folder(inode, tree.nodes.directory(cap) if isinstance(cap, DirCap) else None)
        inode.folder.loaded = inode.caps is None
    if inode.folder is not None and ino != ROOT and parent is not None:
        tree.inodes.link(inode, parent[0], bytes(parent[1]))
    if inode.folder is not None:
        for name, marks in tree.journal.meta(attempts_key(ino)) or ():  # type: ignore[attr-defined]
            inode.folder.attempts[name] = set(marks)
    tree.inodes.add(inode)


def _drop_orphans(tree: Tree) -> None:
    """Rows of objects that nothing leads to (they were unlinked while open when the crash came)."""
    batch = Batch()
    for inode in list(tree.inodes):
        alive = inode.ino == ROOT or inode.pending or (inode.is_dir and inode.folder and inode.folder.pending)
        if inode.stored and not alive and (inode.dirty or not inode.is_dir):
            batch.objects[inode.ino] = None
            batch.contents[inode.ino] = None
            inode.stored = False
            if isinstance(inode.content, Staged):
                inode.content.file.remove()
    if batch.objects:
        tree.journal.commit(batch)
    for inode in list(tree.inodes):
        tree.inodes.drop_if_unused(inode)


def _schedule(tree: Tree) -> None:
    for inode in list(tree.inodes):
        if inode.is_dir and inode.folder is not None and (inode.folder.pending or inode.caps is None):
            tree.publisher.directory_changed(inode.folder)
        elif not inode.is_dir and inode.content is not None and inode.nlink > 0:
            tree.publisher.file_changed(inode)
