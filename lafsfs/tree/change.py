"""One atomic change of the working tree: first the journal, then memory, or neither.

A Change collects new field values of inodes and new targets of names. `commit` writes one journal transaction and, only
when that succeeded, makes the values visible. Nothing in between awaits, so other tasks see all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from lafsfs.tree.attributes import Attributes, now
from lafsfs.tree.directories import UNKNOWN, Folder, Pending, digest
from lafsfs.tree.inodes import ROOT, Caps, Inline, Inode, InodeTable, Staged
from lafsfs.tree.journal import Batch, EdgeRow
from lafsfs.tree.reachability import moved_out, removed_below
from lafsfs.tree.staging import StagedFile

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


class Change:
    """Collects what one operation changes."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._fields: dict[Inode, dict[str, Any]] = {}
        self._edges: dict[tuple[Folder, bytes], Inode | None] = {}
        self._data: dict[int, bytes] = {}
        self._unfolded: set[int] = set()
        self._meta: dict[str, object | None] = {}
        self._frees = False  # whether unpublished content is given up: that must be possible on a full disk
        self._after: list[Callable[[], None]] = []

    # --- collecting ----------------------------------------------------------------------------------

    def attributes(self, inode: Inode) -> Attributes:
        """The attributes as this change leaves them so far."""
        fields = self._fields.get(inode)
        found: Attributes = fields["attributes"] if fields and "attributes" in fields else inode.attributes
        return found

    def touch(self, inode: Inode, **values: int) -> None:
        """Set attributes (mode, uid, gid, size, atime, mtime, ctime ...)."""
        if "ctime" in values and inode.nlink > 1:  # it decides between the names of a file, so it must grow
            values["ctime"] = max(values["ctime"], inode.attributes.ctime + 1)
        self._set(inode, "attributes", self.attributes(inode)._replace(**values))

    def stamp(self, *inodes: Inode) -> None:
        """mtime and ctime are now: the content, or the names of a directory, changed."""
        t = now()
        for inode in inodes:
            self.stamp_at(inode, t)

    def stamp_at(self, inode: Inode, t: int) -> None:
        """As `stamp`, at the time `t`."""
        self._stamp(inode, t, t)

    def age(self, inode: Inode, t: int) -> None:
        """ctime is `t`: names of a file, or its name, changed."""
        self._stamp(inode, None, t)

    def _stamp(self, inode: Inode, mtime: int | None, t: int) -> None:
        fields = self._fields.get(inode)
        if fields is None:
            fields = self._fields[inode] = {}
        before: Attributes = fields.get("attributes", inode.attributes)
        ctime = t if inode.nlink <= 1 else max(t, inode.attributes.ctime + 1)  # as in `touch`
        fields["attributes"] = before.stamped(before.mtime if mtime is None else mtime, ctime)

    def count_links(self, inode: Inode, difference: int) -> None:
        self._set(inode, "nlink", self.nlink(inode) + difference)

    def nlink(self, inode: Inode) -> int:
        """The link count as this change leaves it so far."""
        count: int = self._fields.get(inode, {}).get("nlink", inode.nlink)
        return count

    def xattrs(self, inode: Inode, values: dict[bytes, bytes] | None) -> None:
        self._set(inode, "xattrs", values)

    def caps(self, inode: Inode, caps: Caps) -> None:
        self._set(inode, "caps", caps)

    def settled(self, inode: Inode) -> None:
        """The inode is not where it was made any more."""
        self._set(inode, "born", None)

    def content(self, inode: Inode, content: Inline | Staged | None) -> None:
        """Replace where the bytes are; an Inline's data goes to the journal with this change."""
        self._set(inode, "content", content)
        if isinstance(content, Inline) and content.data is not None:
            self._data[inode.ino] = content.data

    def unfold(self, inode: Inode, log: StagedFile) -> None:
        """Move a content from the journal to a log. Its row goes when the disk has the log (syncing.py)."""
        self._set(inode, "content", Staged(log))
        self._unfolded.add(inode.ino)
        log.heir_of = inode.ino

    def point(self, folder: Folder, name: bytes, inode: Inode | None) -> None:
        """Let `name` lead to `inode`, or to nothing."""
        self._edges[folder, name] = inode

    def then(self, action: Callable[[], None]) -> None:
        """Run `action` after the journal has it."""
        self._after.append(action)

    def retire(self, log: StagedFile) -> None:
        """Give up a log that no row names after this change."""
        self._frees = True
        self._after.append(partial(self._tree.staging.retire, log))

    def meta(self, key: str, value: object | None) -> None:
        """Set a value beside the tree; None removes it."""
        self._meta[key] = value

    def _set(self, inode: Inode, field: str, value: object) -> None:
        self._fields.setdefault(inode, {})[field] = value

    # --- committing ----------------------------------------------------------------------------------

    def commit(self, *, freeing: bool = False) -> None:
        """Journal, then memory. NoSpaceError and JournalError leave everything as it was.

        `freeing`: it is a step of publishing, which must be possible on a full disk.
        """
        batch = Batch(self._meta)
        self._spread()
        pendings = self._plan_edges(batch)
        previous = self._assign()
        try:
            self._rows(batch, pendings)
            self._tree.journal.commit(batch, freeing=freeing or self._frees)
        except BaseException:
            for inode, field, value in previous:
                setattr(inode, field, value)
            raise
        self._show(pendings)
        for action in self._after:
            action()

    def _spread(self) -> None:
        """Changed attributes are kept in the parents' edges: those differ from the grid now, too."""
        table = self._tree.inodes
        for inode, fields in list(self._fields.items()):
            if not inode.links or inode.ino == ROOT:
                continue
            if inode.pending >= len(inode.links) and not _may_be_waited_for(inode, fields):
                continue  # all of them differ already, and are sent as the inode is then
            for directory, name in inode.links:
                parent = table.get(directory)
                folder = parent.folder if parent is not None else None
                if folder is None or (folder, name) in self._edges:
                    continue
                if folder.node is not None and not folder.node.writable:
                    continue  # a mutable file there can change, what its directory says of it cannot
                if name in folder.kids and folder.kids[name][1] == inode.ino:
                    self._edges[folder, name] = inode

    def _plan_edges(self, batch: Batch) -> list[tuple[Folder, bytes, Inode | None, Pending | None]]:
        planned: list[tuple[Folder, bytes, Inode | None, Pending | None]] = []
        for (folder, name), inode in self._edges.items():
            old = folder.pending.get(name)
            if old is not None:
                base, base_ino = old.base, old.base_ino
            else:
                base = digest(folder.base_raw(name))
                base_ino = folder.kids[name][1] if base is not None and name in folder.kids else None
            directory = folder.inode
            if (
                inode is None
                and base is None
                and name not in folder.publishing
                and name not in folder.attempts
            ):
                pending = None  # the grid never knew that name
                batch.edges[directory.ino, name] = None
            else:
                ino = inode.ino if inode is not None else None
                pending = Pending(ino, base, base_ino, self._tree.next_version())
                if old is None or old[:3] != pending[:3]:  # else the journal has that row already
                    batch.edges[directory.ino, name] = EdgeRow(name, ino, base, base_ino)
            self._fields.setdefault(directory, {})  # the row keeps the directory's caps at hand
            if inode is not None:
                self._fields.setdefault(inode, {})  # what a pending name leads to is not found on the grid
            planned.append((folder, name, inode, pending))
        return planned

    def _assign(self) -> list[tuple[Inode, str, Any]]:
        """Show the new values; what they were before."""
        previous: list[tuple[Inode, str, Any]] = []
        for inode, fields in self._fields.items():
            for field, value in fields.items():
                previous.append((inode, field, getattr(inode, field)))
                setattr(inode, field, value)
        return previous

    def _rows(self, batch: Batch, planned: list[tuple[Folder, bytes, Inode | None, Pending | None]]) -> None:
        for inode, fields in self._fields.items():
            if inode.nlink <= 0:
                self._frees = True
                self._row_of_removed(batch, inode)
                continue
            if not fields and inode.stored:
                continue
            batch.objects[inode.ino] = inode.row()
            if "content" not in fields:
                continue
            self._frees = self._frees or inode.content is None
            if inode.ino in self._data:
                batch.contents[inode.ino] = self._data[inode.ino]
            elif not isinstance(inode.content, Inline) and inode.ino not in self._unfolded:
                batch.contents[inode.ino] = None

    def _row_of_removed(self, batch: Batch, inode: Inode) -> None:
        if self._is_needed(inode):
            # The grid's entry must stay until what was moved out can be reached elsewhere (reachability.py).
            batch.objects[inode.ino] = inode.row()
            return
        batch.contents[inode.ino] = None
        if inode.folder is None:
            batch.objects[inode.ino] = None
            return
        for directory in removed_below(self._tree.inodes, inode):
            forget_directory(directory, batch)

    def _is_needed(self, removed: Inode) -> bool:
        """Whether something was moved out of a removed directory that the grid still has there."""
        folder = removed.folder
        if folder is None or not folder.pending:
            return False
        return next(moved_out(self._tree.inodes, removed), None) is not None

    def _show(self, planned: list[tuple[Folder, bytes, Inode | None, Pending | None]]) -> None:
        tree = self._tree
        for inode, fields in self._fields.items():
            inode.stored = inode.nlink > 0 or self._is_needed(inode)
            if "content" in fields or "caps" in fields:
                inode.version += 1
            if "content" in fields or (inode.nlink <= 0 and not inode.is_dir):
                account_inline(tree, inode)
            if fields:
                inode.edition += 1
            tree.inodes.add(inode)
        for folder, name, target, pending in planned:
            shown = folder.kids.get(name)
            if target is not None and shown is not None and shown[1] == target.ino:
                tree.inodes.link(target, folder.inode.ino, name)  # only what its entry says of it changes
            else:
                _relink(tree, folder, name, target)
            repend(tree.inodes, folder, name, pending)
            if target is None and pending is None and folder.base_raw(name) is not None:
                # Ours never got to the grid, but somebody else's came under that name meanwhile.
                folder.show(name, UNKNOWN)
                tree.kernel.entry_changed(folder.inode.ino, name)
        folders = {folder for folder, _, _, _ in planned}
        for inode, fields in self._fields.items():
            if not inode.dirty or inode.nlink <= 0:
                continue
            if inode.folder is not None:
                folders.add(inode.folder)
            elif "content" in fields or tree.publisher.files.get(inode.ino) is None:
                tree.publisher.file_changed(inode)  # its job may have ended while it had no name
        for folder in folders:
            tree.publisher.directory_changed(folder)


def _may_be_waited_for(inode: Inode, fields: dict[str, Any]) -> bool:
    """Whether names may have waited for the new values: their directories are told. They wait until a content is on
    the grid, so one unpublished content in the place of another is nothing to them.
    """
    if "content" in fields:
        return "caps" in fields or inode.content is None or fields["content"] is None
    return "caps" in fields


def attempts_key(directory: int) -> str:
    """Where the journal keeps the digests of entries of a directory that may have reached the grid."""
    return f"attempts:{directory}"


def forget_directory(inode: Inode, batch: Batch) -> None:
    """Delete an object's row and, of a directory, all that differs from the grid in it."""
    batch.objects[inode.ino] = None
    if inode.folder is not None:
        batch.meta[attempts_key(inode.ino)] = None
        for name in inode.folder.pending:
            batch.edges[inode.ino, name] = None


def account_inline(tree: Tree, inode: Inode) -> None:
    """Content in the journal counts against the staging limit as well."""
    inline = isinstance(inode.content, Inline) and inode.nlink > 0
    tree.staging.account_inline(inode.ino, inode.attributes.size if inline else None)


def repend(inodes: InodeTable, folder: Folder, name: bytes, pending: Pending | None) -> None:
    """Let a name differ from the grid in this way, and inodes know how many such names lead to them."""
    old = folder.pending.get(name)
    before, after = old.ino if old else None, pending.ino if pending else None
    if pending is not None:
        folder.pending[name] = pending
    elif old is not None:
        del folder.pending[name]
    if before != after:
        if before is not None:
            _count_pending(inodes, before, -1)
        if after is not None:
            _count_pending(inodes, after, +1)


def _count_pending(inodes: InodeTable, ino: int, difference: int) -> None:
    inode = inodes.get(ino)
    if inode is not None:
        inode.pending += difference


def _relink(tree: Tree, folder: Folder, name: bytes, inode: Inode | None) -> None:
    """Bring the visible names, and the way back from inodes to names, up to date."""
    directory = folder.inode.ino
    shown = folder.kids.get(name)
    if shown is not None and (inode is None or shown[1] != inode.ino):
        old = tree.inodes.get(shown[1])
        if old is not None:
            tree.inodes.unlink(old, directory, name)
            if old.nlink <= 0 and old.caps is not None and old.caps[0]:
                folder.removed.setdefault(name, old)  # somebody may be changing it (removals.py)
    if inode is not None and folder.removed.get(name) is inode:
        del folder.removed[name]
    if inode is not None:
        folder.show(name, inode.ino)
        tree.inodes.link(inode, directory, name)
    elif shown is not None:
        folder.hide(name)
