"""Around every suite: a mount of its own, alive afterwards; then a mount that knows only the grid shows the same."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.many import three_of_ten
from tests.support.mounts import lafsfs_home
from tests.support.snapshots import differences, snapshot

ROOT_OPTIONS = ("-o", "allow_other,suid,dev")


class SuiteError(Exception):
    """A suite left the mount, or what a new mount shows, in a bad state."""


@contextmanager
def judged_mount(*options: str, ten: bool = False) -> Iterator[Path]:
    """A new tree, mounted: on the bundled server, or (`ten`) 3-of-10 on ten servers of which three do not run.

    When the body is done, the mount must answer, and a second mount without cache and state must show the same: names,
    types, modes, owners, times, links, xattrs, contents. SuiteError if not.
    """
    with ExitStack() as stack:
        grid = None
        if ten:
            servers = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="suite-servers-")))
            grid = stack.enter_context(three_of_ten(servers, stopped=3))
        home = stack.enter_context(lafsfs_home(grid=grid))
        os.chmod(home.directory, 0o755)
        home.create()
        tree = home.mount("home:", *(options or ROOT_OPTIONS))
        os.chmod(tree.path, 0o755)
        leave_witnesses(tree.path)
        yield tree.path
        check_alive(tree.path)
        before = snapshot(tree.path)
        home.lafsfs("unmount", str(tree.path), timeout=3600)
        home.forget()
        again = home.mount("home:", *(options or ROOT_OPTIONS))
        changed = differences(before, snapshot(again.path))
        print(f"after a remount without local state: {len(before)} objects, {len(changed)} differences")
        for line in changed[:20]:
            print(f"  {line}")
        home.lafsfs("unmount", str(again.path), timeout=3600)
        if changed:
            raise SuiteError("a new mount shows another tree")


def leave_witnesses(top: Path) -> None:
    """One object of each kind, made before the suite: whatever the suite does, it must not touch them."""
    place = top / "witnesses"
    place.mkdir(mode=0o750)
    (place / "small").write_bytes(b"small")
    (place / "large").write_bytes(os.urandom(300_000))
    os.setxattr(place / "large", "user.kind", b"\0witness")
    os.link(place / "large", place / "second name")
    os.symlink("x" * 4095, place / "symlink")
    os.mkfifo(place / "fifo", 0o611)
    os.mknod(place / "null", 0o020640, os.makedev(1, 3))
    for number, name in enumerate((b"e\xcc\x81", b"\xc3\xa9", b"\xff")):
        os.mkdir(os.fsencode(place) + b"/" + name)
        os.utime(os.fsencode(place) + b"/" + name, ns=(-1, -(10**9) * (number + 1)))
    os.chown(place / "small", 1234, 5678)
    os.chmod(place / "small", 0o6755)


def check_alive(path: Path) -> None:
    """SuiteError unless a program can still make, list and remove something in the mount."""
    script = 'cd "$1" && mkdir .alive && echo x > .alive/x && cat .alive/x && ls .alive && rm -r .alive'
    done = subprocess.run(
        ["sh", "-c", script, "sh", path], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise SuiteError(f"the mount does not work any more: {done.stderr}")


@contextmanager
def local_directory(parent: Path | None = None) -> Iterator[Path]:
    """A directory of a local file system, to run the same suite there."""
    with tempfile.TemporaryDirectory(prefix="suite-", dir=parent) as made:
        os.chmod(made, 0o755)
        yield Path(made)
