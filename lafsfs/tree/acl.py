"""POSIX ACLs as values: the form of system.posix_acl_*, and the rules that tie them to a mode (acl(5)).

The kernel decides who may do what; to keep ACL and mode in step, and to hand default ACLs down, is the file system's
part (contrib/doc/adr/posix-acls.md).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import NamedTuple

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"
NAMES = (ACCESS, DEFAULT)

_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS = (_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER)  # in the order in which they must stand


class Entry(NamedTuple):
    """One line of getfacl: whose permissions (`tag`, and `number` for a named user or group), and which (0 to 7)."""

    tag: int
    permissions: int
    number: int


Acl = tuple[Entry, ...]


def parse(value: bytes) -> Acl:
    """The ACL of an attribute's value; OSError EINVAL if it is none."""
    if len(value) < _VERSION.size or (len(value) - _VERSION.size) % _ENTRY.size:
        raise _invalid()
    acl = tuple(Entry(*fields) for fields in _ENTRY.iter_unpack(value[_VERSION.size :]))
    if _VERSION.unpack_from(value) != (2,) or not _is_valid(acl):
        raise _invalid()
    return acl


def pack(acl: Acl) -> bytes:
    """The reverse of `parse`."""
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*entry) for entry in acl)


def _invalid() -> OSError:
    return OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _is_valid(acl: Acl) -> bool:
    tags = [entry.tag for entry in acl]
    if any(tag not in _TAGS for tag in tags) or any(entry.permissions > 7 for entry in acl):
        return False
    counts = {tag: tags.count(tag) for tag in _TAGS}
    named = counts[_USER] + counts[_GROUP]
    once = all(counts[tag] == 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER))
    return once and counts[_MASK] in ((1,) if named else (0, 1)) and tags == sorted(tags)


def is_minimal(acl: Acl) -> bool:
    """Whether a mode says as much."""
    return len(acl) == 3


def permissions(acl: Acl) -> int:
    """The nine permission bits that belong to an access ACL: those of the group are the mask's, where there is one."""
    found = {entry.tag: entry.permissions for entry in acl}
    return found[_USER_OBJ] << 6 | found.get(_MASK, found[_GROUP_OBJ]) << 3 | found[_OTHER]


def with_permissions(acl: Acl, mode: int) -> Acl:
    """The access ACL after chmod to `mode`."""
    group_class = _group_class(acl)
    values = {_USER_OBJ: mode >> 6 & 7, group_class: mode >> 3 & 7, _OTHER: mode & 7}
    return tuple(entry._replace(permissions=values.get(entry.tag, entry.permissions)) for entry in acl)


def inherited(default: Acl, mode: int) -> tuple[int, Acl]:
    """(mode, access ACL) of something made with `mode` in a directory with a default ACL. The umask has no say."""
    classes = {_USER_OBJ: mode >> 6 & 7, _group_class(default): mode >> 3 & 7, _OTHER: mode & 7}
    acl = tuple(
        entry._replace(permissions=entry.permissions & classes.get(entry.tag, 7)) for entry in default
    )
    return mode & ~0o777 | permissions(acl), acl


def _group_class(acl: Acl) -> int:
    return _MASK if any(entry.tag == _MASK for entry in acl) else _GROUP_OBJ


# --- on the attributes of an inode ------------------------------------------------------------------------------


def after_chmod(xattrs: dict[bytes, bytes] | None, mode: int) -> dict[bytes, bytes] | None:
    """Extended attributes whose access ACL, if there is one, is in step with a new mode."""
    if not xattrs or ACCESS not in xattrs:
        return xattrs
    acl = _readable(xattrs[ACCESS])
    if acl is None:
        return {name: value for name, value in xattrs.items() if name != ACCESS} or None
    return {**xattrs, ACCESS: pack(with_permissions(acl, mode))}


def born_with(
    parent: dict[bytes, bytes] | None, mode: int, umask: int
) -> tuple[int, dict[bytes, bytes] | None]:
    """(mode, extended attributes) of something made with `mode` in a directory with the attributes `parent`."""
    stored = parent.get(DEFAULT) if parent else None
    default = _readable(stored) if stored is not None else None
    if stat.S_ISLNK(mode):
        return mode, None
    if default is None:
        return mode & ~umask, None
    mode, acl = inherited(default, mode)
    xattrs = {} if is_minimal(acl) else {ACCESS: pack(acl)}
    if stat.S_ISDIR(mode):
        xattrs[DEFAULT] = pack(default)
    return mode, xattrs or None


def _readable(value: bytes) -> Acl | None:
    """The ACL in an attribute that comes from the grid, where other clients may have put anything."""
    try:
        return parse(value)
    except OSError:
        return None
