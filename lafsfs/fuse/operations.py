"""pyfuse3 requests -> tree calls. The kernel checks permissions (`default_permissions`)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from typing import cast

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from lafsfs.fuse.answers import (
    Row,
    answered,
    entry,
    free,
    fresh,
    glance,
    going_on,
    known,
    linkable,
    local,
    ordinary,
    remote,
    statvfs,
    unpublished,
)
from lafsfs.fuse.callers import CAP_FSETID, CAP_SYS_ADMIN, has_capability, is_in_group
from lafsfs.fuse.interrupts import Interrupts
from lafsfs.fuse.set_id import FILE_CAPABILITY, mode_left
from lafsfs.fuse.streams import Streams
from lafsfs.fuse.uncached import Uncached
from lafsfs.tree import cap_attributes
from lafsfs.tree.changing import NewAttributes
from lafsfs.tree.directories import Folder
from lafsfs.tree.inodes import Inode
from lafsfs.tree.tree import Tree
from lafsfs.tree.xattrs import XattrValues


class Operations(pyfuse3.Operations):
    """One mounted tree."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self, tree: Tree, timeout: float) -> None:
        super().__init__()
        self.tree = tree
        self._timeout = timeout
        self._streams = Streams()
        self._row = Row(timeout)
        self.uncached = Uncached()
        self.interrupts = Interrupts()
        self.enable_acl = tree.options.acl

    def _entry(self, inode: Inode) -> EntryAttributes:
        return entry(inode, self._timeout)

    def _found(self, inode: Inode) -> EntryAttributes:
        """An answer that gives the kernel one more reference."""
        inode.lookups += 1
        return entry(inode, self._timeout)

    # --- names -----------------------------------------------------------------------------------

    @answered(fresh)
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        try:
            glimpsed = self.tree.names.glimpse(parent_inode, name)
            if glimpsed is not None:
                self.tree.inodes.glimpsed(*glimpsed)
                return glance(*glimpsed, self._timeout)
            return self._found(await self.tree.names.lookup(parent_inode, name))
        finally:
            self.tree.kernel.asked(parent_inode, name)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for ino, count in inode_list:
            self.tree.forget(ino, count)

    @answered(fresh)
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        owner = (ctx.uid, ctx.gid)
        made = await self.tree.names.create(parent_inode, name, mode, owner, umask=ctx.umask, rdev=rdev)
        return self._found(made)

    @answered(fresh)
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        owner = (ctx.uid, ctx.gid)
        return self._found(await self.tree.names.create(parent_inode, name, mode, owner, umask=ctx.umask))

    @answered(fresh)
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        mode = stat.S_IFLNK | 0o777
        owner = (ctx.uid, ctx.gid)
        return self._found(await self.tree.names.create(parent_inode, name, mode, owner, target=target))

    @answered(linkable)
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._found(await self.tree.names.link(inode, new_parent_inode, new_name))

    @answered(fresh)
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self.tree.names.unlink(parent_inode, name)

    @answered(fresh)
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self.tree.names.rmdir(parent_inode, name)

    @answered(fresh)
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        await self.tree.names.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    # --- attributes ------------------------------------------------------------------------------

    @answered(known)
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        glimpse = self.tree.inodes.glimpse(inode)
        if glimpse is not None and not glimpse.is_lost:
            return glance(inode, glimpse, self._timeout)
        return self._entry(await self.tree.measured(self.tree.inode(inode)))

    @answered(known)
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        target = self.tree.inode(inode)
        new = NewAttributes(
            mode=attr.st_mode if fields.update_mode else mode_left(target.attributes, fields, ctx),
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
            ctime=attr.st_ctime_ns if fields.update_ctime else None,
        )
        await self.tree.changing.set_attributes(target, new)
        return self._entry(target)

    @answered(remote)
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        link = self.tree.inode(inode)
        return FileNameT(bytes(await self.tree.files.read_inode(link, 0, link.attributes.size)))

    @answered(local)
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        total, free = self.tree.nodes.space()
        return statvfs(total, free, len(self.tree.inodes))

    @answered(ordinary)
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        target = self.tree.inode(inode)

        def keeps_set_gid() -> bool:
            return is_in_group(ctx, target.attributes.gid) or has_capability(ctx, CAP_FSETID)

        self.tree.xattrs.set(target, name, value, keeps_set_gid=keeps_set_gid)

    @answered(ordinary)
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if name in cap_attributes.NAMES:
            target = self.tree.inode(inode)
            return await self.tree.cap_attributes.get(target, name, owner=ctx.uid == os.geteuid())
        if name == FILE_CAPABILITY:
            self.tree.files.large.announced()
        return self.tree.xattrs.get(self._xattrs(inode), name)

    @answered(local)
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        values = self._xattrs(inode)
        if not values:
            return []
        privileged = has_capability(ctx, CAP_SYS_ADMIN)
        return [XAttrNameT(name) for name in self.tree.xattrs.names(values, privileged=privileged)]

    def _xattrs(self, ino: InodeT) -> XattrValues:
        """Extended attributes. What there is only a glimpse of has none."""
        return None if self.tree.inodes.is_glimpsed(ino) else self.tree.inode(ino).xattrs

    @answered(local)
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        self.tree.xattrs.remove(self.tree.inode(inode), name)

    # There is no `flush`: every write is in the journal or its log when it returns, nothing is left to do at close,
    # and a kernel that was once answered ENOSYS does not ask again.

    # --- files -----------------------------------------------------------------------------------

    @answered(known)
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        target = await self.tree.measured(self.tree.inode(inode), needed=True)
        handle = await self.tree.files.open(target, flags, privileged=ctx.uid == 0)
        self.interrupts.files[handle] = ctx.pid
        return self.uncached.opened(handle, target, flags, ctx.pid)

    @answered(fresh)
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        owner = (ctx.uid, ctx.gid)
        try:
            inode = await self.tree.names.create(parent_inode, name, mode, owner, umask=ctx.umask)
        except FileExistsError:
            # The kernel saw no such name a moment ago, another mount made it since. ESTALE has it look again.
            raise FUSEError(errno.EEXIST if flags & os.O_EXCL else errno.ESTALE) from None
        handle = self.tree.files.opened(inode, flags & os.O_ACCMODE != os.O_RDONLY)
        self.interrupts.files[handle] = ctx.pid
        return self.uncached.opened(handle, inode, flags, ctx.pid), self._found(inode)

    @answered(unpublished)
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return cast(bytes, await self.tree.files.read(fh, off, size))  # pyfuse3 takes any buffer

    @answered(free)
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        if fh in self.uncached.handles:
            self.uncached.take_privileges(self.tree, fh)
        return await self.tree.files.write(fh, off, buf)

    @answered(remote)
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self.tree.files.sync(fh)

    @answered(local)
    async def release(self, fh: FileHandleT) -> None:
        self.interrupts.files.pop(fh, None)
        self.uncached.released(fh)
        await self.tree.files.release(fh)

    # --- directories -----------------------------------------------------------------------------

    @answered(fresh)
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        folder = await self.tree.folder(inode)
        stream = self._streams.open(folder)
        self.interrupts.directories[stream] = ctx.pid
        return stream

    @answered(going_on)
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        tree = self.tree
        stream = self._streams.of(fh)
        directory = stream.folder.inode
        folder = stream.folder
        if start_id == 0:
            folder = await tree.folder(directory.ino)
            stream.start(folder)
        if start_id < 1 and not pyfuse3.readdir_reply(token, b".", self._entry(directory), 1):
            return
        above = tree.parent_of(directory) if directory.links or directory.ino == 1 else directory
        if start_id < 2 and not pyfuse3.readdir_reply(token, b"..", self._entry(above), 2):
            return
        for cookie, name, number in folder.after(max(start_id, 2)):
            if cookie >= stream.end or not self._tell(token, folder, name, number, cookie):
                return

    def _tell(self, token: ReaddirToken, folder: Folder, name: bytes, number: int, cookie: int) -> bool:
        """Put a name into the answer to `readdir`; False if there is no room."""
        tree, row = self.tree, self._row
        inode = tree.inodes.get(number)
        if inode is None:
            glimpsed = tree.glimpse(folder, name, number)
            if glimpsed is not None:
                if not pyfuse3.readdir_reply(token, FileNameT(name), row.glance(*glimpsed), cookie):
                    return False
                tree.inodes.glimpsed(*glimpsed)
                return True
        if inode is None or not inode.is_file_at(folder.inode.ino, name):
            inode = tree.resolve(folder, name)
            if inode is None:
                return True
        if not pyfuse3.readdir_reply(token, FileNameT(name), row.entry(inode), cookie):
            tree.inodes.drop_if_unused(inode)
            return False
        inode.lookups += 1
        return True

    @answered(remote)
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self.tree.sync(self._streams.of(fh).folder.inode)

    @answered(local)
    async def releasedir(self, fh: FileHandleT) -> None:
        self.interrupts.directories.pop(fh, None)
        self.tree.inodes.drop_if_unused(self._streams.close(fh))
