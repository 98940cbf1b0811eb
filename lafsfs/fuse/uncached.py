"""Which open files pass the kernel's memory by.

What is written there first is copied once more, takes new memory, and the kernel asks for a file capability before the
first write. So a file that somebody opens only to write goes around it (FOPEN_DIRECT_IO), if nobody else has it open;
whoever opens it after him and before he closes it, too: so all see what he writes at once. What is left to us then is
to take privileges away from a file that is written.

Not so with O_SYNC and O_DSYNC, where it is the kernel that asks for the fsync after each write: it does not then.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from typing import NamedTuple

import pyfuse3
from pyfuse3 import FileHandleT, FileInfo, InodeT

from lafsfs.fuse.callers import CAP_FSETID, process_has_capability
from lafsfs.fuse.set_id import FILE_CAPABILITY
from lafsfs.tree.attributes import without_set_id
from lafsfs.tree.inodes import Inode
from lafsfs.tree.tree import Tree


class _Handle(NamedTuple):
    inode: Inode
    writes: bool
    opener: int  # process


class Uncached:
    """All such handles of a mount. `allowed`: whether the kernel can keep maps of such files in step."""

    def __init__(self) -> None:
        self.allowed = False
        self.handles: dict[int, _Handle] = {}
        self._open: Counter[int] = Counter()  # inode number -> its handles
        self._writers: Counter[int] = Counter()  # inode number -> those of them that write
        # Files that were read while somebody wrote them: the kernel may have read some of that ahead of the writer.
        self._doubtful: set[int] = set()

    def opened(self, handle: int, inode: Inode, flags: int, opener: int) -> FileInfo:
        """What the kernel is told about a handle that was just made."""
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if self._passes_by(inode, flags):
            self.handles[handle] = _Handle(inode, writes, opener)
            self._open[inode.ino] += 1
            self._writers[inode.ino] += writes
            if not writes:
                self._doubtful.add(inode.ino)
            return FileInfo(fh=FileHandleT(handle), direct_io=True, keep_cache=writes)
        doubtful = inode.ino in self._doubtful
        self._doubtful.discard(inode.ino)
        return FileInfo(fh=FileHandleT(handle), keep_cache=not doubtful)

    def _passes_by(self, inode: Inode, flags: int) -> bool:
        if self._writers[inode.ino]:
            return True
        only_writes = flags & os.O_ACCMODE == os.O_WRONLY and not flags & os.O_DSYNC
        return self.allowed and only_writes and inode.opens == 1 + self._open[inode.ino]

    def released(self, handle: int) -> None:
        """The kernel has closed a handle."""
        closed = self.handles.pop(handle, None)
        if closed is not None:
            for counter, count in (self._open, 1), (self._writers, closed.writes):
                counter[closed.inode.ino] -= count
                if not counter[closed.inode.ino]:
                    del counter[closed.inode.ino]

    def take_privileges(self, tree: Tree, handle: int) -> None:
        """Somebody is about to write: what else the kernel does then (set_id.py)."""
        inode, _, opener = self.handles[handle]
        if inode.xattrs and FILE_CAPABILITY in inode.xattrs:
            tree.xattrs.remove(inode, FILE_CAPABILITY)
        mode = inode.attributes.mode
        if without_set_id(mode) != mode and not process_has_capability(opener, CAP_FSETID):
            tree.files.drop_set_id(inode)
            with suppress(OSError):
                pyfuse3.invalidate_inode(InodeT(inode.ino), attr_only=True)
