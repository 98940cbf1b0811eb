"""Every way a mount ends while its servers stall: no new changes, nothing lost, everybody gets an answer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess

import pytest

from tests.faults.conftest import FaultyGrid
from tests.support.mounts import MountedTree, is_alive, mounts_below, wait_until

pytestmark = pytest.mark.timeout(240)

DATA = os.urandom(300_000)
SLOW = ("-o", "publish_delay=3600")


def pause(faulty: FaultyGrid) -> None:
    """No server answers any more."""
    for server in faulty.servers:
        server.pause()


def resume(faulty: FaultyGrid) -> None:
    """They answer again."""
    for server in faulty.servers:
        server.resume()


def stalled(faulty: FaultyGrid) -> MountedTree:
    """A mount whose servers stall, with files that are not on the grid."""
    faulty.create()
    tree = faulty.home.mount("home:", *faulty.options, *SLOW)
    (tree.path / "old").write_bytes(DATA)
    tree.flush()
    pause(faulty)
    (tree.path / "small").write_bytes(b"small")
    (tree.path / "large").write_bytes(DATA[1:])
    return tree


def check(faulty: FaultyGrid, **files: bytes) -> None:
    """All of it is there for the next mount of the same home, and for others after that."""
    resume(faulty)
    expected = {"old": DATA, "small": b"small", "large": DATA[1:], **files}
    for _ in range(2):
        with faulty.home.mounted("home:", *faulty.options) as tree:
            assert {path.name: path.read_bytes() for path in tree.path.iterdir()} == expected
        faulty.home.forget()


def test_unmount_takes_no_new_changes_while_it_drains(faulty: FaultyGrid) -> None:
    tree = stalled(faulty)
    with (tree.path / "open").open("wb", buffering=0) as file:
        file.write(b"before")
        command = faulty.home.command("unmount", str(tree.path))
        process = subprocess.Popen(command, env=faulty.home.environment)
        wait_until(lambda: tree.status()["state"] == "draining", what="the drain")
        for change in (
            lambda: file.write(b"more"),
            (tree.path / "new").touch,
            (tree.path / "old").unlink,
            lambda: os.truncate(tree.path / "small", 1),
            lambda: os.chmod(tree.path / "small", 0o600),
            lambda: os.setxattr(tree.path / "small", "user.x", b"y"),
        ):
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                change()
        assert (tree.path / "large").read_bytes() == DATA[1:]
        assert process.poll() is None
    resume(faulty)
    assert process.wait(90) == 0
    assert mounts_below(faulty.home.directory) == []
    faulty.home.forget()
    check(faulty, open=b"before")


def test_a_lazy_unmount_leaves_a_complete_journal(faulty: FaultyGrid) -> None:
    """Whoever has a file open goes on until he closes it; then the process ends, whatever the servers do."""
    tree = stalled(faulty)
    pid = tree.pid
    with (tree.path / "open").open("wb", buffering=0) as file:
        subprocess.run(["fusermount3", "-u", "-z", str(tree.path)], check=True, timeout=30)
        file.write(b"after the unmount")
    with faulty.home.mounted("home:", *faulty.options, *SLOW) as again:
        assert again.pid != pid
        assert not is_alive(pid)
        resume(faulty)
    check(faulty, open=b"after the unmount")


@pytest.mark.slow
def test_sigterm_ends_within_the_grace_period(faulty: FaultyGrid) -> None:
    tree = stalled(faulty)
    pid = tree.pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), deadline=60, what="the end of the mount process")
    assert mounts_below(faulty.home.directory) == []
    check(faulty)
