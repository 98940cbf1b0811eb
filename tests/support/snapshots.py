"""All that can be seen of a directory tree, to compare it with what another mount shows."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple


class Seen(NamedTuple):
    """One object of a tree. `content`: digest of a file's bytes, or the target of a symlink."""

    mode: int
    uid: int
    gid: int
    mtime: int
    nlink: int
    ino: int
    size: int
    rdev: int
    xattrs: dict[str, bytes]
    content: bytes


def snapshot(top: os.PathLike[str]) -> dict[bytes, Seen]:
    """Everything below `top`, by relative path; `top` itself is left out."""
    start = os.fsencode(top)
    return {path[len(start) + 1 :]: look(path) for path in _walk(start)}


def _walk(directory: bytes) -> Iterator[bytes]:
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        yield path
        if stat.S_ISDIR(os.lstat(path).st_mode):
            yield from _walk(path)


def look(path: bytes | os.PathLike[str]) -> Seen:
    """What lstat, listxattr, readlink and read tell of one object."""
    status = os.lstat(path)
    content = b""
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(os.fsencode(path))
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
    names = os.listxattr(path, follow_symlinks=False)
    return Seen(
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        nlink=status.st_nlink,
        ino=status.st_ino,
        size=status.st_size,
        rdev=status.st_rdev,
        xattrs={name: os.getxattr(path, name, follow_symlinks=False) for name in names},
        content=content,
    )


def differences(before: dict[bytes, Seen], after: dict[bytes, Seen]) -> list[str]:
    """What changed, one line per field, for people."""
    lines = [f"{path!r} is gone" for path in before if path not in after]
    lines += [f"{path!r} is new" for path in after if path not in before]
    for path in before.keys() & after.keys():
        for field, old, new in zip(Seen._fields, before[path], after[path], strict=True):
            if old != new:
                lines.append(f"{path!r}: {field} was {old!r}, is {new!r}")
    return sorted(lines)
