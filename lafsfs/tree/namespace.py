"""Names across directories: lookup, create, link, rename, unlink. Each change is one atomic Change."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from lafsfs.tree import acl
from lafsfs.tree.attributes import born_with, new_attributes, now
from lafsfs.tree.change import Change
from lafsfs.tree.directories import NAME_MAX, Folder
from lafsfs.tree.glimpses import Glimpse
from lafsfs.tree.inodes import Inline, Inode, Staged
from lafsfs.tree.new_files import inherited

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

LINK_MAX = 65000
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


def error(number: int) -> OSError:
    """What the kernel is answered."""
    return OSError(number, os.strerror(number))


class Namespace:
    """Changes of names. Directories are loaded first (that may wait for the grid); check and change then happen
    without an await in between.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    # --- finding ---------------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode that `name` leads to; ENOENT, ENOTDIR, ENAMETOOLONG."""
        if name == b".":
            return await self._tree.measured(await self._tree.finder.find(parent))
        if name == b"..":
            return self._tree.parent_of(await self._tree.finder.find(parent))
        if len(name) > NAME_MAX:
            raise error(errno.ENAMETOOLONG)
        folder = await self._tree.folder(parent)
        inode = self._child(folder, name)
        if inode.nlink > 1 and not inode.is_dir:
            await self._tree.hard_links.refresh(inode)
            inode = self._child(folder, name)
        return await self._tree.measured(inode)

    def glimpse(self, parent: int, name: bytes) -> tuple[int, Glimpse] | None:
        """As `lookup`, if the directory is at hand and there is a glimpse of what the name leads to (resolving.py)."""
        inode = self._tree.inodes.get(parent)
        folder = inode.folder if inode is not None and inode.nlink > 0 else None
        kid = folder.kids.get(name) if folder is not None else None
        if folder is None or kid is None or not self._tree.inodes.is_glimpsed(kid[1]):
            return None
        if name in folder.hidden or not self._tree.is_fresh(folder):
            return None
        return self._tree.glimpse(folder, name, kid[1])

    def _child(self, folder: Folder, name: bytes) -> Inode:
        inode = self._tree.resolve(folder, name) if folder.inode.nlink > 0 else None
        if inode is None or name in folder.hidden:
            raise error(errno.ENOENT)
        return inode

    # --- making ----------------------------------------------------------------------------------------

    async def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        owner: tuple[int, int],
        *,
        umask: int = 0,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        """Make a file, directory, symlink (with `target`) or special file. `owner` is (uid, gid).

        A default ACL of the directory takes the place of the umask.
        """
        folder = await self.open_for_new(parent, name)
        directory = folder.inode
        mode, gid = born_with(directory.attributes, mode, owner[1])
        above = directory.xattrs if self._tree.options.acl else None
        mode, xattrs = acl.born_with(above, mode, umask)
        attributes = new_attributes(mode, owner[0], gid, rdev, len(target))
        is_dir = stat.S_ISDIR(mode)
        inode = Inode(self._tree.inodes.fresh_number(), attributes, None, nlink=2 if is_dir else 1)
        inode.xattrs = inherited(directory, xattrs) if is_dir else xattrs
        change = Change(self._tree)
        if is_dir:
            inode.folder = Folder(inode, None)
            inode.folder.loaded = True
            change.count_links(directory, +1)
            inode.born = directory.ino, name
        else:
            change.content(inode, Inline(target))
        change.stamp_at(directory, attributes.mtime)
        change.point(folder, name, inode)
        change.commit()
        return inode

    async def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """A further name for a file."""
        inode = self._tree.inode(ino)
        if inode.is_dir:
            raise error(errno.EPERM)
        await self._tree.hard_links.prepare()
        folder = await self.open_for_new(parent, name)
        self._tree.check_names_changeable(inode)  # a further name changes the entries of all there are
        if inode.nlink >= LINK_MAX:
            raise error(errno.EMLINK)
        if inode.nlink <= 0:
            raise error(errno.ENOENT)
        change = Change(self._tree)
        change.count_links(inode, +1)
        change.age(inode, now())
        change.stamp(folder.inode)
        change.point(folder, name, inode)
        self._tree.hard_links.add(change, inode)
        change.commit()
        return inode

    async def open_for_new(self, parent: int, name: bytes) -> Folder:
        """The directory, if `name` can be made there: EROFS, EEXIST, ENOENT, ENOTDIR, ENAMETOOLONG, EPERM."""
        if len(name) > NAME_MAX:
            raise error(errno.ENAMETOOLONG)
        folder = await self._tree.folder(parent)
        self._tree.check_changeable(folder)
        if folder.inode.nlink <= 0:
            raise error(errno.ENOENT)
        if name in folder.hidden:
            raise error(errno.EPERM)
        if name in folder.kids or name in (b".", b".."):
            raise error(errno.EEXIST)
        return folder

    # --- removing --------------------------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes) -> None:
        """Take a name of a file away; the file goes with its last name, its content with the last close."""
        folder = await self._tree.folder(parent)
        inode = self._child(folder, name)
        self._tree.check_changeable(folder)
        if inode.is_dir:
            raise error(errno.EISDIR)
        change = Change(self._tree)
        self._drop(change, inode)
        change.stamp(folder.inode)
        change.point(folder, name, None)
        change.commit()

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        folder = await self._tree.folder(parent)
        inode = self._child(folder, name)
        if not inode.is_dir:
            raise error(errno.ENOTDIR)
        self._tree.check_changeable(folder)
        await self._check_empty(inode)
        if self._child(folder, name) is not inode:
            raise error(errno.ENOENT)
        if inode.folder is not None and inode.folder.kids:
            raise error(errno.ENOTEMPTY)
        self.remove_directory(folder, name, inode)

    def remove_directory(self, folder: Folder, name: bytes, inode: Inode) -> None:
        """Take the name of a directory away, whatever is in it; what is in it stays on the grid. ReadOnlyError."""
        self._tree.check_changeable(folder)
        change = Change(self._tree)
        self._drop(change, inode)
        change.count_links(folder.inode, -1)
        change.stamp(folder.inode)
        change.point(folder, name, None)
        change.commit()

    async def _check_empty(self, directory: Inode) -> None:
        try:
            folder = await self._tree.folder(directory.ino)
        except OSError as problem:
            if problem.errno == errno.ELOOP:
                return  # it is inside itself: all that is in it is there above as well
            raise
        if folder.kids:
            raise error(errno.ENOTEMPTY)

    def _drop(self, change: Change, inode: Inode) -> None:
        """One name less; for a directory, the directory itself."""
        change.count_links(inode, -inode.nlink if inode.is_dir else -1)
        if not inode.is_dir:
            self._tree.hard_links.tidy(change, inode, self._tree.hard_links.count(inode) - 1)
        change.age(inode, now())
        content = inode.content
        if inode.nlink > 1 and not inode.is_dir:
            return
        if isinstance(content, Staged) and inode.opens == 0:
            change.retire(content.file)
        elif isinstance(content, Inline) and inode.opens and content.data is None:
            content.data = self._tree.journal.content(inode.ino)  # its row goes, its readers stay

    # --- renaming --------------------------------------------------------------------------------------

    async def rename(self, parent: int, name: bytes, parent2: int, name2: bytes, flags: int = 0) -> None:
        """rename(2) with RENAME_NOREPLACE and RENAME_EXCHANGE."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise error(errno.EINVAL)
        if len(name2) > NAME_MAX:
            raise error(errno.ENAMETOOLONG)
        source = await self._tree.folder(parent)
        target = await self._tree.folder(parent2) if parent2 != parent else source
        if name2 in target.hidden:
            raise error(errno.EPERM)
        self._check_changeable(source, target)
        old = self._tree.resolve(target, name2)
        waits = old is not None
        if old is not None and old.is_dir and not flags:
            if self._child(source, name).is_dir and old is not self._child(source, name):
                await self._check_empty(old)
            old = self._tree.resolve(target, name2)
        if old is not None:
            # What was there may be safe already; what takes its name must not be less so.
            await self._tree.syncer.sync_content(self._child(source, name))
            old = self._tree.resolve(target, name2)
        inode = self._child(source, name)
        if waits:
            self._check_changeable(source, target)
        if not (self._tree.kernel.knows(parent, name) and self._tree.kernel.knows(parent2, name2)):
            # It would go on with what it believes to have moved. Now it looks at both names and comes again.
            raise error(errno.ESTALE)
        if target.inode.nlink <= 0:
            raise error(errno.ENOENT)
        if old is not None and flags & RENAME_NOREPLACE:
            raise error(errno.EEXIST)
        self._check_no_loop(inode, target)
        if flags & RENAME_EXCHANGE:
            self._exchange(source, name, inode, target, name2, old)
        elif inode is not old:
            self._move(source, name, inode, target, name2, old)

    def _check_changeable(self, source: Folder, target: Folder) -> None:
        self._tree.check_changeable(source)
        if target is not source:
            self._tree.check_changeable(target)

    def _check_no_loop(self, inode: Inode, target: Folder) -> None:
        """A directory cannot go below itself (the kernel checks too; two clients make it happen all the same)."""
        above = target.inode
        while inode.is_dir and above.ino != 1:
            if above is inode:
                raise error(errno.EINVAL)
            above = self._tree.parent_of(above)

    def _move(
        self,
        source: Folder,
        name: bytes,
        inode: Inode,
        target: Folder,
        name2: bytes,
        old: Inode | None,
    ) -> None:
        change = Change(self._tree)
        if old is not None:
            self._check_replaceable(inode, old)
            if not old.is_dir and old.nlink == 1:
                self._tree.files.linger(old)
            self._drop(change, old)
            if old.is_dir:
                change.count_links(target.inode, -1)
        if inode.is_dir and source is not target:
            change.count_links(source.inode, -1)
            change.count_links(target.inode, +1)
        t = now()
        change.stamp_at(source.inode, t)
        if target is not source:
            change.stamp_at(target.inode, t)
        change.settled(inode)
        change.age(inode, t)
        change.point(source, name, None)
        change.point(target, name2, inode)
        change.commit()

    def _check_replaceable(self, inode: Inode, old: Inode) -> None:
        if not old.is_dir and inode.is_dir:
            raise error(errno.ENOTDIR)
        if old.is_dir:
            if not inode.is_dir:
                raise error(errno.EISDIR)
            if old.folder is not None and old.folder.kids:
                raise error(errno.ENOTEMPTY)

    def _exchange(
        self, source: Folder, name: bytes, inode: Inode, target: Folder, name2: bytes, old: Inode | None
    ) -> None:
        if old is None:
            raise error(errno.ENOENT)
        self._check_no_loop(old, source)
        if old is inode:
            return
        change = Change(self._tree)
        for moved, here, there in ((inode, source, target), (old, target, source)):
            if moved.is_dir and here is not there:
                change.count_links(here.inode, -1)
                change.count_links(there.inode, +1)
            change.settled(moved)
            change.age(moved, now())
        change.stamp(source.inode, target.inode)
        change.point(source, name, old)
        change.point(target, name2, inode)
        change.commit()
