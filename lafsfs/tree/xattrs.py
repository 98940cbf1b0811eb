"""Extended attributes of an inode: names, sizes, and how ACLs among them and the mode follow each other."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from lafsfs.tree import acl, cap_attributes, new_files
from lafsfs.tree.attributes import now
from lafsfs.tree.change import Change
from lafsfs.tree.inodes import Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

XATTR_CREATE = 1
XATTR_REPLACE = 2
NAME_MAX = 255
VALUE_MAX = 65536  # what the system calls allow
LIST_MAX = 65536  # all names of an inode together, as the kernel's listxattr allows
SPACE_MAX = 256 * 1024
"""Names and values of an inode together: they travel with every change of its directory."""

NAMESPACES = (b"user.", b"trusted.", b"security.")
PRIVILEGED = b"trusted."

XattrValues = dict[bytes, bytes] | None


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class ExtendedAttributes:
    """Those of all inodes of a tree. What the kernel checks (owner, kind of file, privilege) is not checked again."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def get(self, values: XattrValues, name: bytes) -> bytes:
        """One of these values; ENODATA if there is none, EOPNOTSUPP for ACLs of a tree opened without them."""
        self._check_acl(name)
        if not values or name not in values:
            raise _error(errno.ENODATA)
        return values[name]

    def names(self, values: XattrValues, *, privileged: bool) -> list[bytes]:
        """Those that are shown: trusted.* to the privileged only, ACLs only where they are in use."""
        hidden: tuple[bytes, ...] = () if self._tree.options.acl else acl.NAMES
        hidden += () if privileged else (PRIVILEGED,)
        return [name for name in values or () if not name.startswith(hidden)]

    def set(
        self,
        inode: Inode,
        name: bytes,
        value: bytes,
        flags: int = 0,
        *,
        keeps_set_gid: Callable[[], bool] = lambda: True,
    ) -> None:
        """Set one. EEXIST, ENODATA by `flags`; ERANGE, E2BIG, ENOSPC by size; EOPNOTSUPP, EINVAL, EPERM by name.

        `keeps_set_gid` tells whether the caller may give an access ACL to a set-group-ID file that stays one.
        """
        _check_own(name)
        self._tree.changing.check(inode)
        old = inode.xattrs or {}
        if flags & XATTR_CREATE and name in old:
            raise _error(errno.EEXIST)
        if flags & XATTR_REPLACE and name not in old:
            raise _error(errno.ENODATA)
        if name in acl.NAMES:
            self._set_acl(inode, name, value, keeps_set_gid)
            return
        if name == new_files.ATTRIBUTE and (not inode.is_dir or value not in new_files.FORMATS):
            raise _error(errno.EINVAL)
        _check_name_and_value(name, value)
        values = {**old, name: value}
        if sum(len(other) + 1 for other in values) > LIST_MAX:
            raise _error(errno.ENOSPC)
        if sum(len(other) + len(data) for other, data in values.items()) > SPACE_MAX:
            raise _error(errno.ENOSPC)
        self._replace(inode, values)

    def remove(self, inode: Inode, name: bytes) -> None:
        """Remove one; ENODATA if there is none (of an ACL, that is no error)."""
        _check_own(name)
        self._check_acl(name)
        self._tree.changing.check(inode)
        old = inode.xattrs or {}
        if name in old:
            self._replace(inode, {key: value for key, value in old.items() if key != name})
        elif name not in acl.NAMES:
            raise _error(errno.ENODATA)

    def _check_acl(self, name: bytes) -> None:
        if name in acl.NAMES and not self._tree.options.acl:
            raise _error(errno.EOPNOTSUPP)

    def _set_acl(self, inode: Inode, name: bytes, value: bytes, keeps_set_gid: Callable[[], bool]) -> None:
        self._check_acl(name)
        if name == acl.DEFAULT and not inode.is_dir:
            raise _error(errno.EACCES)
        entries = acl.parse(value)
        values = {**(inode.xattrs or {}), name: value}
        if name == acl.DEFAULT:
            self._replace(inode, values)
            return
        if acl.is_minimal(entries):
            del values[name]
        mode = inode.attributes.mode & ~0o777 | acl.permissions(entries)
        if mode & 0o2000 and not keeps_set_gid():
            mode &= ~0o2000
        self._replace(inode, values, mode=mode)

    def _replace(self, inode: Inode, values: dict[bytes, bytes], **attributes: int) -> None:
        change = Change(self._tree)
        change.xattrs(inode, values or None)
        change.touch(inode, ctime=now(), **attributes)
        change.commit()


def _check_own(name: bytes) -> None:
    if name in cap_attributes.NAMES:
        raise _error(errno.EPERM)


def _check_name_and_value(name: bytes, value: bytes) -> None:
    ours = name.startswith(cap_attributes.PREFIX) and name != new_files.ATTRIBUTE
    if ours or not name.startswith(NAMESPACES):
        raise _error(errno.EOPNOTSUPP)
    if name in NAMESPACES:
        raise _error(errno.EINVAL)
    if len(name) > NAME_MAX:
        raise _error(errno.ERANGE)
    if len(value) > VALUE_MAX:
        raise _error(errno.E2BIG)
