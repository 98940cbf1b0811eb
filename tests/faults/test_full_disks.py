"""A full disk, here and on a server: ENOSPC or a change that waits; what was there before stays whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from tests.support.many import many_servers
from tests.support.mounts import LafsfsHome
from tests.support.small_disk import only_root, resize, small_disk

pytestmark = [pytest.mark.timeout(180), only_root]

NO_SPACE = os.strerror(errno.ENOSPC)


def _fill_with_one(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(40):
            file.write(os.urandom(1_000_000))


def _fill_with_many(directory: Path) -> None:
    for number in range(24):
        (directory / f"many {number}").write_bytes(os.urandom(1_000_000))


def test_the_disk_with_the_local_state_is_full(home: LafsfsHome) -> None:
    home.create()
    content = os.urandom(500_000)
    with small_disk(home.path / "state", 16):
        tree = home.mount("home:", "-o", "publish_delay=3600,staging_wait=0.5")
        (tree.path / "before").write_bytes(content)
        home.lafsfs("grid", "server", "stop")
        with pytest.raises(OSError, match=NO_SPACE):
            _fill_with_one(tree.path / "too large")
        (tree.path / "too large").unlink()  # what is not wanted any more makes room
        with pytest.raises(OSError, match=NO_SPACE):
            _fill_with_many(tree.path)
        assert (tree.path / "before").read_bytes() == content
        # What was taken on goes to the grid, with the disk full.
        complete = [p for p in tree.path.iterdir() if p.name != "before" and p.stat().st_size == 1_000_000]
        expected = {path.name: path.read_bytes() for path in complete}
        assert len(expected) > 5
        home.lafsfs("grid", "server", "start")
        tree.unmount()
        tree = home.mount("home:", "-o", "publish_delay=3600")
        (tree.path / "more").mkdir()
        _fill_with_many(tree.path / "more")  # than the disk holds: the writer waits for the publisher
        (tree.path / "after").write_bytes(content[::-1])
        tree.unmount()
    home.forget()
    with home.mounted("home:") as tree:
        assert (tree.path / "before").read_bytes() == content
        assert (tree.path / "after").read_bytes() == content[::-1]
        assert {name: (tree.path / name).read_bytes() for name in expected} == expected
        assert sum(path.stat().st_size for path in (tree.path / "more").iterdir()) == 24_000_000


def test_the_cache_disk_is_full(home: LafsfsHome) -> None:
    """Nothing needs the cache: everything reads, only slower."""
    home.create()
    content = os.urandom(6_000_000)
    with home.mounted("home:") as tree:
        (tree.path / "file").write_bytes(content)
    home.forget()
    with small_disk(home.path / "cache", 2), home.mounted("home:") as tree:
        for _ in range(2):
            assert (tree.path / "file").read_bytes() == content
        (tree.path / "copy").write_bytes(content[::-1])
        assert (tree.path / "copy").read_bytes() == content[::-1]


def test_the_disk_of_the_server_is_full(fresh_home: LafsfsHome, tmp_path: Path) -> None:
    """Changes wait, with a reason, until there is room; what was stored stays readable."""
    home, content = fresh_home, os.urandom(1_000_000)
    with small_disk(tmp_path / "disk", 8) as disk, many_servers(disk, 1) as [server]:
        grid = home.directory / "grid.yaml"
        storage = {server.server_id: server.announcement()}
        encoding = {"needed": 1, "happy": 1, "total": 1}
        grid.write_text(json.dumps({"storage": storage, "encoding": encoding}))  # JSON is YAML
        home.lafsfs("create", "--grid", str(grid))
        with home.mounted("home:", "--grid", str(grid)) as tree:
            (tree.path / "before").write_bytes(content)
            tree.flush()
            for number in range(12):
                (tree.path / f"file {number}").write_bytes(content[number:])
            left = home.lafsfs("flush", "--timeout", "3", str(tree.path), exit_code=13)
            assert "file" in left.stderr
            assert any(
                "space" in item["reason"] or "server" in item["reason"] for item in tree.status()["items"]
            )
            assert shutil.disk_usage(disk).free < 1_000_000
            assert (tree.path / "before").read_bytes() == content
            resize(disk, 64)
            tree.flush()
        home.forget()
        with home.mounted("home:", "--grid", str(grid)) as tree:
            assert (tree.path / "before").read_bytes() == content
            assert len(os.listdir(tree.path)) == 13
            for number in range(12):
                assert (tree.path / f"file {number}").read_bytes() == content[number:]
