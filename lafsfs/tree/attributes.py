"""Mode, owner, times and their rules."""

from __future__ import annotations

import stat
import time
from typing import NamedTuple

from lafsfs.formats.metadata import Posix

DIRECTORY_SIZE = 4096
BLOCK = 512
TIME_MIN, TIME_MAX = -(1 << 63), (1 << 63) - 1  # nanoseconds: 1677 to 2262


_TYPES = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


class Attributes(NamedTuple):
    """What stat shows of an inode, but for numbers and link counts. Times are signed nanoseconds."""

    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    atime: int
    mtime: int
    ctime: int
    crtime: int

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    def stamped(self, mtime: int, ctime: int) -> Attributes:
        """The same with these times. (Every change of a name does this; `_replace` takes twice as long.)"""
        return Attributes(*self[:6], mtime, ctime, self[8])


def bounded(time_ns: int) -> int:
    """The nearest time that can be kept."""
    return min(max(time_ns, TIME_MIN), TIME_MAX)


def now() -> int:
    """The time as POSIX nanoseconds."""
    return time.time_ns()


def new_attributes(mode: int, uid: int, gid: int, rdev: int = 0, size: int = 0) -> Attributes:
    """Attributes of something made this moment."""
    t = now()
    if stat.S_ISDIR(mode):
        size = DIRECTORY_SIZE
    return Attributes(mode, uid, gid, rdev, size, t, t, t, t)


def born_with(parent: Attributes, mode: int, gid: int) -> tuple[int, int]:
    """(mode, gid) of a new child: a set-group-ID directory hands its group down, and to directories the bit."""
    if not parent.mode & stat.S_ISGID:
        return mode, gid
    if stat.S_ISDIR(mode):
        mode |= stat.S_ISGID
    return mode, parent.gid


def is_mode(mode: int) -> bool:
    """Whether this is a file type with permissions, and nothing else."""
    return mode >> 16 == 0 and stat.S_IFMT(mode) in _TYPES


def without_set_id(mode: int) -> int:
    """The mode after a write or chown by somebody without privilege: set-user-ID goes, set-group-ID if executable."""
    mode &= ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode


def to_posix(
    attributes: Attributes, ino: int, nlink: int, xattrs: dict[bytes, bytes] | None, of: bytes | None
) -> Posix:
    """The form in which attributes are kept in an edge's metadata (design.md section 4)."""
    a = attributes
    return Posix(
        mode=a.mode,
        uid=a.uid,
        gid=a.gid,
        mtime_ns=a.mtime,
        ctime_ns=a.ctime,
        crtime_ns=a.crtime,
        ino=ino,
        size=a.size if stat.S_ISREG(a.mode) else None,
        rdev=a.rdev,
        atime_ns=a.atime if a.atime != a.mtime else None,
        nlink=nlink,
        xattrs=xattrs or {},
        of=of,
    )


def from_posix(posix: Posix, size: int) -> Attributes:
    """The reverse of `to_posix`; the size of immutable content comes from its cap."""
    if stat.S_ISDIR(posix.mode):
        size = DIRECTORY_SIZE
    atime = posix.mtime_ns if posix.atime_ns is None else posix.atime_ns
    return Attributes(
        posix.mode,
        posix.uid,
        posix.gid,
        posix.rdev,
        size,
        atime,
        posix.mtime_ns,
        posix.ctime_ns,
        posix.crtime_ns,
    )


def foreign_attributes(is_dir: bool, size: int, mtime: int, options_ids: tuple[int, int, int]) -> Attributes:
    """Attributes of an entry that another client made; `options_ids` = (uid, gid, umask) of the mount."""
    uid, gid, umask = options_ids
    mode = stat.S_IFDIR | 0o777 if is_dir else stat.S_IFREG | 0o666
    return Attributes(
        mode & ~umask, uid, gid, 0, DIRECTORY_SIZE if is_dir else size, mtime, mtime, mtime, mtime
    )
