"""Times: signed nanoseconds, and which call moves which."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import MountedTree

SECOND = 1_000_000_000
YEAR = 31_556_952 * SECOND

MOMENTS = [
    0,
    1,
    -1,
    -SECOND,
    -SECOND - 1,
    -SECOND + 1,
    -69 * YEAR,
    -200 * YEAR - 123_456_789,
    (1 << 31) * SECOND + 5,
    136 * YEAR + 999_999_999,
    250 * YEAR + 1,
    1_700_000_000_123_456_789,
]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", ["file", "dir", "link"])
def test_any_moment(place: Path, kind: str, moment: int) -> None:
    path = place / kind
    if kind == "dir":
        path.mkdir()
    elif kind == "link":
        os.symlink("x", path)
    else:
        path.touch()
    os.utime(path, ns=(moment + 7, moment), follow_symlinks=False)
    status = path.lstat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (moment + 7, moment)


def test_utimens_now_and_omit(place: Path) -> None:
    path = place / "file"
    path.touch()
    os.utime(path, ns=(1, 2))
    before = time.time_ns()
    os.utime(path)
    status = path.stat()
    assert before - SECOND < status.st_mtime_ns <= time.time_ns() + SECOND
    assert status.st_atime_ns > 2


@pytest.fixture
def file(place: Path) -> Path:
    """A file with old times."""
    path = place / "file"
    path.write_bytes(b"x" * 1000)
    return path


def check(path: Path, action: Callable[[], object], *, mtime: bool, ctime: bool) -> None:
    os.utime(path, ns=(1000, 1000))
    before = path.stat()
    action()
    after = path.stat()
    assert (after.st_mtime_ns != before.st_mtime_ns) == mtime
    assert (after.st_ctime_ns > before.st_ctime_ns) == ctime
    assert after.st_ctime_ns >= before.st_ctime_ns


def write(path: Path, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.write(data)


def test_what_changes_content(file: Path) -> None:
    check(file, lambda: write(file, b"y"), mtime=True, ctime=True)
    check(file, lambda: os.truncate(file, 10), mtime=True, ctime=True)
    check(file, lambda: os.truncate(file, 100_000), mtime=True, ctime=True)
    check(file, lambda: file.write_bytes(b""), mtime=True, ctime=True)
    check(file, lambda: write(file, b"z" * 200_000), mtime=True, ctime=True)


def test_what_changes_attributes(file: Path, place: Path) -> None:
    check(file, lambda: os.chmod(file, 0o600), mtime=False, ctime=True)
    check(file, lambda: os.chown(file, os.getuid(), os.getgid()), mtime=False, ctime=True)
    check(file, lambda: os.link(file, place / "link"), mtime=False, ctime=True)
    check(file, lambda: os.unlink(place / "link"), mtime=False, ctime=True)
    check(
        file,
        lambda: os.rename(file, place / "renamed") or os.rename(place / "renamed", file),
        mtime=False,
        ctime=True,
    )


def test_what_changes_nothing(file: Path) -> None:
    check(file, file.read_bytes, mtime=False, ctime=False)
    check(file, file.stat, mtime=False, ctime=False)
    check(file, lambda: write(file, b""), mtime=False, ctime=False)
    check(file, lambda: os.close(os.open(file, os.O_RDWR)), mtime=False, ctime=False)


def test_times_set_on_an_open_file_stay(file: Path) -> None:
    with open(file, "r+b") as opened:
        opened.write(b"new content")
        opened.flush()
        os.utime(opened.fileno(), ns=(3, 4))
        assert os.fstat(opened.fileno()).st_mtime_ns == 4
    assert file.stat().st_mtime_ns == 4


def test_times_set_after_large_writes_stay(file: Path) -> None:
    file.write_bytes(os.urandom(3 << 20))
    os.utime(file, ns=(5, 6))
    assert file.stat().st_mtime_ns == 6


def test_publishing_moves_no_time(file: Path, tree: MountedTree) -> None:
    file.write_bytes(os.urandom(100_000))
    before = file.stat()
    tree.flush()
    after = file.stat()
    assert (before.st_mtime_ns, before.st_ctime_ns) == (after.st_mtime_ns, after.st_ctime_ns)
