"""rename(2) and renameat2(2) in all their forms."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, rename2


def fails(number: int, old: Path, new: Path, flags: int = 0) -> None:
    with refused(number):
        rename2(old, new, flags)


@pytest.fixture
def a(place: Path) -> Path:
    """A file with content "a"."""
    path = place / "a"
    path.write_text("a")
    return path


@pytest.fixture
def b(place: Path) -> Path:
    """A file with content "b"."""
    path = place / "b"
    path.write_text("b")
    return path


@pytest.fixture
def full(place: Path) -> Path:
    """A directory that is not empty."""
    path = place / "full"
    path.mkdir()
    (path / "inner").write_text("inner")
    return path


@pytest.fixture
def empty(place: Path) -> Path:
    """An empty directory."""
    path = place / "empty"
    path.mkdir()
    return path


def test_replaces_a_file(a: Path, b: Path) -> None:
    ino = a.stat().st_ino
    os.rename(a, b)
    assert not a.exists()
    assert (b.read_text(), b.stat().st_ino) == ("a", ino)


def test_moves_times_as_posix_says(place: Path, a: Path) -> None:
    target = place / "dir"
    target.mkdir()
    for directory in (place, target):
        os.utime(directory, ns=(1, 1))
    before = a.stat()
    os.rename(a, target / "a")
    after = (target / "a").stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ctime_ns >= before.st_ctime_ns
    assert place.stat().st_mtime_ns > 1
    assert target.stat().st_mtime_ns > 1


def test_replaces_an_empty_directory_only(full: Path, empty: Path) -> None:
    fails(errno.ENOTEMPTY, empty, full)
    os.rename(full, empty)
    assert (empty / "inner").read_text() == "inner"
    assert not full.exists()


def test_files_and_directories_do_not_replace_each_other(a: Path, empty: Path) -> None:
    fails(errno.EISDIR, a, empty)
    fails(errno.ENOTDIR, empty, a)


def test_not_below_itself(full: Path) -> None:
    fails(errno.EINVAL, full, full / "below")
    fails(errno.ENOTEMPTY, full / "inner", full)


def test_onto_another_name_of_the_same_file_does_nothing(a: Path, place: Path) -> None:
    os.link(a, place / "same")
    os.rename(a, place / "same")
    assert sorted(os.listdir(place)) == ["a", "same"]
    assert a.stat().st_nlink == 2


def test_directory_moves_count_links(place: Path, full: Path, empty: Path) -> None:
    top = place.stat().st_nlink
    os.rename(full, empty / "full")
    assert place.stat().st_nlink == top - 1
    assert empty.stat().st_nlink == 3
    assert os.stat(empty / "full" / "..").st_ino == empty.stat().st_ino


def test_noreplace(a: Path, b: Path, place: Path) -> None:
    fails(errno.EEXIST, a, b, RENAME_NOREPLACE)
    assert (a.read_text(), b.read_text()) == ("a", "b")
    rename2(a, place / "c", RENAME_NOREPLACE)
    assert sorted(os.listdir(place)) == ["b", "c"]


def test_exchange_of_files(a: Path, b: Path) -> None:
    rename2(a, b, RENAME_EXCHANGE)
    assert (a.read_text(), b.read_text()) == ("b", "a")


def test_exchange_of_a_file_and_a_full_directory(a: Path, full: Path, empty: Path) -> None:
    inside = empty / "file"
    os.rename(a, inside)
    rename2(inside, full, RENAME_EXCHANGE)
    assert full.read_text() == "a"
    assert (inside / "inner").read_text() == "inner"
    assert empty.stat().st_nlink == 3
    assert os.stat(inside / "..").st_ino == empty.stat().st_ino


def test_exchange_needs_both(a: Path, place: Path) -> None:
    fails(errno.ENOENT, a, place / "nothing", RENAME_EXCHANGE)
    fails(errno.ENOENT, place / "nothing", a, RENAME_EXCHANGE)


def test_exchange_with_what_is_above(full: Path) -> None:
    fails(errno.EINVAL, full, full / "inner", RENAME_EXCHANGE)


def test_other_flags(a: Path, b: Path) -> None:
    fails(errno.EINVAL, a, b, RENAME_NOREPLACE | RENAME_EXCHANGE)
    fails(errno.EINVAL, a, b, RENAME_WHITEOUT)


def test_missing_source(a: Path, place: Path) -> None:
    fails(errno.ENOENT, place / "nothing", a)
    fails(errno.ENOENT, a, place / "no directory" / "a")
    fails(errno.ENOTDIR, a, a / "below")


def test_descriptors_follow_the_file(a: Path, b: Path) -> None:
    with open(a, "r+b") as moved, open(b, "r+b") as replaced:
        os.rename(a, b)
        moved.write(b"A")
        replaced.write(b"B")
        moved.flush()
        replaced.flush()
        assert b.read_text() == "A"
        assert os.fstat(replaced.fileno()).st_nlink == 0
        replaced.seek(0)
        assert replaced.read() == b"B"


def test_chain_of_renames_over_each_other(place: Path) -> None:
    for number in range(20):
        (place / "new").write_text(str(number))
        os.rename(place / "new", place / "current")
    assert (place / "current").read_text() == "19"
    assert os.listdir(place) == ["current"]
