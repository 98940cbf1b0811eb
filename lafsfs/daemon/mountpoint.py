"""Mountpoints: what is mounted where, what is fit to mount on, and cleaning what a dead mount left.

Nothing here waits for a mounted tree that might not answer: mounts are looked up in /proc/self/mountinfo,
and a lafsfs tree is only touched when no process answers for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lafsfs.errors import MountpointError

FSNAME = "lafsfs"
_OCTAL = re.compile(r"\\([0-7]{3})")
_DEAD = {errno.ENOTCONN, errno.ECONNABORTED}
_UNMOUNT_TIMEOUT = 20.0
_READ_AHEAD_KIB = 1024


@dataclass(frozen=True)
class Mounted:
    """One line of mountinfo."""

    device: str  # as "major:minor"
    mountpoint: str
    fstype: str
    source: str
    options: str

    @property
    def is_lafsfs(self) -> bool:
        """Whether it is one of ours."""
        return self.fstype == f"fuse.{FSNAME}" or (self.fstype == "fuse" and self.source == FSNAME)

    @property
    def owner(self) -> int | None:
        """The user who mounted it, for FUSE mounts."""
        match = re.search(r"(?:^|,)user_id=(\d+)", self.options)
        return int(match[1]) if match else None


def mounts() -> list[Mounted]:
    """All mounts this process sees, later ones on top of earlier ones."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, rest = left.split(" "), right.split(" ")
        found.append(
            Mounted(
                fields[2],
                _unescape(fields[4]),
                rest[0],
                _unescape(rest[1]),
                rest[2] if len(rest) > 2 else "",
            )
        )
    return found


def mounted_at(path: Path) -> Mounted | None:
    """The topmost mount at exactly `path` (a real path), or None."""
    return next((mount for mount in reversed(mounts()) if mount.mountpoint == str(path)), None)


def real_path(path: str | os.PathLike[str]) -> Path:
    """The real path of what may be a mountpoint, without asking the file system mounted there."""
    absolute = os.path.abspath(path)
    parent, name = os.path.split(absolute)
    candidate = Path(os.path.realpath(parent), name) if name else Path(absolute)
    if mounted_at(candidate) is not None:
        return candidate
    return Path(os.path.realpath(absolute))


def is_dead(path: Path) -> bool:
    """Whether the process behind the mount at `path` is gone."""
    try:
        os.statvfs(path)  # which, unlike stat, the kernel never answers from what it remembers
    except OSError as error:
        return error.errno in _DEAD
    return False


def prepare(path: Path) -> bool:
    """Makes sure that `path` (a real path) can be mounted on; True when a dead mount was cleaned away.

    The caller has made sure that no live lafsfs process serves it. MountpointError: missing, no directory,
    not empty, already mounted.
    """
    cleaned = False
    while (mount := mounted_at(path)) is not None and mount.fstype.startswith("fuse"):
        if not (mount.is_lafsfs and is_dead(path)):
            raise MountpointError(f"{path} is already mounted ({mount.source})")
        unmount_lazily(path)
        cleaned = True
    _check_empty_directory(path)
    return cleaned


def _check_empty_directory(path: Path) -> None:
    try:
        if not stat.S_ISDIR(path.stat().st_mode):
            raise MountpointError(f"the mountpoint {path} is not a directory")
        with os.scandir(path) as entries:
            occupied = any(True for _ in entries)
    except FileNotFoundError as error:
        raise MountpointError(f"the mountpoint {path} does not exist") from error
    except OSError as error:
        raise MountpointError(f"the mountpoint {path} cannot be used: {error.strerror}") from error
    if occupied:
        raise MountpointError(f"the mountpoint {path} is not empty")


def unmount_lazily(path: Path) -> None:
    """Takes the mount away even when it is in use or dead. MountpointError when that is not permitted."""
    failure = _fusermount("-u", "-z", "--", str(path))
    if failure is not None:
        raise MountpointError(f"{path} cannot be unmounted: {failure}")


def unmount_if_idle(path: Path) -> str | None:
    """Unmounts unless something uses the tree. None when it is unmounted, else what fusermount3 says.

    Blocks until the kernel is done with the mount: call it in a thread while the tree is being served.
    """
    return _fusermount("-u", "--", str(path))


def read_ahead(path: Path) -> None:
    """Has the kernel read further ahead of programs than its 128 KiB, where it lets us: root may say that, others not.

    Blocks until the mount at `path` answers, as the kernel would not keep to it before.
    """
    with contextlib.suppress(OSError):
        os.statvfs(path)
        mount = mounted_at(path)
        if mount is not None and mount.is_lafsfs:
            Path(f"/sys/class/bdi/{mount.device}/read_ahead_kb").write_text(f"{_READ_AHEAD_KIB}\n")


def _fusermount(*arguments: str) -> str | None:
    """Runs fusermount3; None on success, else its message."""
    try:
        done = subprocess.run(
            ["fusermount3", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_UNMOUNT_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError:
        return "fusermount3 is not installed (package fuse3)"
    except subprocess.TimeoutExpired:
        return "fusermount3 does not come back"
    if done.returncode == 0:
        return None
    return done.stderr.strip().removeprefix("fusermount3: ") or f"fusermount3 exit code {done.returncode}"


def _unescape(field: str) -> str:
    """Undoes the octal escapes of mountinfo (of UTF-8 bytes)."""
    if "\\" not in field:
        return field
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
