"""Extended attributes: names and values as bytes, limits and errors as on local file systems."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.support.errnos import refused

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs privileged namespaces")

VALUES = [b"", b"text", b"\0binary\xff", os.urandom(4096), b"x" * 65536]


@pytest.fixture
def file(place: Path) -> Path:
    """A regular file."""
    path = place / "file"
    path.write_text("content")
    return path


@pytest.mark.parametrize("value", VALUES, ids=len)
def test_values(file: Path, value: bytes) -> None:
    os.setxattr(file, "user.name", value)
    assert os.getxattr(file, "user.name") == value
    assert os.listxattr(file) == ["user.name"]


def test_larger_values_are_refused(file: Path) -> None:
    with refused(errno.E2BIG):
        os.setxattr(file, "user.name", b"x" * 65537)


@pytest.mark.parametrize("name", [b"user.\xff\xfe", "user.名前".encode(), b"user." + b"n" * 250, b"user. "])
def test_names(file: Path, name: bytes) -> None:
    os.setxattr(file, name, b"value")
    assert os.getxattr(file, name) == b"value"
    assert [os.fsencode(found) for found in os.listxattr(file)] == [name]


def test_longer_names_are_refused(file: Path) -> None:
    with refused(errno.ERANGE):
        os.setxattr(file, b"user." + b"n" * 251, b"")


def test_create_and_replace(file: Path) -> None:
    with refused(errno.ENODATA):
        os.setxattr(file, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(file, "user.a", b"1", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(file, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(file, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(file, "user.a") == b"3"


def test_one_of_many_creates(file: Path) -> None:
    for attempt in range(10):
        winners = []
        barrier = threading.Barrier(6)

        def race(number: int, name: str, barrier: threading.Barrier, winners: list[int]) -> None:
            barrier.wait()
            try:
                os.setxattr(file, name, str(number).encode(), os.XATTR_CREATE)
            except FileExistsError:
                return
            winners.append(number)

        name = f"user.race{attempt}"
        threads = [threading.Thread(target=race, args=(n, name, barrier, winners)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert os.getxattr(file, name) == str(winners[0]).encode()


def test_removal(file: Path) -> None:
    os.setxattr(file, "user.a", b"1")
    os.setxattr(file, "user.b", b"2")
    os.removexattr(file, "user.a")
    assert os.listxattr(file) == ["user.b"]
    for call in (lambda: os.getxattr(file, "user.a"), lambda: os.removexattr(file, "user.a")):
        with refused(errno.ENODATA):
            call()


def test_many(file: Path) -> None:
    names = {f"user.attribute-{number}": os.urandom(50) for number in range(300)}
    for name, value in names.items():
        os.setxattr(file, name, value)
    assert {name: os.getxattr(file, name) for name in os.listxattr(file)} == names


def test_change_ctime_only(file: Path) -> None:
    before = file.stat()
    os.setxattr(file, "user.a", b"1")
    after = file.stat()
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns
    os.removexattr(file, "user.a")
    assert file.stat().st_ctime_ns > after.st_ctime_ns


def test_directories_have_them_and_renames_keep_them(place: Path) -> None:
    (place / "dir").mkdir()
    os.setxattr(place / "dir", "user.kind", b"directory")
    os.rename(place / "dir", place / "moved")
    assert os.getxattr(place / "moved", "user.kind") == b"directory"


def test_content_and_attributes_do_not_disturb_each_other(file: Path) -> None:
    os.setxattr(file, "user.a", b"1")
    file.write_bytes(b"y" * 50_000)
    assert os.getxattr(file, "user.a") == b"1"


def test_user_attributes_of_special_files_are_refused(place: Path) -> None:
    os.symlink("x", place / "link")
    os.mkfifo(place / "fifo")
    with refused(errno.EPERM):
        os.setxattr(place / "link", "user.a", b"1", follow_symlinks=False)
    with refused(errno.EPERM):
        os.setxattr(place / "fifo", "user.a", b"1")


@as_root
@pytest.mark.parametrize("namespace", ["trusted", "security"])
def test_privileged_namespaces(place: Path, file: Path, namespace: str) -> None:
    os.symlink("x", place / "link")
    for path in (file, place / "link", place):
        os.setxattr(path, f"{namespace}.test", b"\0\1", follow_symlinks=False)
        assert os.getxattr(path, f"{namespace}.test", follow_symlinks=False) == b"\0\1"


@pytest.mark.parametrize("name", ["nonsense", "unknown.name", "system.something"])
def test_other_namespaces(file: Path, name: str) -> None:
    with refused(errno.EOPNOTSUPP):
        os.setxattr(file, name, b"")


@pytest.mark.parametrize("name", ["user.", "trusted."])
def test_a_namespace_is_no_name(file: Path, name: str) -> None:
    with refused(errno.EINVAL, errno.EPERM):
        os.setxattr(file, name, b"")


@pytest.mark.parametrize("name", ["system.posix_acl_access", "system.posix_acl_default"])
def test_acls_are_not_supported_unless_asked_for(place: Path, name: str) -> None:
    acl = bytes.fromhex("02000000 01000700 ffffffff 04000500 ffffffff 20000500 ffffffff")
    with refused(errno.EOPNOTSUPP):
        os.setxattr(place, name, acl)
    with refused(errno.EOPNOTSUPP, errno.ENODATA):
        os.getxattr(place, name)
