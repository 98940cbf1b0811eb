"""Ordinary work on a large scale: a source tree, git, a file of 300 MB; all of it back on an empty machine."""

from __future__ import annotations

import contextlib
import filecmp
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenario.measuring import Meter
from tests.scenario.source_tree import details, source_archive
from tests.support.mounts import LafsfsHome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

BIG = 300_000_000
EDIT_AT, EDIT = 150_000_123, b"edited in the middle" * 1000
MEMORY_LIMIT = 400 << 20
LONG = 1800.0  # seconds


def _git(directory: Path, *arguments: str) -> str:
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*", "-c", "gc.auto=0"]
    done = subprocess.run(
        ["git", *settings, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _write_big(path: Path) -> None:
    """Random bytes, then an edit in the middle."""
    with path.open("wb") as file:
        for _ in range(BIG // 10_000_000):
            file.write(os.urandom(10_000_000))


def _edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(EDIT_AT)
        file.write(EDIT)


def _top(directory: Path) -> Path:
    [top] = (path for path in directory.iterdir() if path.is_dir())
    return top


@contextlib.contextmanager
def _measured_mount(home: LafsfsHome, meter: Meter, what: str) -> Iterator[Path]:
    with meter.step(f"mount {what}"):
        tree = home.mount("home:")
    meter.watch(tree.pid)
    yield tree.path
    with meter.step(f"unmount {what}"):
        home.lafsfs("unmount", str(tree.path), timeout=LONG)


def test_a_source_tree_git_and_a_big_file_come_back(fresh_home: LafsfsHome, tmp_path: Path) -> None:
    home, meter = fresh_home, Meter()
    archive = source_archive(tmp_path)
    reference, big = tmp_path / "reference", tmp_path / "big"
    reference.mkdir()
    subprocess.run(["tar", "xf", archive, "-C", reference], check=True)
    _write_big(big)
    home.create()
    with _measured_mount(home, meter, "first") as top:
        with meter.step("tar x"):
            subprocess.run(["tar", "xf", archive, "-C", top], check=True, timeout=LONG)
        work = _top(top)
        with meter.step("git init"):
            _git(work, "init", "-q")
        with meter.step("git add"):
            _git(work, "add", "-A")
        with meter.step("git commit"):
            _git(work, "commit", "-qm", "all")
        with meter.step("300 MB written"):
            shutil.copyfile(big, top / "big")
        with meter.step("edited in the middle"):
            _edit(top / "big")
        with meter.step("flush"):
            home.lafsfs("flush", str(top), timeout=LONG)
        with meter.step("300 MB edited again, now on the grid"):
            _edit(top / "big")
        before = details(top)
    home.forget()
    _edit(big)
    with _measured_mount(home, meter, "again") as top:
        with meter.step("find"):
            subprocess.run(["find", top, "-ls"], check=True, timeout=LONG, capture_output=True)
        with meter.step("everything read"):
            assert details(top) == before
        work = _top(top)
        expected = details(_top(reference))
        assert details(work, without=(".git",)) == expected
        assert filecmp.cmp(big, top / "big", shallow=False)
        with meter.step("git status, fsck"):
            assert _git(work, "status", "--porcelain") == ""
            _git(work, "fsck", "--strict")
    print(f"\n  {len(before)} entries; peak {meter.peak / 1e6:.0f} MB")
    assert meter.peak < MEMORY_LIMIT


def test_many_files_in_one_directory_cost_the_same_each(fresh_home: LafsfsHome) -> None:
    home, meter = fresh_home, Meter()
    home.create()
    with _measured_mount(home, meter, "") as top:
        for count in (1000, 4000):
            with meter.step(f"{count} files until flushed"):
                (top / f"{count}").mkdir()
                for number in range(count):
                    (top / f"{count}" / f"file {number}").write_bytes(b"%d" % number * 30)
                home.lafsfs("flush", str(top), timeout=LONG)
    small, large = meter.costs["1000 files until flushed"], meter.costs["4000 files until flushed"]
    print(f"\n  4,000 files take {large.wall / small.wall:.1f} times as long as 1,000")
    # Processor time, for others may use the machine too. Were every change to cost O(directory): 16.
    assert large.cpu / small.cpu < 8
    assert meter.peak < MEMORY_LIMIT
