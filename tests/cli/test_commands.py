"""The commands as processes, against the bundled server and real FUSE mounts: what goes right."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.mounts import LafsfsHome, mounts_below, processes_of, wait_until

pytestmark = pytest.mark.timeout(180)


def contents(top: Path) -> dict[str, tuple[int, int, bytes]]:
    """Relative path -> (mode, mtime in ns, content or link target) of everything below `top`."""
    found = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        data = (
            os.readlink(path).encode() if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        )
        found[str(path.relative_to(top))] = (info.st_mode, info.st_mtime_ns, data)
    return found


def fill(top: Path) -> None:
    """A small tree of all ordinary kinds."""
    (top / "docs" / "deep").mkdir(parents=True)
    (top / "docs" / "small").write_text("hello")
    (top / "docs" / "deep" / "large").write_bytes(os.urandom(300_000))
    (top / "empty").touch()
    (top / "link").symlink_to("docs/small")
    (top / "docs" / "small").chmod(0o640)
    os.utime(top / "docs" / "small", ns=(1_234_567_890_123_456_789, 1_234_567_890_987_654_321))


def test_create_mount_write_unmount_and_all_is_there_on_another_machine(home: LafsfsHome) -> None:
    cap = home.lafsfs("create", "--show-cap").stdout.strip()
    assert cap.startswith("URI:DIR2:")
    tree = home.mount("home:")
    fill(tree.path)
    before = contents(tree.path)
    home.lafsfs("unmount", str(tree.path))
    assert mounts_below(home.directory) == []
    subprocess.run(["rm", "-rf", home.path / "cache", home.path / "state"], check=True)
    with home.mounted("home:") as tree:
        assert contents(tree.path) == before


def test_every_way_to_say_what(home: LafsfsHome) -> None:
    cap = home.create()
    with home.mounted("home:") as tree:
        (tree.path / "a" / "b").mkdir(parents=True)
        (tree.path / "a" / "b" / "file").write_text("here")
    (home.directory / "cap").write_text(cap + "\n")
    for what, stdin, below in (
        (cap, "", "a/b/file"),
        (f"@{home.directory}/cap", "", "a/b/file"),
        ("-", cap + "\n", "a/b/file"),
        ("home:a/b", "", "file"),
    ):
        home.lafsfs("mount", what, str(home.mountpoint()), stdin=stdin)
        assert (home.mountpoint() / below).read_text() == "here"
        home.lafsfs("unmount", str(home.mountpoint()))


def test_the_cap_is_seen_nowhere(home: LafsfsHome) -> None:
    cap = home.create()
    tree = home.mount(cap)
    (tree.path / "file").write_text("x")
    secret = cap.split(":")[2].encode()
    for pid in processes_of(home.directory):
        process = Path(f"/proc/{pid}")
        assert secret not in (process / "cmdline").read_bytes()
        assert secret not in (process / "environ").read_bytes()
    assert secret not in Path("/proc/mounts").read_bytes()
    home.lafsfs("flush", str(tree.path))
    tree.unmount()
    for path in [*(home.path / "state").rglob("*"), *(home.path / "cache").rglob("*")]:
        assert not path.is_file() or secret not in path.read_bytes(), path


def test_read_only_caps_and_the_option_ro(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        (tree.path / "file").write_text("x")
        read_cap = home.lafsfs("cap", "--read-only", str(tree.path)).stdout.strip()
    assert read_cap.startswith("URI:DIR2-RO:")
    for what, options in ((read_cap, ()), ("home:", ("-o", "ro"))):
        with home.mounted(what, *options) as tree:
            assert tree.status()["read_only"] is True
            assert (tree.path / "file").read_text() == "x"
            with pytest.raises(OSError, match="Read-only file system"):
                (tree.path / "other").touch()


def test_caps_of_files_and_directories(home: LafsfsHome) -> None:
    cap = home.create()
    with home.mounted("home:") as tree:
        (tree.path / "d").mkdir()
        (tree.path / "d" / "large").write_bytes(os.urandom(5000))
        (tree.path / "d" / "small").write_text("in the cap")

        def cap_of(name: str, *options: str) -> str:
            return home.lafsfs("cap", *options, str(tree.path / name)).stdout.strip()

        assert cap_of("") == cap
        assert cap_of("d/..") == cap
        assert cap_of("d").startswith("URI:DIR2:")
        assert cap_of("d", "--verify").startswith("URI:DIR2-Verifier:")
        assert cap_of("d/large").startswith("URI:CHK:")
        assert cap_of("d/large", "--verify").startswith("URI:CHK-Verifier:")
        assert cap_of("d/small") == "URI:LIT:nfxca5dimuqggylq"
        assert home.lafsfs("cap", "--verify", str(tree.path / "d/small"), exit_code=3).stderr
        assert "No such file" in home.lafsfs("cap", str(tree.path / "missing"), exit_code=4).stderr
    assert home.lafsfs("cap", str(home.directory), exit_code=8).stderr


def test_status_of_one_and_of_all_mounts(home: LafsfsHome) -> None:

    def mine() -> set[str]:
        everything = json.loads(home.lafsfs("status", "--json").stdout)["mounts"]
        places = {str(mount["mountpoint"]) for mount in everything}
        return {place for place in places if place.startswith(f"{home.directory}/")}

    assert mine() == set()
    home.create("one")
    home.create("two")
    first, second = home.mount("one:", name="first"), home.mount("two:", name="second")
    (first.path / "file").write_text("x" * 1000)
    home.lafsfs("flush", str(first.path))
    status = json.loads(home.lafsfs("status", "--json", str(first.path)).stdout)
    assert status["pending"] == {"files": 0, "directories": 0, "bytes": 0}
    assert status["mountpoint"] == str(first.path)
    assert status["state"] == "ready"
    assert status["leases"]["state"] == "waiting"
    assert "never renewed" in home.lafsfs("status", str(first.path)).stdout
    assert [server["reachable"] for server in status["servers"]] == [True]
    assert 0 <= status["cache"]["bytes"] <= status["cache"]["limit"]
    assert Path(f"/proc/{status['pid']}").exists()
    assert mine() == {str(first.path), str(second.path)}
    assert str(second.path) in home.lafsfs("status").stdout
    metrics = home.lafsfs("status", "--metrics").stdout
    assert f'lafsfs_pending_files{{mountpoint="{first.path}"}} 0.0' in metrics
    assert f'lafsfs_server_reachable{{mountpoint="{first.path}",server="local"}} 1.0' in metrics


def test_foreground_unmounts_and_drains_on_interrupt(home: LafsfsHome) -> None:
    home.create()
    process = subprocess.Popen(
        home.command("mount", "-f", "-o", "publish_delay=3600", "home:", str(home.mountpoint())),
        env=home.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: mounts_below(home.directory), what="the mount")
    (home.mountpoint() / "file").write_text("x")
    process.send_signal(2)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 0, messages
    assert f"mounted at {home.mountpoint()}" in messages
    assert mounts_below(home.directory) == []
    subprocess.run(["rm", "-rf", home.path / "cache", home.path / "state"], check=True)
    with home.mounted("home:") as tree:
        assert (tree.path / "file").read_text() == "x"
