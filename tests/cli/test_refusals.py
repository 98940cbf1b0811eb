"""The commands as processes: wrong input gets a clear message, its exit code, and changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import LafsfsHome, lafsfs_home, mounts_below, wait_until

pytestmark = pytest.mark.timeout(180)

FOREIGN = "URI:DIR2:mnxs4lqzbbcwhnqwp6jyy2hl2i:3pmhlxm5ivd2n3ctfxgvlbhktklwbvmu5rsvh3cygdvdzmmqw4ea"


@pytest.mark.parametrize(
    ("what", "exit_code", "message"),
    [
        ("URI:DIR2:broken", 3, "well-formed"),
        ("URI:FUTURE:abc", 3, "no capability of a kind lafsfs knows"),
        ("something", 3, "neither a capability"),
        (FOREIGN.replace("DIR2", "DIR2-Verifier"), 3, "verify cap"),
        (FOREIGN.replace("DIR2", "SSK"), 3, "only a directory"),
        ("URI:LIT:nfxca5dimuqggylq", 3, "only a directory"),
        ("nobody:", 4, "no alias nobody:"),
        ("@/nonexistent", 2, "cannot read"),
        ("-", 2, "standard input"),
    ],
)
def test_what_cannot_be_mounted(fresh_home: LafsfsHome, what: str, exit_code: int, message: str) -> None:
    home = fresh_home
    done = home.lafsfs("mount", what, str(home.mountpoint()), exit_code=exit_code)
    assert message in done.stderr
    assert "mnxs4lqz" not in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home.path / "data").exists()
    assert mounts_below(home.directory) == []


def test_mountpoints_that_will_not_do(home: LafsfsHome) -> None:
    home.create()
    occupied = home.mountpoint("occupied")
    (occupied / "file").touch()
    for place, message in (
        (home.directory / "missing", "does not exist"),
        (occupied, "not empty"),
        (occupied / "file", "not a directory"),
    ):
        done = home.lafsfs("mount", "home:", str(place), exit_code=6)
        assert message in done.stderr
    assert mounts_below(home.directory) == []
    assert (occupied / "file").exists()


def test_second_mounts_are_refused_naming_the_first(home: LafsfsHome) -> None:
    home.create()
    home.create("other")
    tree = home.mount("home:")
    assert "already mounted" in home.lafsfs("mount", "other:", str(tree.path), exit_code=6).stderr
    busy = home.lafsfs("mount", "home:", str(home.mountpoint("second")), exit_code=7).stderr
    assert str(tree.path) in busy
    assert str(tree.pid) in busy
    (tree.path / "still").write_text("works")
    tree.unmount()


def test_usage_errors(home: LafsfsHome) -> None:
    mountpoint = str(home.mountpoint())
    for arguments in (
        ("frobnicate",),
        ("mount",),
        ("mount", "home:", mountpoint, "-o", "nonsense"),
        ("mount", "home:", mountpoint, "--frobnicate"),
        ("mount", "home:", mountpoint, "--grid", "a", "--node-directory", "b"),
        ("create", "a/b"),
        ("unmount", "--timeout", "-1", mountpoint),
        ("cap", "--read-only", "--verify", mountpoint),
    ):
        done = home.lafsfs(*arguments, exit_code=2)
        assert "lafsfs: " in done.stderr
        assert "Traceback" not in done.stderr
    leaked = home.lafsfs("mount", "/mnt", "x", FOREIGN, exit_code=2).stderr
    assert "mnxs4lqz" not in leaked


def test_an_alias_is_not_overwritten(home: LafsfsHome) -> None:
    home.create()
    before = (home.path / "config" / "aliases").read_bytes()
    assert "exists already" in home.lafsfs("create", exit_code=2).stderr
    assert (home.path / "config" / "aliases").read_bytes() == before


def test_nothing_mounted_there(home: LafsfsHome) -> None:
    for command in ("unmount", "flush", "status"):
        assert "not a lafsfs mountpoint" in home.lafsfs(command, str(home.mountpoint()), exit_code=8).stderr


def test_configuration_that_cannot_be_used(home: LafsfsHome) -> None:
    home.create()
    place = str(home.mountpoint())
    (home.directory / "bad.yaml").write_text("{{{")
    home.lafsfs("mount", "home:", place, "--grid", str(home.directory / "bad.yaml"), exit_code=5)
    home.lafsfs("mount", "home:", place, "--grid", "/nonexistent.yaml", exit_code=5)
    home.lafsfs("mount", "home:", place, "--node-directory", str(home.directory), exit_code=5)


def test_paths_below_an_alias_that_lead_nowhere(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        (tree.path / "file").write_text("x")
    assert "'a'" in home.lafsfs("mount", "home:a/b", str(home.mountpoint()), exit_code=4).stderr
    assert "only a directory" in home.lafsfs("mount", "home:file", str(home.mountpoint()), exit_code=3).stderr
    assert mounts_below(home.directory) == []


def test_a_directory_that_is_not_on_this_grid(home: LafsfsHome) -> None:
    done = home.lafsfs("mount", FOREIGN, str(home.mountpoint()), exit_code=None)
    assert done.returncode in (9, 11)
    assert "mnxs4lqz" not in done.stderr
    assert mounts_below(home.directory) == []


def test_a_server_that_is_down_and_one_with_a_wrong_pin(home: LafsfsHome) -> None:
    home.create()
    with lafsfs_home() as other:
        other.create()
        nurl = own_nurl(other)
        shutil.copy(home.path / "config" / "aliases", other.path / "config" / "aliases")
        grid = home.directory / "grid.yaml"

        write_grid(grid, nurl)
        other.lafsfs("grid", "server", "stop")
        down = home.lafsfs("mount", "home:", str(home.mountpoint()), "--grid", str(grid), exit_code=9)
        assert mounts_below(home.directory) == []

        address = own_nurl(home).partition("@")[2].partition("/")[0]
        pin, _, rest = nurl.partition("@")
        write_grid(grid, f"{pin}@{address}/{rest.partition('/')[2]}")
        wrong = home.lafsfs("mount", "home:", str(home.mountpoint()), "--grid", str(grid), exit_code=10)
        assert mounts_below(home.directory) == []
        for done in (down, wrong):
            assert "pb://" not in done.stderr
            assert "Traceback" not in done.stderr


def own_nurl(home: LafsfsHome) -> str:
    """The NURL of the home's bundled server."""
    shown = home.lafsfs("grid", "show", "--show-nurls").stdout
    return next(
        line.strip() for line in shown.splitlines() if line.strip().startswith("pb://") and "#v=1" in line
    )


def write_grid(path: Path, nurl: str) -> None:
    """A grid of one server, 1-of-1."""
    path.write_text(
        "storage:\n  v0-test:\n    ann:\n"
        f"      nickname: test\n      anonymous-storage-NURLs: ['{nurl}']\n"
        "encoding: {needed: 1, happy: 1, total: 1}\n"
    )


def test_unmount_refuses_while_the_tree_is_in_use_and_goes_on(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:")
    with (tree.path / "open").open("w") as file:
        assert "in use" in home.lafsfs("unmount", str(tree.path), exit_code=7).stderr
        file.write("still writable")
    assert (tree.path / "open").read_text() == "still writable"
    tree.unmount()


def test_unmount_with_a_dead_network_says_what_is_left_and_goes_on(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:", "-o", "publish_delay=3600")
    home.lafsfs("grid", "server", "stop")
    (tree.path / "not yet").write_bytes(os.urandom(2000))
    for command in ("flush", "unmount"):
        done = home.lafsfs(command, "--timeout", "1", str(tree.path), exit_code=13)
        assert "not yet" in done.stderr
    assert tree.status()["pending"]["files"] == 1
    (tree.path / "more").write_text("still writable")
    home.lafsfs("grid", "server", "start")
    tree.unmount()
    with home.mounted("home:") as again:
        assert sorted(path.name for path in again.path.iterdir()) == ["more", "not yet"]


def test_an_interrupted_unmount_leaves_the_tree_mounted_and_writable(home: LafsfsHome) -> None:
    home.create()
    tree = home.mount("home:")
    home.lafsfs("grid", "server", "stop")
    (tree.path / "file").write_bytes(os.urandom(2000))
    process = subprocess.Popen(
        home.command("unmount", str(tree.path)), env=home.environment, stderr=subprocess.PIPE
    )
    wait_until(lambda: tree.status()["state"] == "draining", what="the drain")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    wait_until(lambda: tree.status()["state"] == "ready", what="the end of the drain")
    (tree.path / "more").write_text("still writable")
    home.lafsfs("grid", "server", "start")
    tree.unmount()
