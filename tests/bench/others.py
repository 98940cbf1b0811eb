"""Other people's filesystems, as far as they are installed, over a directory on the local disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.bench.places import Command, LocalDisk, MemoryPlace, Place, mounted

_SECRET = "benchmark"


def _folders(scratch: Path, name: str) -> tuple[Path, Path]:
    backing, mountpoint = scratch / f"{name}.store", scratch / name
    backing.mkdir()
    mountpoint.mkdir()
    return backing, mountpoint


def _disk(stack: ExitStack, scratch: Path) -> Place:
    path = scratch / "disk"
    path.mkdir()
    return LocalDisk("disk", path)


def _memory(stack: ExitStack, scratch: Path) -> Place:
    path = scratch / "memory"
    path.mkdir()
    command = [sys.executable, "-m", "tests.bench.memory_fs", str(path)]
    return stack.enter_context(mounted(MemoryPlace("memory", path, command, {})))


def _gocryptfs(stack: ExitStack, scratch: Path) -> Place:
    backing, path = _folders(scratch, "gocryptfs")
    secret = scratch / "gocryptfs.secret"
    secret.write_text(_SECRET)
    passfile = ["-passfile", str(secret)]
    subprocess.run(["gocryptfs", "-init", "-q", "-scryptn", "10", *passfile, str(backing)], check=True)
    command = ["gocryptfs", "-fg", "-q", *passfile, str(backing), str(path)]
    return stack.enter_context(mounted(Command("gocryptfs", path, command, {})))


def _rclone(stack: ExitStack, scratch: Path) -> Place:
    """rclone's crypt over a local directory, with its write cache: without one it is no POSIX filesystem."""
    backing, path = _folders(scratch, "rclone")
    obscured = subprocess.run(["rclone", "obscure", _SECRET], check=True, capture_output=True, text=True)
    config = scratch / "rclone.conf"
    config.write_text(f"[c]\ntype = crypt\nremote = {backing}\npassword = {obscured.stdout.strip()}\n")
    cache = ["--cache-dir", str(scratch / "rclone.cache"), "--vfs-cache-mode", "full", "--links"]
    command = ["rclone", "mount", "--config", str(config), *cache[:4], "c:", str(path)]
    return stack.enter_context(mounted(Command("rclone", path, command, {})))


def _s3ql(stack: ExitStack, scratch: Path) -> Place:
    backing, path = _folders(scratch, "s3ql")
    secrets, cache = scratch / "s3ql.auth", scratch / "s3ql.cache"
    secrets.write_text(f"[local]\nstorage-url: local://{backing}\nfs-passphrase: {_SECRET}\n")
    secrets.chmod(0o600)
    common = ["--authfile", str(secrets), "--cachedir", str(cache)]
    subprocess.run(["mkfs.s3ql", *common, f"local://{backing}"], input=_SECRET, text=True, check=True)
    command = ["mount.s3ql", "--fg", "--compress", "none", *common, f"local://{backing}", str(path)]
    return stack.enter_context(mounted(Command("s3ql", path, command, {})))


Maker = Callable[[ExitStack, Path], Place]

MAKERS: dict[str, tuple[str | None, Maker]] = {
    "memory": (None, _memory),
    "disk": (None, _disk),
    "gocryptfs": ("gocryptfs", _gocryptfs),
    "rclone": ("rclone", _rclone),
    "s3ql": ("mount.s3ql", _s3ql),
}
"""By name: the program that it needs, and what makes a place of it that ends with the stack."""


def installed(name: str) -> bool:
    """Whether that filesystem can be measured here."""
    program, _ = MAKERS[name]
    return program is None or shutil.which(program) is not None
