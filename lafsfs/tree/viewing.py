"""Bringing directories of the grid into the tree."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, cast

import trio

from lafsfs.errors import GridError, NotEnoughSharesError
from lafsfs.formats.caps import DirCap, parse
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree import following, torn
from lafsfs.tree.directories import Folder
from lafsfs.tree.following import Following
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.kernel import Kernel, NoKernel
from lafsfs.tree.looking_ahead import LookingAhead
from lafsfs.tree.measuring import Measuring
from lafsfs.tree.moves import above_itself

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


class Viewing(Following, Measuring):
    """The part of the tree that reads directories."""

    kernel: Kernel = NoKernel()
    looked_at: set[Folder]  # by nobody who asked for what is in them
    ahead: LookingAhead

    def inode(self, ino: int) -> Inode:
        """An inode the kernel knows; ESTALE if it does not exist any more."""
        inode = self.known(ino)
        if inode is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return inode

    def parent_of(self, inode: Inode) -> Inode:
        """The directory above; the root is above itself."""
        link = inode.first_link
        if inode.ino == ROOT or link is None:
            return self.inode(ROOT)
        return self.inode(link[0])

    # --- directories ---------------------------------------------------------------------------------------

    async def open_root(self) -> None:
        """Load the root. GridError if it can be had neither from the grid nor from what was kept."""
        await self.folder(ROOT)
        await self.hard_links.open()

    async def folder(self, ino: int) -> Folder:
        """The names of a directory, at most `refresh` seconds old while the grid can be reached. ENOTDIR."""
        inode = self.inode(ino)
        folder = inode.folder
        if folder is None:
            folder = self._new_folder(inode)
        if not folder.loaded:
            self.ahead.comes_to(inode)
            async with folder.lock:
                if not folder.loaded:
                    await self.load(folder)
        elif self._stale(folder) and (not folder.lock.locked() or folder in self.looked_at):
            self.ahead.comes_to(inode)
            async with folder.lock:
                if self._stale(folder):
                    await self._refresh(folder)
        elif ino in self.ahead.expected:
            self.ahead.comes_to(inode)
        return folder

    async def look_ahead(self, inode: Inode) -> None:
        """Do what `folder` would have to wait for. Who asks for the directory meanwhile waits for the answer, too.

        Errors as for `folder`; TooSlowError.
        """
        folder = inode.folder or self._new_folder(inode)
        async with folder.lock:
            if folder.node is None or inode.nlink <= 0:
                return
            if not folder.loaded:
                await self.load(folder)
            elif self._stale(folder) and not self._is_dead:
                began = trio.current_time()
                self.looked_at.add(folder)
                try:
                    with trio.fail_after(following.PATIENCE):
                        await self._look(folder)
                    folder.checked = began  # only now
                finally:
                    self.looked_at.discard(folder)

    async def look_for_news(self, folder: Folder) -> None:
        """Look at a directory of the grid that is loaded, however lately somebody did."""
        async with folder.lock:
            if folder.node is None or folder.inode.nlink <= 0:
                return
            self.looked_at.add(folder)
            try:
                await self._refresh(folder)
            finally:
                self.looked_at.discard(folder)

    def _new_folder(self, inode: Inode) -> Folder:
        if not inode.is_dir:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        assert inode.caps is not None
        cap = parse(inode.caps[0] or inode.caps[1])
        if not isinstance(cap, DirCap):
            raise OSError(errno.EIO, "a directory that cannot be opened")
        tree = cast("Tree", self)
        above = tree.parent_of(inode)
        if above is not inode and above.folder and above_itself(tree, above.folder, inode.caps[1]):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        inode.folder = Folder(inode, self.nodes.directory(cap))
        return inode.folder

    def is_fresh(self, folder: Folder) -> bool:
        """Whether `folder` would have this one without asking the grid."""
        return folder.loaded and not self._stale(folder)

    def _stale(self, folder: Folder) -> bool:
        if folder.node is None or folder.node.deep_immutable or folder.inode.nlink <= 0:
            return False
        return trio.current_time() - folder.checked > self.options.refresh

    async def load(self, folder: Folder) -> None:
        """Read a directory for the first time; without the grid, as it was last seen. The caller holds its lock."""
        for name, before in folder.adopt(await self._newest_or_kept(folder)):
            self._lose_sight(before, (folder.inode.ino, name))
        folder.lay_journal()
        folder.checked = trio.current_time()
        folder.loaded = True
        self.count_subdirectories(folder)
        cast("Tree", self).mending.seen(folder)

    async def _newest_when_written(self, folder: Folder) -> Snapshot:
        """The newest version of a directory of which nothing is known here. Somebody who is writing the next one may
        leave nothing that can be recovered for a moment: that is waited for while the servers show something else again
        and again, and for some seconds after that.
        """
        end = trio.current_time() + torn.AFTER_OTHERS
        while True:
            try:
                return await self.newest(folder)
            except NotEnoughSharesError as problem:
                still = self.torn.still(folder.inode.ino, problem.state)
                if not problem.newest or still >= torn.STILL or trio.current_time() > end:
                    raise

    async def _newest_or_kept(self, folder: Folder) -> Snapshot:
        assert folder.node is not None
        cap = folder.node.cap.read_cap().to_bytes()
        kept = await trio.to_thread.run_sync(self.kept.find, cap)
        if kept is None:
            return await self._newest_when_written(folder)
        if not self._is_dead:
            try:
                with trio.fail_after(following.PATIENCE):
                    return await self.newest(folder)
            except (GridError, trio.TooSlowError) as problem:
                self._cannot_follow(folder, problem)
        folder.kept_since = kept.seen
        return kept.snapshot
