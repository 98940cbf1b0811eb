"""A filesystem in memory, as the floor: what FUSE, pyfuse3 and Python cost when nothing is kept.

    python -m tests.bench.memory_fs MOUNTPOINT

Everything that a POSIX tree needs for the benchmarks, nothing durable, one task, the kernel's caches used as far as
they go. Ends when it is unmounted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Sequence

import pyfuse3
import trio
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

_VALID = 300.0  # seconds for which the kernel may believe what it was told: nobody else changes anything
_BLOCK = 512


class Node:
    """A file, directory or symbolic link."""

    __slots__ = ("atime", "children", "ctime", "data", "gid", "ino", "links", "lookups", "mode", "mtime",
                 "parent", "rdev", "uid", "xattrs")  # fmt: skip

    def __init__(self, ino: int, mode: int, uid: int, gid: int, parent: int) -> None:
        self.ino, self.mode, self.uid, self.gid, self.parent = ino, mode, uid, gid, parent
        self.atime = self.mtime = self.ctime = time.time_ns()
        self.data = bytearray()
        self.children: dict[bytes, int] = {}
        self.links = 2 if stat.S_ISDIR(mode) else 1
        self.lookups = 0
        self.rdev = 0
        self.xattrs: dict[bytes, bytes] = {}

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def attributes(self) -> EntryAttributes:
        """What the kernel is told of it."""
        entry = EntryAttributes()
        entry.st_ino, entry.generation = self.ino, 0
        entry.entry_timeout = entry.attr_timeout = _VALID
        entry.st_mode, entry.st_nlink, entry.st_rdev = self.mode, self.links, self.rdev
        entry.st_uid, entry.st_gid = self.uid, self.gid
        entry.st_size = len(self.data)
        entry.st_blksize, entry.st_blocks = 4096, -(-len(self.data) // _BLOCK)
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = self.atime, self.mtime, self.ctime
        return entry


class MemoryFs(pyfuse3.Operations):
    """The tree. Handles are inode numbers."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self._nodes: dict[int, Node] = {1: Node(1, stat.S_IFDIR | 0o755, os.getuid(), os.getgid(), 1)}
        self._last = 1
        self._opens: dict[int, int] = {}
        self._listings: dict[int, list[tuple[bytes, int]]] = {}

    # --- helpers -----------------------------------------------------------------------------------

    def _told(self, node: Node) -> EntryAttributes:
        node.lookups += 1
        return node.attributes()

    def _child(self, parent: int, name: bytes) -> Node:
        ino = self._nodes[parent].children.get(name)
        if ino is None:
            raise FUSEError(errno.ENOENT)
        return self._nodes[ino]

    def _add(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> Node:
        directory = self._nodes[parent]
        if name in directory.children:
            raise FUSEError(errno.EEXIST)
        self._last += 1
        node = self._nodes[self._last] = Node(self._last, mode & ~ctx.umask, ctx.uid, ctx.gid, parent)
        directory.children[name] = node.ino
        directory.links += node.is_directory
        directory.mtime = directory.ctime = node.mtime
        return node

    def _remove(self, parent: int, name: bytes, node: Node) -> None:
        directory = self._nodes[parent]
        del directory.children[name]
        directory.mtime = directory.ctime = node.ctime = time.time_ns()
        node.links -= 1
        if node.is_directory:
            directory.links -= 1
            node.links -= 1
        self._drop(node)

    def _drop(self, node: Node) -> None:
        if node.links <= 0 and not node.lookups and not self._opens.get(node.ino):
            self._nodes.pop(node.ino, None)

    # --- names -------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        return self._told(self._child(parent_inode, name))

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for ino, count in inode_list:
            node = self._nodes.get(ino)
            if node is not None:
                node.lookups -= count
                self._drop(node)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._add(parent_inode, name, mode, ctx)
        node.rdev = rdev
        return self._told(node)

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._told(self._add(parent_inode, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx))

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        node = self._add(parent_inode, name, stat.S_IFLNK | 0o777, ctx)
        node.mode = stat.S_IFLNK | 0o777
        node.data += target
        return self._told(node)

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(bytes(self._nodes[inode].data))

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory, node = self._nodes[new_parent_inode], self._nodes[inode]
        if new_name in directory.children:
            raise FUSEError(errno.EEXIST)
        directory.children[new_name] = inode
        node.links += 1
        return self._told(node)

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        self._remove(parent_inode, name, self._child(parent_inode, name))

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        node = self._child(parent_inode, name)
        if node.children:
            raise FUSEError(errno.ENOTEMPTY)
        self._remove(parent_inode, name, node)

    async def rename(
        self, parent_inode_old: InodeT, name_old: FileNameT, parent_inode_new: InodeT, name_new: FileNameT,
        flags: FlagT, ctx: RequestContext,
    ) -> None:  # fmt: skip
        if flags:
            raise FUSEError(errno.EINVAL)
        node = self._child(parent_inode_old, name_old)
        old, new = self._nodes[parent_inode_old], self._nodes[parent_inode_new]
        present = new.children.get(name_new)
        if present == node.ino:
            return
        if present is not None:
            if self._nodes[present].children:
                raise FUSEError(errno.ENOTEMPTY)
            self._remove(parent_inode_new, name_new, self._nodes[present])
        del old.children[name_old]
        new.children[name_new] = node.ino
        node.parent = parent_inode_new
        old.links -= node.is_directory
        new.links += node.is_directory
        old.mtime = new.mtime = old.ctime = new.ctime = node.ctime = time.time_ns()

    # --- attributes --------------------------------------------------------------------------------

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._nodes[inode].attributes()

    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:  # fmt: skip
        node = self._nodes[inode]
        node.ctime = time.time_ns()
        if fields.update_size:
            size = attr.st_size
            del node.data[size:]
            node.data += bytes(size - len(node.data))
            node.mtime = node.ctime
        if fields.update_mode:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            node.uid = attr.st_uid
        if fields.update_gid:
            node.gid = attr.st_gid
        if fields.update_atime:
            node.atime = attr.st_atime_ns
        if fields.update_mtime:
            node.mtime = attr.st_mtime_ns
        return node.attributes()

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = 4096
        answer.f_blocks = answer.f_bfree = answer.f_bavail = 1 << 28
        answer.f_files = answer.f_ffree = answer.f_favail = 1 << 28
        answer.f_namemax = 255
        return answer

    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        self._nodes[inode].xattrs[name] = value

    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        try:
            return self._nodes[inode].xattrs[name]
        except KeyError:
            raise FUSEError(errno.ENODATA) from None

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return [XAttrNameT(name) for name in self._nodes[inode].xattrs]

    # --- files -------------------------------------------------------------------------------------

    def _opened(self, node: Node) -> FileInfo:
        self._opens[node.ino] = self._opens.get(node.ino, 0) + 1
        return FileInfo(fh=FileHandleT(node.ino), keep_cache=True)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return self._opened(self._nodes[inode])

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        node = self._add(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return self._opened(node), self._told(node)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        return bytes(memoryview(self._nodes[fh].data)[off : off + size])

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        node = self._nodes[fh]
        if off > len(node.data):
            node.data += bytes(off - len(node.data))
        node.data[off : off + len(buf)] = buf
        node.mtime = node.ctime = time.time_ns()
        return len(buf)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing is durable here."""

    async def release(self, fh: FileHandleT) -> None:
        self._opens[fh] -= 1
        if not self._opens[fh]:
            del self._opens[fh]
            self._drop(self._nodes[fh])

    # --- directories -------------------------------------------------------------------------------

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        self._opens[inode] = self._opens.get(inode, 0) + 1
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        node = self._nodes[fh]
        if start_id == 0 or fh not in self._listings:
            self._listings[fh] = [(b".", node.ino), (b"..", node.parent), *node.children.items()]
        listing = self._listings[fh]
        for position in range(start_id, len(listing)):
            name, ino = listing[position]
            child = self._nodes.get(ino)
            if child is None:
                continue
            if not pyfuse3.readdir_reply(token, FileNameT(name), child.attributes(), position + 1):
                return
            child.lookups += position > 1

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        """Nothing is durable here."""

    async def releasedir(self, fh: FileHandleT) -> None:
        self._listings.pop(fh, None)
        await self.release(fh)


def main() -> None:
    """Serve until unmounted."""
    pyfuse3.init(
        MemoryFs(), sys.argv[1], {"fsname=memory", "subtype=memory", "default_permissions", "noatime"}
    )
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
