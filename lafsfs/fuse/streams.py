"""Directories that programs have open."""

from __future__ import annotations

import errno
import os

from pyfuse3 import FileHandleT

from lafsfs.tree.directories import Folder
from lafsfs.tree.inodes import Inode


class Stream:
    """One open directory. It shows what was there when it was opened or rewound, less what went since: a program that
    renames all it reads comes to an end.
    """

    __slots__ = ("end", "folder")

    def __init__(self, folder: Folder) -> None:
        self.start(folder)

    def start(self, folder: Folder) -> None:
        """Opened, or rewound."""
        self.folder = folder
        self.end = folder.next_cookie


class Streams:
    """All open directories of a mount, by handle."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._next = 1

    def open(self, folder: Folder) -> FileHandleT:
        """A new handle; the directory stays in memory until it is closed."""
        number = self._next
        self._next += 1
        self._streams[number] = Stream(folder)
        folder.inode.opens += 1
        return FileHandleT(number)

    def of(self, handle: FileHandleT) -> Stream:
        """EBADF if there is no such handle."""
        try:
            return self._streams[handle]
        except KeyError:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF)) from None

    def close(self, handle: FileHandleT) -> Inode:
        """The last reference to a handle is gone; the directory it was of."""
        inode = self.of(handle).folder.inode
        del self._streams[handle]
        inode.opens -= 1
        return inode
