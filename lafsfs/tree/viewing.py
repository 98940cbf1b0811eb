"""Bringing directories of the grid into the tree, and keeping up with what others change there."""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Protocol

import trio

from lafsfs.errors import GridError, LafsError
from lafsfs.formats.caps import DirCap, MutableReadCap, MutableWriteCap, parse
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree.directories import UNKNOWN, Folder
from lafsfs.tree.entries import Seen, is_directory_entry, see
from lafsfs.tree.inodes import ROOT, Inode, InodeTable, derived_number
from lafsfs.tree.options import TreeOptions

if TYPE_CHECKING:
    from lafsfs.nodes.maker import NodeMaker

log = logging.getLogger(__name__)


class Kernel(Protocol):
    """Who must be told that something changed behind its back."""

    def entry_changed(self, directory: int, name: bytes) -> None: ...

    def inode_changed(self, ino: int, content: bool) -> None: ...


class NoKernel:
    """Nobody caches anything."""

    def entry_changed(self, directory: int, name: bytes) -> None:
        """Nothing to do."""

    def inode_changed(self, ino: int, content: bool) -> None:
        """Nothing to do."""


class Viewing:
    """The part of the tree that reads directories."""

    nodes: NodeMaker
    options: TreeOptions
    inodes: InodeTable
    kernel: Kernel = NoKernel()
    _measured: dict[int, float]

    def inode(self, ino: int) -> Inode:
        """An inode the kernel knows; ESTALE if it does not exist any more."""
        inode = self.inodes.get(ino)
        if inode is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return inode

    def parent_of(self, inode: Inode) -> Inode:
        """The directory above; the root is above itself."""
        if inode.ino == ROOT or not inode.links:
            return self.inode(ROOT) if inode.ino != ROOT else inode
        return self.inode(inode.links[0][0])

    # --- directories -----------------------------------------------------------------------------------------

    async def open_root(self) -> None:
        """Load the root. GridError if it can be had neither from the grid nor from what was kept."""
        await self.folder(ROOT)

    async def folder(self, ino: int) -> Folder:
        """The names of a directory, at most `refresh` seconds old while the grid can be reached. ENOTDIR."""
        inode = self.inode(ino)
        folder = inode.folder
        if folder is None:
            folder = self._new_folder(inode)
        if not folder.loaded:
            async with folder.lock:
                if not folder.loaded:
                    await self.load(folder)
        elif self._stale(folder) and not folder.lock.locked():
            async with folder.lock:
                if self._stale(folder):
                    await self._refresh(folder)
        return folder

    def _new_folder(self, inode: Inode) -> Folder:
        if not inode.is_dir:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        assert inode.caps is not None
        cap = parse(inode.caps[0] or inode.caps[1])
        if not isinstance(cap, DirCap):
            raise OSError(errno.EIO, "a directory that cannot be opened")
        inode.folder = Folder(inode, self.nodes.directory(cap))
        return inode.folder

    def _stale(self, folder: Folder) -> bool:
        if folder.node is None or folder.node.deep_immutable or folder.inode.nlink <= 0:
            return False
        return trio.current_time() - folder.checked > self.options.refresh

    async def load(self, folder: Folder) -> None:
        """Read a directory for the first time. The caller holds its lock."""
        assert folder.node is not None
        snapshot = await folder.node.read()
        folder.adopt(snapshot)
        folder.lay_journal()
        folder.checked = trio.current_time()
        folder.loaded = True
        subdirectories = sum(
            is_directory_entry(raw) for name in snapshot.packed.names() if (raw := snapshot.packed.raw(name))
        )
        if not folder.inode.stored:
            folder.inode.nlink = 2 + subdirectories

    async def _refresh(self, folder: Folder) -> None:
        """Look whether the grid has something newer. When it cannot be asked, what we have must do."""
        assert folder.node is not None
        folder.checked = trio.current_time()
        try:
            if folder.snapshot is not None and await folder.node.version() == folder.snapshot.version:
                return
            self.absorb(folder, await folder.node.read())
        except GridError as problem:
            log.warning("a directory could not be refreshed: %s", problem)

    def absorb(self, folder: Folder, snapshot: Snapshot) -> None:
        """Take a newer version of a directory: only what differs is invalidated, here and in the kernel."""
        for name, before in folder.adopt(snapshot):
            old = self.inodes.get(before) if before != UNKNOWN else None
            if old is not None:
                self._update(folder, name, old)
            self.kernel.entry_changed(folder.inode.ino, name)
        self.kernel.inode_changed(folder.inode.ino, content=True)

    def _update(self, folder: Folder, name: bytes, old: Inode) -> None:
        raw = folder.base_raw(name)
        if raw is None or name not in folder.kids:
            self._lose(folder, name, old)
            return
        seen = self._see(folder, raw)
        same = seen.ino in (None, old.ino) and seen.attributes.is_dir == old.is_dir
        other_directory = old.is_dir and seen.caps[1] != (old.caps or (b"", b""))[1]
        content = not old.is_dir and seen.caps != old.caps
        if not same or other_directory or (content and old.opens):
            # Whoever has the old file open keeps reading it; the name leads to a new inode.
            self._lose(folder, name, old)
            folder.show(name, UNKNOWN)
        elif not old.stored:
            old.attributes, old.caps, old.xattrs, old.extra = (
                seen.attributes,
                seen.caps,
                seen.xattrs,
                seen.extra,
            )
            old.version += content
            self.kernel.inode_changed(old.ino, content)

    def _lose(self, folder: Folder, name: bytes, old: Inode) -> None:
        self.inodes.unlink(old, folder.inode.ino, name)
        if not old.links:
            old.nlink = 0
        self.inodes.drop_if_unused(old)

    # --- entries -----------------------------------------------------------------------------------------------

    def resolve(self, folder: Folder, name: bytes) -> Inode | None:
        """The inode that a name leads to, made from its entry if need be; None if there is no such name."""
        kid = folder.kids.get(name)
        if kid is None:
            return None
        known = self.inodes.get(kid[1]) if kid[1] != UNKNOWN else None
        if known is not None:
            return known
        raw = folder.base_raw(name)
        if raw is None:
            raise OSError(errno.EIO, "an entry without an object")
        return self._from_grid(folder, name, self._see(folder, raw))

    def _see(self, folder: Folder, raw: bytes) -> Seen:
        return see(raw, folder.node.writekey if folder.node is not None else None, self.options)

    def _from_grid(self, folder: Folder, name: bytes, seen: Seen) -> Inode:
        directory = folder.inode.ino
        number = seen.ino
        there = self.inodes.get(number) if number else None
        if number is None or number <= ROOT or (there is not None and not _is_same(there, seen)):
            number = derived_number(directory, name)
            there = self.inodes.get(number)
        if there is not None and not _is_same(there, seen):
            number = self.inodes.fresh_number()
            there = None
        if there is None:
            nlink = seen.nlink or (2 if seen.attributes.is_dir else 1)
            there = Inode(number, seen.attributes, seen.caps, nlink)
            there.xattrs, there.extra = seen.xattrs, seen.extra
            self.inodes.add(there)
        folder.show(name, number)
        self.inodes.link(there, directory, name)
        return there

    async def measured(self, inode: Inode) -> Inode:
        """The same inode; the size of a mutable file, which only its servers know, is up to date."""
        if inode.content is not None or inode.caps is None or not inode.attributes.is_regular:
            return inode
        if b":SSK" not in inode.caps[1][:12] and b":MDMF" not in inode.caps[1][:12]:
            return inode
        cap = parse(inode.caps[0] or inode.caps[1])
        now = trio.current_time()
        fresh = now - self._measured.get(inode.ino, float("-inf")) < self.options.refresh
        if fresh or not isinstance(cap, MutableWriteCap | MutableReadCap):
            return inode
        self._measured[inode.ino] = now
        try:
            version = await self.nodes.mutable_file(cap).latest()
        except LafsError as problem:
            log.warning("the size of a mutable file is not known: %s", problem)
        else:
            if inode.content is None:
                inode.attributes = inode.attributes._replace(size=version.size)
        return inode


def _is_same(inode: Inode, seen: Seen) -> bool:
    """Whether an entry that carries the number of `inode` is a further name of it, or a lost name found again."""
    if inode.is_dir != seen.attributes.is_dir:
        return False
    caps = inode.caps or (b"", b"")
    if inode.is_dir:
        return not inode.links and caps[1] == seen.caps[1]
    return caps[1] == seen.caps[1] or (inode.nlink > 1 and (seen.nlink or 1) > 1)
