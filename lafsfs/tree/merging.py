"""Our changes of one directory against a newer version of it: who wins, what is kept beside it, what is united."""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING

from lafsfs.formats.caps import DirCap, parse
from lafsfs.tree.change import Change, attempts_key, forget_directory
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.directories import UNKNOWN, Folder, Pending, digest
from lafsfs.tree.entries import parsed, write_entry
from lafsfs.tree.inodes import Inode
from lafsfs.tree.journal import Batch, EdgeRow
from lafsfs.tree.merge import Verdict, conflict_name, decide
from lafsfs.tree.moves import moved_directory
from lafsfs.tree.reachability import kept_for
from lafsfs.tree.seen import Seen

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


class Merging:
    """Holds pending names against the version last seen. The caller has the directory's lock."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def merge(self, folder: Folder, ready: Collection[bytes]) -> list[bytes]:
        """Drop or rename what loses. The names under which both sides made a directory, to be united, are left."""
        return [name for name in ready if self._merge_one(folder, name)]

    def _merge_one(self, folder: Folder, name: bytes) -> bool:
        tree, pending = self._tree, folder.pending[name]
        theirs = folder.snapshot.packed.raw(folder.stored(name)) if folder.snapshot is not None else None
        if theirs is None:
            return False  # ours goes, whatever it is
        ours = None
        if pending.ino is not None and digest(theirs) != pending.base:
            inode = tree.inode(pending.ino)
            writekey = folder.node.writekey if folder.node is not None else None
            ours = write_entry(inode, folder.stored(name), name, None, writekey)
        verdict = decide(theirs, ours, pending.base, folder.attempts.get(name, ()))
        if verdict is Verdict.DROP and self._moved_along(folder, pending, theirs):
            return False
        if verdict is Verdict.DROP:
            self.let_theirs_stand(folder, name)
        elif verdict is Verdict.CONFLICT and name in folder.hidden:
            self.let_theirs_stand(folder, name)
            tree.hard_links.yielded()
        elif verdict is Verdict.CONFLICT and tree.hard_links.is_anchor((folder.inode.ino, name)):
            if tree.hard_links.is_older(pending.ino):
                self.let_theirs_stand(folder, name)
        elif verdict is Verdict.CONFLICT:
            return self.clash(folder, name)
        return False

    def _moved_along(self, folder: Folder, pending: Pending, theirs: bytes) -> bool:
        """Whether it is a directory that we moved: what others say of it under its old name holds for the new one."""
        inode = moved_directory(self._tree, pending)
        if inode is None or inode.caps is None or parsed(theirs).ro_uri != inode.caps[1]:
            return False
        mtime = self._tree.see(folder, theirs).attributes.mtime
        if mtime > inode.attributes.mtime:
            change = Change(self._tree)
            change.touch(inode, mtime=mtime)
            change.commit(freeing=True)
        return True

    def clash(self, folder: Folder, name: bytes) -> bool:
        """Both sides have something under one name: true if the two are directories that can be united, else both
        are kept.
        """
        pending = folder.pending[name]
        assert pending.ino is not None
        if pending.base is None and self._can_unite(folder, name, self._tree.inode(pending.ino)):
            return True
        self.keep_both(folder, name)
        return False

    def let_theirs_stand(self, folder: Folder, name: bytes) -> None:
        """Give up our change of a name."""
        if name in folder.pending:
            pending, batch = folder.pending[name], Batch()
            batch.edges[folder.inode.ino, name] = None
            removed = kept_for(self._tree.inodes, pending)
            for inode in removed:
                forget_directory(inode, batch)
            self._tree.journal.commit(batch, freeing=True)
            self.forget_pending(folder, name)
            self._tree.settle(self._tree.inodes.get(pending.ino or 0))
            for inode in removed:
                inode.stored = False
                self._tree.inodes.drop_if_unused(inode)
        if folder.base_raw(name) is not None:
            folder.show(name, UNKNOWN)
        elif name in folder.kids:
            folder.hide(name)
        self._tree.count_subdirectories(folder)
        self._tree.kernel.entry_changed(folder.inode.ino, name)

    def stand_aside(self, folder: Folder, name: bytes) -> None:
        """What the grid has under a name stays: a removal is given up, what was to replace it gets another name."""
        pending = folder.pending.get(name)
        if pending is None or pending.ino is None:
            self.let_theirs_stand(folder, name)
        elif folder.base_raw(name) is not None:
            self.keep_both(folder, name)

    def forget_pending(self, folder: Folder, name: bytes) -> None:
        """A name does not differ from the grid any more; its journal row is gone already."""
        pending = folder.pending.pop(name)
        inode = self._tree.inodes.get(pending.ino) if pending.ino is not None else None
        if inode is not None:
            inode.pending -= 1

    # --- both are kept -----------------------------------------------------------------------------------

    def keep_both(self, folder: Folder, name: bytes) -> None:
        """Theirs has the name, ours another one beside it."""
        pending = folder.pending[name]
        assert pending.ino is not None
        inode = self._tree.inode(pending.ino)
        theirs = self._tree.see(folder, folder.base_raw(name) or b"")
        taken = partial(self._is_taken, folder, inode)
        # All who put back the same at the same time call it the same, so that there is one copy of it.
        when = theirs.attributes.mtime / 1e9 if folder.mark_of(name, pending) is not None else time.time()
        other = conflict_name(name, self._tree.options.label, when, taken)
        change = Change(self._tree)
        if theirs.ino == inode.ino and inode.nlink == 1 and not inode.writers:
            # The number stays with theirs. (Whoever is writing keeps writing ours, whatever its number.)
            copy = inode.twin(self._tree.inodes.fresh_number())
            change.touch(copy)
            change.count_links(inode, -1)
            # The kernel may open it by that number before it hears of this: what is written then is kept, too.
            change.then(partial(setattr, inode, "lost", (folder.inode.ino, name)))
            inode = copy
        change.point(folder, other, inode)
        change.point(folder, name, None)
        change.commit(freeing=True)
        crash_point("directory.conflict")
        self.let_theirs_stand(folder, name)
        self._tree.note_conflict(inode)

    @staticmethod
    def _is_taken(folder: Folder, inode: Inode, name: bytes) -> bool:
        """Whether a name leads to something else. To the same it leads if another mount kept it, too."""
        raw = folder.base_raw(name)
        if name not in folder.kids or name in folder.pending or raw is None or not inode.read_cap:
            return name in folder.kids
        return parsed(raw).ro_uri != inode.read_cap or folder.kids[name][1] not in (UNKNOWN, inode.ino)

    # --- two directories become one ----------------------------------------------------------------------

    def _can_unite(self, folder: Folder, name: bytes, inode: Inode) -> bool:
        """Whether ours is a directory that nobody else knows yet, and theirs one that we can write."""
        raw = folder.base_raw(name)
        if raw is None or inode.folder is None or inode.born != (folder.inode.ino, name):
            return False
        cap = parse(self._tree.see(folder, raw).caps[0])
        return isinstance(cap, DirCap) and cap.is_writable

    async def unite(self, folder: Folder, name: bytes) -> None:
        """Two mkdirs of one name: ours becomes theirs, and what is in ours is added to it."""
        inode = self._tree.inodes.get(folder.pending[name].ino or 0)
        if inode is None or inode.folder is None:
            return
        ours = inode.folder
        async with ours.lock:
            if not ours.loaded:
                await self._tree.load(ours)
            pending, raw = folder.pending.get(name), folder.base_raw(name)
            if pending is None or pending.ino != inode.ino or raw is None:
                return  # removed or replaced meanwhile
            self._become(folder, name, inode, self._tree.see(folder, raw))
        crash_point("directory.united")
        self._tree.count_subdirectories(folder)
        self._tree.kernel.inode_changed(inode.ino, content=True)
        self._tree.publisher.directory_changed(ours)
        self._tree.settle(inode)  # nothing was in it

    def _become(self, folder: Folder, name: bytes, inode: Inode, theirs: Seen) -> None:
        tree, ours = self._tree, inode.folder
        assert ours is not None
        cap = parse(theirs.caps[0])
        assert isinstance(cap, DirCap)
        kids = {kid: tree.resolve(ours, kid) for kid in list(ours.kids)}
        before = inode.caps, inode.attributes, inode.xattrs, inode.extra, inode.born
        inode.caps, inode.attributes, inode.born = theirs.caps, theirs.attributes, None
        inode.xattrs, inode.extra = theirs.xattrs, theirs.extra
        batch = Batch()
        batch.edges[folder.inode.ino, name] = None
        batch.meta[attempts_key(inode.ino)] = None
        batch.objects[inode.ino] = inode.row()
        added: dict[bytes, Pending] = {}
        for kid in {*ours.pending, *kids}:
            child = kids.get(kid)
            batch.edges[inode.ino, kid] = EdgeRow(kid, child.ino, None, None) if child is not None else None
            if child is not None:
                batch.objects[child.ino] = child.row()
                added[kid] = Pending(child.ino, None, None, tree.next_version())
        try:
            tree.journal.commit(batch, freeing=True)
        except BaseException:
            inode.caps, inode.attributes, inode.xattrs, inode.extra, inode.born = before
            raise
        self.forget_pending(folder, name)
        inode.stored = True
        for kid in list(ours.pending):
            self.forget_pending(ours, kid)
        for kid, pending in added.items():
            child = tree.inode(pending.ino or 0)
            child.stored, child.pending = True, child.pending + 1
            ours.pending[kid] = pending
        ours.start_over(tree.nodes.directory(cap))
