"""Mounting with POSIX ACLs as root.

A kernel that knows of ACLs still takes the umask off the modes of new files before it asks us, unless mount(2) itself
says MS_POSIXACL: then default ACLs can take the umask's place. libfuse has no word for that flag, so mount(2) is
called here, and libfuse is given the finished mount (contrib/doc/adr/posix-acls.md).
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path

_POSIXACL = 1 << 16
_DETACH = 2
_FLAGS = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
}
_OPPOSITES = {"suid": "nosuid", "dev": "nodev", "exec": "noexec"}
_FOR_FUSE = ("default_permissions", "allow_other")

_libc = ctypes.CDLL(None, use_errno=True)


def mount(mountpoint: Path, options: Iterable[str]) -> int:
    """Mount at `mountpoint` with the options that libfuse would get; the descriptor of the connection. OSError."""
    wanted = set(options)
    values = dict(option.split("=", 1) for option in wanted if "=" in option)
    flags = {"nosuid", "nodev", *(wanted & _FLAGS.keys())}
    flags -= {_OPPOSITES[name] for name in wanted & _OPPOSITES.keys()}
    number = sum(_FLAGS[name] for name in flags) | _POSIXACL
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        kind = stat.S_IFMT(os.stat(mountpoint).st_mode)
        data = [f"fd={fd}", f"rootmode={kind:o}", f"user_id={os.getuid()}", f"group_id={os.getgid()}"]
        data += [name for name in _FOR_FUSE if name in wanted]
        result = _libc.mount(
            values["fsname"].encode(),
            os.fsencode(mountpoint),
            f"fuse.{values['subtype']}".encode(),
            ctypes.c_ulong(number),
            ",".join(data).encode(),
        )
        _check(result)
    except BaseException:
        os.close(fd)
        raise
    return fd


def unmount(mountpoint: Path) -> None:
    """Take the mount away at once; programs that use it keep what they have open. OSError."""
    _check(_libc.umount2(os.fsencode(mountpoint), _DETACH))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
