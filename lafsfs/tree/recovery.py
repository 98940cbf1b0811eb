"""Opening a tree: everything the journal holds comes back to memory and goes on towards the grid.

There is no separate repair step. Reading the journal is idempotent: a crash during recovery changes nothing. What is
damaged is listed in the tree's errors; what only lost its name or its directory is put into the root (salvage.py).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lafsfs.errors import JournalError
from lafsfs.formats.caps import DirCap, parse
from lafsfs.tree.attributes import Attributes
from lafsfs.tree.change import account_inline, attempts_key
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.directories import Folder, Pending
from lafsfs.tree.inodes import ROOT, Inline, Inode, Staged
from lafsfs.tree.journal import Batch, EdgeRow
from lafsfs.tree.ledger import LEDGER_KEY
from lafsfs.tree.salvage import Losses, salvage
from lafsfs.tree.staging import StagedFile
from lafsfs.tree.syncing import LOG_KEY

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)


def recover(tree: Tree) -> None:
    """Fill the tree from its journal; what cannot be read is listed in `tree.errors`, the rest comes back."""
    reading = _Reading(tree)
    reading.objects()
    reading.edges()
    reading.contents()
    crash_point("recovery.read")
    losses = reading.losses
    if losses or tree.journal.broken:
        salvage(tree, losses, reading.logs, reading.synced)
    _drop_orphans(tree)
    tree.staging.remove_all_but(reading.logs)
    _forget_notes(tree, reading)
    _report(tree, losses)
    _schedule(tree)
    crash_point("recovery.done")


class _Reading:
    """The rows of a journal on their way to memory. `logs` are those that rows name, `synced` how far they got."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.losses = Losses()
        self.logs: set[str] = set()
        self.synced: dict[str, int] = {}
        for key, value in tree.journal.metas(LOG_KEY):
            if isinstance(value, int):
                self.synced[key.removeprefix(LOG_KEY)] = value

    def objects(self) -> None:
        for ino, row in self._tree.journal.objects():
            try:
                if row is not None:
                    self._object(ino, row)
                    continue
            except (OSError, JournalError, TypeError, ValueError):
                pass
            self.losses.objects.add(ino)

    def edges(self) -> None:
        for directory, edge in self._tree.journal.edges():
            if edge is None:
                self.losses.edges += 1
            else:
                self._edge(directory, edge)

    def contents(self) -> None:
        """Small contents that cannot be read are only noted: reading them says EIO, publishing waits for ever."""
        for inode in self._tree.inodes:
            if isinstance(inode.content, Inline) and not self._tree.journal.has_content(inode.ino):
                self.losses.contents.append(inode)

    def _object(self, ino: int, row: Any) -> None:
        tree = self._tree
        attributes, nlink, xattrs, extra, caps, content, parent, born = row
        inode = tree.inodes.get(ino) if ino == ROOT else None
        if inode is None:
            inode = Inode(ino, Attributes(*attributes), tuple(caps) if caps else None, nlink)
        else:
            inode.attributes, inode.nlink = Attributes(*attributes), nlink
        inode.xattrs, inode.extra, inode.stored = xattrs, extra, True
        inode.born = (born[0], bytes(born[1])) if born else None
        if content is not None and content[0] == "i":
            inode.content = Inline(None)
            account_inline(tree, inode)
        elif content is not None:
            self._staged(inode, *content[1:])
        if inode.is_dir:
            self._directory(inode, parent)
        tree.inodes.add(inode)

    def _staged(self, inode: Inode, name: str, size: int, limit: int, known: int) -> None:
        self.logs.add(name)
        staged = self._tree.staging.recover(name, size, limit, known, self.synced.get(name, 0))
        self._inherit(inode, staged)
        inode.content = Staged(staged)
        inode.attributes = inode.attributes._replace(size=staged.size)
        if staged.mtime is not None:
            inode.attributes = inode.attributes._replace(mtime=staged.mtime, ctime=staged.mtime)
        staged.idle()
        if staged.damaged:
            self.losses.contents.append(inode)

    def _inherit(self, inode: Inode, staged: StagedFile) -> None:
        """A content that had just been moved from the journal to a log, which the disk may not have got."""
        journal = self._tree.journal
        if journal.has_content(inode.ino):
            content = b"" if staged.length else journal.content(inode.ino)
            if content:  # a full disk has no room even for nothing
                staged.write(0, content, inode.attributes.mtime)
            staged.heir_of = inode.ino
            self._tree.staging.unsynced.add(staged)

    def _directory(self, inode: Inode, parent: Any) -> None:
        tree = self._tree
        if inode.folder is None:
            cap = parse(inode.caps[0] or inode.caps[1]) if inode.caps else None
            inode.folder = Folder(inode, tree.nodes.directory(cap) if isinstance(cap, DirCap) else None)
            inode.folder.loaded = inode.caps is None
        if inode.ino != ROOT and parent is not None:
            inode.hint = (parent[0], bytes(parent[1]))
            tree.journalled[inode.hint] = inode.ino
        for name, marks in tree.journal.meta(attempts_key(inode.ino)) or ():  # type: ignore[attr-defined]
            inode.folder.attempts[name] = set(marks)

    def _edge(self, directory: int, edge: EdgeRow) -> None:
        tree = self._tree
        parent = tree.inodes.get(directory)
        child = tree.inodes.get(edge.ino) if edge.ino is not None else None
        if edge.ino is not None and child is None:
            child = self.losses.rescued(tree, edge.ino)
            if child is None:
                self.losses.names.append((directory, edge.name))
                return
        if parent is None or parent.folder is None:
            self.losses.homeless.append((edge.name, child))
            return
        folder = parent.folder
        folder.pending[edge.name] = Pending(edge.ino, edge.base, edge.base_ino, tree.next_version())
        if child is not None:
            child.pending += 1
            tree.inodes.link(child, directory, edge.name)
        if folder.loaded and child is not None:
            folder.show(edge.name, child.ino)


def _drop_orphans(tree: Tree) -> None:
    """Rows of objects that were unlinked while open when the crash came, and of directories that are as the grid has
    them (only their row was left to delete).
    """
    batch = Batch()
    for inode in list(tree.inodes):
        holds = inode.folder is not None and bool(inode.folder.pending)
        alive = inode.ino == ROOT or inode.pending > 0 or holds
        if inode.stored and not alive:
            batch.objects[inode.ino] = None
            batch.contents[inode.ino] = None
            inode.stored = False
            tree.staging.account_inline(inode.ino, None)
            if isinstance(inode.content, Staged):
                tree.staging.retire(inode.content.file)
    if batch.objects:
        tree.journal.commit(batch, freeing=True)
    for inode in list(tree.inodes):
        tree.inodes.drop_if_unused(inode)


def _forget_notes(tree: Tree, reading: _Reading) -> None:
    """Drop what was noted about logs and uploads that are not there any more."""
    batch = Batch()
    batch.meta = {LOG_KEY + name: None for name in reading.synced if name not in reading.logs}
    for key, _ in tree.journal.metas(LEDGER_KEY):
        inode = tree.inodes.get(int(key.removeprefix(LEDGER_KEY)))
        if inode is None or inode.content is None:
            batch.meta[key] = None
    if batch.meta:
        tree.journal.commit(batch, freeing=True)


def _report(tree: Tree, losses: Losses) -> None:
    """Paths are for the status; the log is kept in the clear and only counts."""
    found = [*tree.journal.broken, *losses.describe(tree)]
    tree.errors.extend(f"the local journal is damaged: {what}" for what in found)
    if found:
        log.error("the local journal is damaged in %d places; the status lists them", len(found))


def _schedule(tree: Tree) -> None:
    for inode in list(tree.inodes):
        if inode.is_dir and inode.folder is not None and (inode.folder.pending or inode.caps is None):
            tree.publisher.directory_changed(inode.folder)
        elif not inode.is_dir and inode.content is not None and inode.nlink > 0:
            tree.publisher.file_changed(inode)
