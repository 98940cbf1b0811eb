"""Listings that stay what they are while entries come and go."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.mounts import MountedTree
from tests.support.syscalls import DirectoryStream

MANY = 1200  # more than one answer to readdir holds


@pytest.fixture
def crowd(place: Path) -> list[bytes]:
    """The names of many files in `place`."""
    names = [b"name-%05d" % number for number in range(MANY)]
    for name in names:
        os.mknod(os.fsencode(place) + b"/" + name)
    return names


def test_dot_and_dot_dot(tree: MountedTree, place: Path) -> None:
    with DirectoryStream(place) as stream:
        assert sorted(stream) == [b".", b".."]
    assert os.stat(place / ".").st_ino == place.stat().st_ino
    assert os.stat(place / "..").st_ino == tree.path.stat().st_ino
    inner = place / "a" / "b"
    inner.mkdir(parents=True)
    assert os.stat(inner / ".." / "..").st_ino == place.stat().st_ino


def test_every_name_once(place: Path, crowd: list[bytes]) -> None:
    with DirectoryStream(place) as stream:
        assert sorted(stream) == sorted([b".", b"..", *crowd])


def test_inode_numbers_in_listings_are_those_of_stat(place: Path) -> None:
    for number in range(50):
        (place / f"{number}").touch()
    with os.scandir(place) as entries:
        assert all(entry.inode() == os.lstat(entry.path).st_ino for entry in entries)


def test_removal_while_listing_skips_nothing(place: Path, crowd: list[bytes]) -> None:
    seen = []
    with DirectoryStream(place) as stream:
        for name in stream:
            if name not in (b".", b".."):
                seen.append(name)
                os.unlink(os.fsencode(place) + b"/" + name)
    assert sorted(seen) == crowd
    assert os.listdir(place) == []


def test_additions_while_listing_disturb_nothing(place: Path, crowd: list[bytes]) -> None:
    seen = []
    with DirectoryStream(place) as stream:
        for number, name in enumerate(stream):
            seen.append(name)
            if number % 100 == 0 and number < MANY:
                (place / f"later-{number}").touch()
    old = [name for name in seen if name.startswith(b"name-")]
    assert sorted(old) == crowd
    assert len(seen) == len(set(seen))


def test_renaming_while_listing_shows_those_that_stay(place: Path, crowd: list[bytes]) -> None:
    seen = []
    with DirectoryStream(place) as stream:
        for number, name in enumerate(stream):
            seen.append(name)
            if number < 500 and name.startswith(b"name-"):
                os.rename(os.fsencode(place) + b"/" + name, os.fsencode(place) + b"/moved-" + name)
    assert set(crowd) <= set(seen)
    assert len(seen) == len(set(seen))


def test_what_is_renamed_while_listing_is_not_listed_for_ever(place: Path) -> None:
    for number in range(100):
        os.mknod(place / f"{number}")
    count = 0
    with DirectoryStream(place) as stream:
        for name in stream:
            count += 1
            assert count < 10_000
            if name not in (b".", b".."):
                os.rename(os.fsencode(place) + b"/" + name, os.fsencode(place) + b"/renamed-%d" % count)
    assert len(os.listdir(place)) == 100


def test_telldir_and_seekdir(place: Path, crowd: list[bytes]) -> None:
    with DirectoryStream(place) as stream:
        order: list[bytes] = []
        marks = []
        while True:
            marks.append(stream.tell())
            name = stream.read()
            if name is None:
                break
            order.append(name)
        for number in (0, 1, 2, 5, MANY // 2, MANY - 1):
            stream.seek(marks[number])
            assert stream.read() == order[number]


def test_seekdir_when_entries_went_and_came(place: Path, crowd: list[bytes]) -> None:
    with DirectoryStream(place) as stream:
        first = [stream.read() for _ in range(600)]
        mark = stream.tell()
        rest = list(stream)
        for name in first[10:500]:
            assert name is not None
            os.unlink(os.fsencode(place) + b"/" + name)
        for name in rest[100:200]:
            os.unlink(os.fsencode(place) + b"/" + name)
        (place / "new").touch()
        stream.seek(mark)
        again = list(stream)
        expected = rest[:100] + rest[200:]
        assert [name for name in again if name != b"new"] == expected
        stream.rewind()
        assert set(stream) == {b".", b"..", b"new", *os.listdir(os.fsencode(place))}


def test_a_new_listing_is_complete_after_each_change(place: Path) -> None:
    for number in range(100):
        (place / f"{number}").touch()
        assert len(os.listdir(place)) == number + 1
    for number in range(100):
        (place / f"{number}").unlink()
        assert len(os.listdir(place)) == 99 - number


def test_removing_what_is_not_empty(place: Path) -> None:
    (place / "dir").mkdir()
    (place / "dir" / "file").touch()
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        (place / "dir").rmdir()
    (place / "dir" / "file").unlink()
    (place / "dir").rmdir()


def test_wrong_kinds(place: Path) -> None:
    (place / "dir").mkdir()
    (place / "file").touch()
    with refused(errno.ENOTDIR):
        os.rmdir(place / "file")
    with refused(errno.EISDIR, errno.EPERM):
        os.unlink(place / "dir")
    with refused(errno.ENOTDIR):
        os.listdir(place / "file")
    with refused(errno.ENOTDIR):
        os.stat(place / "file" / "below")
    with refused(errno.EEXIST):
        os.mkdir(place / "file")
    with refused(errno.EINVAL, errno.ENOTEMPTY):
        os.rmdir(f"{place}/dir/.")


def test_links_of_directories(place: Path) -> None:
    for number in range(5):
        (place / f"{number}").mkdir()
    assert place.stat().st_nlink == 7
    (place / "0").rmdir()
    assert place.stat().st_nlink == 6


def test_times_of_directories(place: Path) -> None:
    def moved(action: object) -> bool:
        os.utime(place, ns=(10, 10))
        assert callable(action)
        action()
        return place.stat().st_mtime_ns > 10

    assert moved((place / "file").touch)
    assert not moved(lambda: (place / "file").write_text("x"))
    assert moved(lambda: os.link(place / "file", place / "link"))
    assert moved(lambda: os.symlink("x", place / "symlink"))
    assert moved((place / "link").unlink)
    assert moved((place / "dir").mkdir)
    assert not moved((place / "dir" / "inner").mkdir)
    assert moved(lambda: (place / "dir").rename(place / "dir2"))
    assert not moved(lambda: os.listdir(place))
