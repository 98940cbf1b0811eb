"""A mount as a process: its end, planned and not, and what the next one finds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import LafsfsHome, mounts_below, wait_until

pytestmark = pytest.mark.timeout(180)


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    return not Path(f"/proc/{pid}").exists()


def test_kill_loses_nothing_and_the_next_mount_cleans_the_dead_mountpoint(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:", "-o", "publish_delay=3600")
    (tree.path / "dir").mkdir()
    (tree.path / "dir" / "file").write_bytes(b"precious" * 1000)
    tree.kill()
    with pytest.raises(OSError, match=r"Transport endpoint|connection abort"):
        os.listdir(tree.path)
    assert "gone" in home.lafsfs("status", str(tree.path), exit_code=8).stderr
    again = home.lafsfs("mount", "home:", str(tree.path))
    assert "dead mount" in again.stderr
    assert (tree.path / "dir" / "file").read_bytes() == b"precious" * 1000
    tree.unmount()


def test_unmount_takes_a_dead_mount_away(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:")
    tree.kill()
    done = home.lafsfs("unmount", str(tree.path), exit_code=8)
    assert "removed the dead mount" in done.stderr
    assert mounts_below(home.directory) == []


def test_sigterm_drains(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:", "-o", "publish_delay=3600")
    (tree.path / "file").write_text("x")
    pid = tree.pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: gone(pid), what="the end of the mount process")
    assert mounts_below(home.directory) == []
    subprocess.run(["rm", "-rf", home.path / "state", home.path / "cache"], check=True)
    with home.mounted("home:") as again:
        assert (again.path / "file").read_text() == "x"


def test_second_sigterm_ends_the_grace_and_the_journal_has_the_rest(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:")
    home.lafsfs("grid", "server", "stop")
    (tree.path / "file").write_bytes(b"later" * 1000)
    pid = tree.pid

    def ended() -> bool:
        with contextlib.suppress(ProcessLookupError):  # it may end between two looks, or before this signal
            os.kill(pid, signal.SIGTERM)
        return gone(pid)

    wait_until(ended, what="the end of the mount process")
    assert mounts_below(home.directory) == []
    with home.mounted("home:") as again:
        assert (again.path / "file").read_bytes() == b"later" * 1000


def test_plain_unmount_publishes_in_the_background_and_makes_room(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:", "-o", "publish_delay=3600")
    pid = tree.pid
    (tree.path / "file").write_text("x")
    subprocess.run(["fusermount3", "-u", str(tree.path)], check=True, timeout=30)
    wait_until(lambda: gone(pid), what="the end of the mount process")
    subprocess.run(["rm", "-rf", home.path / "state", home.path / "cache"], check=True)
    with home.mounted("home:") as again:
        assert (again.path / "file").read_text() == "x"


def test_a_process_that_is_leaving_makes_room_for_the_next_mount(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:")
    home.lafsfs("grid", "server", "stop")
    (tree.path / "file").write_bytes(b"later" * 1000)
    subprocess.run(["fusermount3", "-u", str(tree.path)], check=True, timeout=30)
    with home.mounted("home:") as again:
        assert (again.path / "file").read_bytes() == b"later" * 1000


def test_the_log_tells_no_names(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        (tree.path / "Marker-of-a-name").write_text("Marker-of-content" * 10)
    log = next((home.path / "state").rglob("mount.log"))
    assert "ready" in log.read_text()
    for path in (home.path / "state").rglob("*"):
        assert not path.is_file() or b"Marker-of" not in path.read_bytes(), path


def test_caches_and_state_are_private(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        (tree.path / "file").write_text("x" * 10000)
        for top in ("config", "state", "cache", "data"):
            assert (home.path / top).stat().st_mode & 0o077 == 0
        control = next((home.directory / "run" / "lafsfs").glob("*.sock"))
        assert control.stat().st_mode & 0o077 == 0
    assert not list((home.directory / "run" / "lafsfs").glob("*.sock"))


def test_foreground_tells_the_service_manager_when_it_is_ready(home: LafsfsHome) -> None:
    home.create()
    address = home.directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        process = subprocess.Popen(
            home.command("mount", "-f", "home:", str(home.mountpoint())),
            env={**home.environment, "NOTIFY_SOCKET": str(address)},
        )
        assert manager.recv(100) == b"READY=1"
    (home.mountpoint() / "file").write_text("usable")
    process.terminate()
    assert process.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may tell the kernel how far to read ahead")
def test_the_kernel_reads_ahead_a_megabyte_where_it_may_be_told(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        device = os.stat(tree.path).st_dev
        asked = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        wait_until(lambda: asked.read_text() == "1024\n", what="the kernel to be told")
