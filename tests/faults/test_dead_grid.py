"""The grid is gone, stalls, or comes back: what a mount still does, how long anybody waits, and what is published."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import FaultyGrid
from tests.support.mounts import MountedTree, wait_until
from tests.support.storage import StorageServer

pytestmark = pytest.mark.timeout(240)

DATA = os.urandom(300_000)
# Says what stat(2) or read(2) answer; SIGINT is caught, so that the call must be interrupted to say EINTR.
PROBE = """
import ctypes, os, signal, sys
signal.signal(signal.SIGINT, lambda *_: None)
libc = ctypes.CDLL(None, use_errno=True)
handle = libc.open(os.fsencode(sys.argv[2]), os.O_RDONLY) if sys.argv[1] == "read" else -1
print("calling", flush=True)
if sys.argv[1] == "read":
    result = libc.read(handle, ctypes.create_string_buffer(10), 10)
else:
    result = libc.access(os.fsencode(sys.argv[2]), 0)
print(ctypes.get_errno() if result < 0 else 0, flush=True)
"""


def stop(server: StorageServer) -> None:
    """The server goes away."""
    server.kill()


def stall(server: StorageServer) -> None:
    """The server takes connections and does not answer."""
    server.pause()


def come_back(server: StorageServer) -> None:
    """Undo either."""
    if server.process is None:
        server.start()
    else:
        server.resume()


WAYS = pytest.mark.parametrize("go", [stop, stall])


def each(faulty: FaultyGrid, do: Callable[[StorageServer], None]) -> None:
    for server in faulty.servers:
        do(server)


@WAYS
def test_a_mount_without_servers(faulty: FaultyGrid, go: Callable[[StorageServer], None]) -> None:
    """Cached content is read, writes are taken up to the staging limit, then ENOSPC; all of it is published later."""
    home = faulty.home
    faulty.create()
    options = "publish_delay=0.2,staging_size=2M,staging_wait=0.5"
    tree = home.mount("home:", *faulty.options, "-o", options)
    (tree.path / "dir").mkdir()
    (tree.path / "dir" / "seen").write_bytes(DATA)
    tree.flush()
    assert (tree.path / "dir" / "seen").read_bytes() == DATA
    each(faulty, go)
    assert (tree.path / "dir" / "seen").read_bytes() == DATA
    written: dict[str, bytes] = {}
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        _fill(tree.path / "dir", written)
    assert len(written) > 3
    assert {name: (tree.path / "dir" / name).read_bytes() for name in written} == written
    _look_at_pending(tree, set(written))
    left = home.lafsfs("flush", "--timeout", "1", str(tree.path), exit_code=13)
    assert "dir/new 0 (300000 bytes)" in left.stderr
    left = home.lafsfs("unmount", "--timeout", "1", str(tree.path), exit_code=13)
    assert "dir/new 0 (300000 bytes)" in left.stderr
    (tree.path / "dir" / "new 0").unlink()  # it goes on as before
    del written["new 0"]
    each(faulty, come_back)
    home.lafsfs("unmount", str(tree.path))
    home.forget()
    with home.mounted("home:", *faulty.options) as tree:
        for name, data in written.items():
            assert (tree.path / "dir" / name).read_bytes() == data
        assert "new 0" not in os.listdir(tree.path / "dir")


def _fill(directory: Path, written: dict[str, bytes]) -> None:
    for number in range(40):
        name, data = f"new {number}", DATA[number:]
        (directory / name).write_bytes(data)
        written[name] = data


def _look_at_pending(tree: MountedTree, names: set[str]) -> None:
    """The status lists each file with its size, why it is not on the grid, and when it will be tried again."""

    def retried() -> bool:
        files = {item["path"]: item for item in tree.status()["items"] if item["kind"] == "file"}
        assert {f"dir/{name}" for name in names} <= set(files)
        first = files["dir/new 0"]
        assert first["size"] == len(DATA)
        return first["state"] == "retrying" and "server" in first["reason"] and first["next_try"] >= 0

    wait_until(retried, deadline=60, what="a reason and a next try")
    wait_until(
        lambda: "next try in" in tree.home.lafsfs("status", str(tree.path)).stdout, what="a line about it"
    )


def test_a_mount_made_while_servers_stall(faulty: FaultyGrid) -> None:
    """What was seen before is shown, and the status says since when it is out of date."""
    home = faulty.home
    faulty.create()
    with home.mounted("home:", *faulty.options) as tree:
        (tree.path / "file").write_bytes(DATA)
        tree.flush()
        assert (tree.path / "file").read_bytes() == DATA
    each(faulty, stall)
    tree = home.mount("home:", *faulty.options)
    assert os.listdir(tree.path) == ["file"]
    assert (tree.path / "file").read_bytes() == DATA
    assert any(line.startswith("offline:") for line in tree.status()["errors"])
    assert "offline:" in home.lafsfs("status", str(tree.path)).stdout
    (tree.path / "late").write_bytes(DATA[1:])
    each(faulty, come_back)
    tree.unmount()
    home.forget()
    with home.mounted("home:", *faulty.options) as tree:
        assert (tree.path / "late").read_bytes() == DATA[1:]


def test_a_waiting_call_can_be_interrupted(faulty: FaultyGrid) -> None:
    """A signal ends a call that the mount process works on: EINTR, long before its deadline."""
    home = faulty.home
    faulty.create()
    with home.mounted("home:", *faulty.options) as tree:
        (tree.path / "dir").mkdir()
        (tree.path / "dir" / "file").write_bytes(DATA)
        (tree.path / "file").write_bytes(DATA)
    home.forget()
    with home.mounted("home:", *faulty.options) as tree:
        assert (tree.path / "file").stat().st_size == len(DATA)
        each(faulty, stall)
        assert _interrupted(tree.path / "file", "read") == errno.EINTR
        assert _interrupted(tree.path / "dir" / "file", "access") == errno.EINTR
        each(faulty, come_back)
        assert (tree.path / "dir" / "file").read_bytes() == DATA


def _interrupted(path: Path, call: str) -> int:
    """What a call says that gets SIGINT while it waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROBE, call, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "calling\n"
        wait_until(lambda: _waits(process.pid), what="the call")
        process.send_signal(signal.SIGINT)
        return int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate(timeout=60)


def _waits(pid: int) -> bool:
    """Whether a process has been in a call to the file system for a moment."""
    for _ in range(10):
        if "fuse" not in Path(f"/proc/{pid}/wchan").read_text() and not _asleep(pid):
            return False
        time.sleep(0.02)
    return True


def _asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "SD"
