"""Open files: read, write, truncate, sync."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import NoSpaceError
from lafsfs.formats.caps import LiteralCap, parse
from lafsfs.nodes.maker import FileNode
from lafsfs.transfer.convergence import HashedAlong
from lafsfs.tree.attributes import now, without_set_id
from lafsfs.tree.change import Change
from lafsfs.tree.contents import read_node, read_staged
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.hashed_writes import append_and_hash, lags, write_and_hash
from lafsfs.tree.inodes import Inline, Inode, Staged
from lafsfs.tree.large_transfers import LargeTransfers
from lafsfs.tree.removals import ensure_linked
from lafsfs.tree.staging import Buffer, StagedFile

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

INLINE_MAX = 16 * 1024  # unpublished contents up to this size live in the journal
SIZE_MAX = 1 << 44  # 16 TiB, as on ext4


class OpenFile:
    """A handle. `reader` is the node of the content it reads, made on first use for `version` of the inode.

    `appends`: opened with O_APPEND.
    """

    __slots__ = ("appends", "inode", "reader", "version", "writable")

    def __init__(self, inode: Inode, writable: bool, appends: bool = False) -> None:
        self.appends = appends
        self.inode = inode
        self.writable = writable
        self.reader: FileNode | None = None
        self.version = -1


class Files:
    """All open files of a tree.

    Changes of one file are serialised by a lock per inode, taken only where a change awaits (writes in a worker thread,
    rewriting a log); those in the loop are done without an await and are atomic by that.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._handles: dict[int, OpenFile] = {}
        self._locks: dict[int, trio.Lock] = {}
        self.large = LargeTransfers()
        self._lingering: dict[int, int] = {}  # inode number -> handle
        self._next = 1

    def __len__(self) -> int:
        return len(self._handles)

    # --- handles -------------------------------------------------------------------------------------

    async def open(self, inode: Inode, flags: int, *, privileged: bool = True) -> int:
        """A new handle; O_TRUNC empties the file, and takes the set-id bits unless `privileged`.

        EROFS where the content cannot be changed, EIO where its cap gives no access to it, ESTALE if it is gone.
        """
        _check_there(inode)
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if writable or flags & os.O_TRUNC:
            self._tree.check_writable(inode)
            await self._tree.publisher.mutable.opened(inode)
        elif inode.content is None and inode.caps is not None:
            self._tree.file_node(inode.caps)  # what nobody can read is no empty file
        handle = self._new_handle(inode, writable, bool(flags & os.O_APPEND))
        if flags & os.O_TRUNC:
            try:
                await self.truncate(inode, 0)
                if not privileged:
                    self.drop_set_id(inode)
            except BaseException:
                await self.release(handle)
                raise
        return handle

    def drop_set_id(self, inode: Inode) -> None:
        """Somebody without privilege changes the content: the mode loses its set-ID bits (attributes.py)."""
        mode = without_set_id(inode.attributes.mode)
        if mode != inode.attributes.mode:
            change = Change(self._tree)
            change.touch(inode, mode=mode)
            change.commit()

    def opened(self, inode: Inode, writable: bool) -> int:
        """A handle of a file that was just created."""
        return self._new_handle(inode, writable)

    def _new_handle(self, inode: Inode, writable: bool, appends: bool = False) -> int:
        number = self._next
        self._next += 1
        self._handles[number] = OpenFile(inode, writable, appends)
        inode.opens += 1
        inode.writers += writable
        return number

    def inode_of(self, handle: int) -> Inode:
        """The inode of a handle; EBADF if there is no such handle."""
        return self._handle(handle).inode

    def _handle(self, number: int) -> OpenFile:
        try:
            return self._handles[number]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def linger(self, inode: Inode) -> None:
        """A file is about to be replaced: who found it just before can open it still, until the kernel forgets it."""
        if inode.lookups > 0 and inode.content is not None and inode.ino not in self._lingering:
            self._lingering[inode.ino] = self._new_handle(inode, writable=False)

    def forgotten(self, ino: int) -> None:
        """The kernel does not know an inode any more."""
        handle = self._lingering.pop(ino, None)
        if handle is not None:
            self._close(handle)

    async def release(self, handle: int) -> None:
        """The last reference to a handle is gone."""
        self._close(handle)

    def _close(self, handle: int) -> None:
        file = self._handles.pop(handle, None)
        if file is None:
            return
        inode = file.inode
        inode.opens -= 1
        inode.writers -= file.writable
        if inode.opens == 0:
            self._forget_lock(inode)
            self._settle(inode)
        if file.writable and inode.writers == 0 and inode.dirty and inode.nlink > 0:
            self._tree.publisher.file_changed(inode)

    def _settle(self, inode: Inode) -> None:
        """Nobody has the file open any more: give back what only an open file needs."""
        content = inode.content
        if isinstance(content, Inline):
            if inode.nlink > 0:
                content.data = None
        elif isinstance(content, Staged):
            if inode.nlink <= 0:
                self._tree.staging.retire(content.file)
            else:
                content.file.idle()
        self._tree.inodes.drop_if_unused(inode)

    # --- reading ---------------------------------------------------------------------------------------

    async def read(self, handle: int, offset: int, size: int) -> bytes | bytearray:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        file = self._handle(handle)
        return await self.read_inode(file.inode, offset, size, file)

    async def read_inode(
        self, inode: Inode, offset: int, size: int, file: OpenFile | None = None
    ) -> bytes | bytearray:
        """As `read`, for content without a handle (symlink targets). ESTALE if it was removed."""
        _check_there(inode)
        end = min(offset + size, inode.attributes.size)
        if offset >= end:
            return b""
        content = inode.content
        if isinstance(content, Inline):
            return self.inline_data(inode, content)[offset:end]
        if isinstance(content, Staged):
            at_once = self.large.read_at_once(end - offset, self._tree.requests)
            return await read_staged(content.file, self._reader(inode, file), offset, end, at_once=at_once)
        reader = self._reader(inode, file)
        if offset == 0:
            self._tree.walks.reads(inode)
        return b"" if reader is None else await read_node(reader, offset, end - offset)

    def inline_data(self, inode: Inode, content: Inline) -> bytes:
        """The bytes of a small unpublished content; kept in memory while the file is open."""
        if content.data is not None:
            return content.data
        data = self._tree.journal.content(inode.ino)
        if inode.opens:
            content.data = data
        return data

    def _reader(self, inode: Inode, file: OpenFile | None) -> FileNode | None:
        if inode.caps is None:
            return None
        if file is None:
            return self._tree.file_node(inode.caps)
        if file.reader is None or file.version != inode.version:
            file.reader = self._tree.file_node(inode.caps)
            file.version = inode.version
        return file.reader

    # --- writing ---------------------------------------------------------------------------------------

    async def write(self, handle: int, offset: int, data: Buffer) -> int:
        """Put `data` at `offset`; on return it survives a crash of this process. NoSpaceError (see pushback.py)."""
        file = self._handle(handle)
        inode = file.inode
        self._tree.check_writable(inode)
        ensure_linked(self._tree, inode)
        offset = _end_or(offset, file)
        self._check_size(inode, offset + len(data))
        await self._tree.publisher.mutable.before(inode, offset, offset + len(data))
        if not self._tree.staging.has_room(len(data)):
            raise NoSpaceError("the staging limit is reached, or the disk is full")
        if self._is_for_the_loop(inode, len(data)):
            began = trio.current_time()
            self._write_now(inode, _end_or(offset, file), data)
            self._tell_size(file)
            self.large.began_at(began)
            return len(data)
        async with self.changing(inode):
            offset = _end_or(offset, file)
            staged = self._to_staged(inode)
            mtime = now()
            await append_and_hash(staged, offset, data, mtime)
            self._grown(inode, staged, mtime)
            if staged.wasteful:
                await self._rewrite(inode, staged)
        self._tell_size(file)
        return len(data)

    def _is_for_the_loop(self, inode: Inode, size: int) -> bool:
        lock, content = self._locks.get(inode.ino), inode.content
        if lock is not None and lock.locked():
            return False
        if isinstance(content, Staged) and (content.file.wasteful or lags(content.file)):
            return False
        return self.large.write_at_once(size, self._tree.requests)

    def _tell_size(self, file: OpenFile) -> None:
        """The kernel may have reckoned the end of the file from an older size."""
        if file.appends and file.inode.followed:
            self._tree.kernel.inode_changed(file.inode.ino, content=True)

    def _check_size(self, inode: Inode, size: int) -> None:
        """EFBIG for a file, sparse or not, that all servers together could not take: holes take space there. (A small
        one is not worth the question.)
        """
        if size <= inode.attributes.size or size <= INLINE_MAX:
            return
        room, _ = self._tree.nodes.space()
        if size > SIZE_MAX or (room and size > room):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))

    def is_changing(self, inode: Inode) -> bool:
        """Whether somebody is inside of `changing`."""
        lock = self._locks.get(inode.ino)
        return lock is not None and lock.locked()

    @asynccontextmanager
    async def changing(self, inode: Inode) -> AsyncIterator[None]:
        """One change of this content at a time, where changes await."""
        lock = self._locks.setdefault(inode.ino, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            self._forget_lock(inode)

    def _forget_lock(self, inode: Inode) -> None:
        lock = self._locks.get(inode.ino)
        if lock is not None and inode.opens == 0 and not lock.locked():
            del self._locks[inode.ino]

    def _write_now(self, inode: Inode, offset: int, data: Buffer) -> None:
        content = inode.content
        size = max(inode.attributes.size, offset + len(data))
        if not isinstance(content, Staged):
            old = self._whole_if_at_hand(inode)
            if old is not None and size <= INLINE_MAX:
                self._put_inline(inode, _patched(old, offset, data))
                return
        staged = self._to_staged(inode)
        mtime = now()
        write_and_hash(staged, offset, data, mtime)
        self._grown(inode, staged, mtime)

    def _grown(self, inode: Inode, staged: StagedFile, mtime: int) -> None:
        """A staged log holds new bytes: the attributes follow in memory, the log itself is their journal."""
        inode.attributes = inode.attributes._replace(size=staged.size, mtime=mtime, ctime=mtime)
        inode.version += 1
        self._tree.publisher.file_written(inode)

    def _whole_if_at_hand(self, inode: Inode) -> bytes | None:
        """The whole content if it is small and needs no network."""
        content = inode.content
        if isinstance(content, Inline):
            return self.inline_data(inode, content)
        if content is not None or inode.attributes.size > INLINE_MAX or inode.caps is None:
            return None
        cap = parse(inode.caps[1])
        return cap.data if isinstance(cap, LiteralCap) else None

    def _put_inline(self, inode: Inode, data: bytes, **times: int) -> None:
        change = Change(self._tree)
        self._tree.publisher.mutable.note_base(change, inode)
        change.content(inode, Inline(data))
        t = now()
        change.touch(inode, size=len(data), **(times or {"mtime": t, "ctime": t}))
        old = inode.content
        if isinstance(old, Staged):
            change.retire(old.file)
        change.commit()

    def _to_staged(self, inode: Inode) -> StagedFile:
        """Give the file a log of its own if it has none; the journal names it on return."""
        content = inode.content
        if isinstance(content, Staged):
            return content.file
        area = self._tree.staging
        if isinstance(content, Inline):
            staged = area.create(0, 0)
            data = self.inline_data(inode, content)
            staged.write(0, data, inode.attributes.mtime)
            staged.hashed = HashedAlong(self._tree.nodes.beginning().extended(data))
        else:
            size = inode.attributes.size
            staged = area.create(size, size if inode.caps is not None else 0)
            staged.hashed = None if size else HashedAlong(self._tree.nodes.beginning())
        staged.fd()  # the file must exist before the journal names it
        crash_point("staging.create")
        change = Change(self._tree)
        if isinstance(content, Inline):
            change.unfold(inode, staged)
        else:
            self._tree.publisher.mutable.note_base(change, inode)
            change.content(inode, Staged(staged))
        try:
            change.commit()
        except BaseException:
            staged.remove()
            raise
        return staged

    async def truncate(self, inode: Inode, size: int, **times: int) -> None:
        """Set the size; mtime and ctime are now unless given. ESTALE if the file was removed."""
        _check_there(inode)
        self._tree.check_writable(inode)
        ensure_linked(self._tree, inode)
        self._check_size(inode, size)
        if size:
            await self._tree.publisher.mutable.before(inode, size, inode.attributes.size)
        async with self.changing(inode):
            old = b"" if size == 0 else None
            if not isinstance(inode.content, Staged) and size <= INLINE_MAX and old is None:
                old = self._whole_if_at_hand(inode)
            if old is not None:
                self._put_inline(inode, old[:size].ljust(size, b"\0"), **times)
                return
            staged = self._to_staged(inode)
            mtime = times.get("mtime", now())
            staged.truncate(size, mtime)
            self._grown(inode, staged, mtime)
            if times:
                change = Change(self._tree)
                change.touch(inode, **times)
                change.commit()

    async def _rewrite(self, inode: Inode, old: StagedFile) -> None:
        """Copy what still counts of a log into a fresh one. The caller holds the lock."""
        fresh = self._tree.staging.create(old.size, old.base_limit)
        try:
            await trio.to_thread.run_sync(_copy_live, old, fresh)
            fresh.rewritten()
            await trio.to_thread.run_sync(fresh.sync)
            crash_point("staging.rewrite")
            change = Change(self._tree)
            change.content(inode, Staged(fresh))
            change.retire(old)
            change.commit()
        except BaseException:
            fresh.remove()
            raise

    # --- the disk and the grid -------------------------------------------------------------------------

    async def sync(self, handle: int) -> None:
        """fsync: as durable on return as the mount's `fsync` option promises (contrib/doc/durability.md)."""
        await self._tree.sync(self._handle(handle).inode)


def _check_there(inode: Inode) -> None:
    """ESTALE for a file whose content went with its last name before anybody opened it: the kernel looks again then.

    It may have found the file just before another one was renamed over it.
    """
    content = inode.content
    if inode.nlink > 0 or inode.opens or content is None:
        return
    if isinstance(content, Staged) or content.data is None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def _end_or(offset: int, file: OpenFile) -> int:
    """Where a write goes: the kernel reckons the end of a file from a size that may be older than what we follow."""
    if file.appends and file.inode.followed:
        return file.inode.attributes.size
    return offset


def _patched(old: bytes, offset: int, data: Buffer) -> bytes:
    if offset == len(old):
        return b"".join((old, data))
    out = bytearray(old)
    if offset > len(out):
        out += bytes(offset - len(out))
    out[offset : offset + len(data)] = data
    return bytes(out)


def _copy_live(old: StagedFile, fresh: StagedFile) -> None:
    """Copy all mapped bytes, joining neighbours into full records."""
    mtime = old.mtime or 0
    start, held = 0, bytearray()
    for piece in old.extents:
        assert piece.record is not None
        if held and (piece.start != start + len(held) or len(held) >= 1 << 20):
            fresh.write(start, held, mtime)
            held = bytearray()
        if not held:
            start = piece.start
        held += old.read_record(piece.record)[piece.skip : piece.skip + piece.end - piece.start]
    if held:
        fresh.write(start, held, mtime)
    if fresh.size != old.size:
        fresh.truncate(old.size, mtime)
