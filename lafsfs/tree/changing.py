"""Changes of attributes and extended attributes."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lafsfs.errors import ReadOnlyError
from lafsfs.tree.attributes import Attributes, now
from lafsfs.tree.change import Change
from lafsfs.tree.inodes import ROOT, Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

XATTR_CREATE = 1
XATTR_REPLACE = 2
XATTR_NAME_MAX = 255
XATTR_VALUE_MAX = 65536
XATTR_TOTAL_MAX = 65536  # names of one inode, as the kernel's listxattr allows
NAMESPACES = (b"user.", b"trusted.", b"security.")
OWN_NAMESPACE = b"user.lafs."


@dataclass(frozen=True)
class NewAttributes:
    """What setattr asks for; None: leave it. Times in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None


class Changing:
    """chmod, chown, utimens, truncate and extended attributes. Permission was checked by the kernel."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    async def set_attributes(self, inode: Inode, new: NewAttributes) -> None:
        """Change what `new` names; ctime is now unless given. ReadOnlyError."""
        self._check(inode)
        given = {"mtime": new.mtime, "ctime": new.ctime}
        if new.size is not None:
            t = now()
            times = {key: t if value is None else value for key, value in given.items()}
            await self._tree.files.truncate(inode, new.size, **times)
        wanted = {"uid": new.uid, "gid": new.gid, "atime": new.atime, **given}
        values = {key: value for key, value in wanted.items() if value is not None}
        if new.mode is not None:
            values["mode"] = _with_permissions(inode.attributes, new.mode)
        if not values:
            return
        values.setdefault("ctime", now())
        change = Change(self._tree)
        change.touch(inode, **values)
        change.commit()

    def set_xattr(self, inode: Inode, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set one extended attribute. EEXIST, ENODATA by `flags`; ERANGE, E2BIG, ENOSPC by size; EOPNOTSUPP,
        EINVAL by name."""
        self._check(inode)
        if not name.startswith(NAMESPACES) or name.startswith(OWN_NAMESPACE):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if name in NAMESPACES:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if len(name) > XATTR_NAME_MAX:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        if len(value) > XATTR_VALUE_MAX:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        old = inode.xattrs or {}
        if flags & XATTR_CREATE and name in old:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if flags & XATTR_REPLACE and name not in old:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        if sum(len(other) + 1 for other in {*old, name}) > XATTR_TOTAL_MAX:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._replace_xattrs(inode, {**old, name: value})

    def remove_xattr(self, inode: Inode, name: bytes) -> None:
        """Remove one extended attribute; ENODATA if there is none."""
        self._check(inode)
        old = inode.xattrs or {}
        if name not in old:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        self._replace_xattrs(inode, {key: value for key, value in old.items() if key != name} or None)

    def _replace_xattrs(self, inode: Inode, values: dict[bytes, bytes] | None) -> None:
        change = Change(self._tree)
        change.xattrs(inode, values)
        change.touch(inode, ctime=now())
        change.commit()

    def _check(self, inode: Inode) -> None:
        if self._tree.read_only:
            raise ReadOnlyError("read-only file system")
        if inode.ino == ROOT and inode.folder is not None:
            self._tree.check_changeable(inode.folder)
        for directory, _ in inode.links:
            parent = self._tree.inodes.get(directory)
            if parent is not None and parent.folder is not None:
                self._tree.check_changeable(parent.folder)


def _with_permissions(attributes: Attributes, mode: int) -> int:
    return attributes.mode & ~0o7777 | mode & 0o7777
