"""Symlinks, FIFOs, sockets and device nodes."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from tests.support.errnos import refused

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")


@pytest.mark.parametrize(
    "target", [b"x", b"../up", b"/absolute", b"\xff\xfe", "名前".encode(), b"a/" * 2047 + b"b", b"y" * 4095]
)
def test_symlink_targets(place: Path, target: bytes) -> None:
    link = os.fsencode(place) + b"/link"
    os.symlink(target, link)
    status = os.lstat(link)
    assert os.readlink(link) == target
    assert (stat.S_ISLNK(status.st_mode), status.st_size) == (True, len(target))
    assert stat.S_IMODE(status.st_mode) == 0o777


def test_longer_targets_are_refused(place: Path) -> None:
    with refused(errno.ENAMETOOLONG):
        os.symlink(b"y" * 4096, place / "link")


def test_following_symlinks(place: Path) -> None:
    (place / "dir").mkdir()
    (place / "dir" / "file").write_text("found")
    os.symlink("dir", place / "link")
    assert (place / "link" / "file").read_text() == "found"
    os.symlink("loop", place / "loop")
    with refused(errno.ELOOP):
        os.stat(place / "loop")
    with refused(errno.ELOOP):
        os.open(place / "link", os.O_RDONLY | os.O_NOFOLLOW)


def test_symlinks_have_their_own_attributes(place: Path) -> None:
    os.symlink("nowhere", place / "link")
    os.utime(place / "link", ns=(11, 13), follow_symlinks=False)
    status = os.lstat(place / "link")
    assert status.st_mtime_ns == 13
    os.link(place / "link", place / "second", follow_symlinks=False)
    assert os.lstat(place / "second").st_ino == status.st_ino
    assert os.readlink(place / "second") == "nowhere"


def test_fifo_carries_data(place: Path) -> None:
    path = place / "fifo"
    os.mkfifo(path, 0o640)
    assert stat.S_ISFIFO(path.lstat().st_mode)

    def writer() -> None:
        path.write_bytes(b"through the pipe")

    thread = threading.Thread(target=writer)
    thread.start()
    assert path.read_bytes() == b"through the pipe"
    thread.join()
    assert path.lstat().st_size == 0


def test_socket_accepts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        assert stat.S_ISSOCK(os.lstat("socket").st_mode)
        server.listen()
        client.connect("socket")
        client.send(b"hello")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(10) == b"hello"


@as_root
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize("numbers", [(1, 3), (0, 0), (255, 255), (259, 65536), (4095, 1048575)])
def test_device_numbers(place: Path, kind: int, numbers: tuple[int, int]) -> None:
    path = place / "device"
    os.mknod(path, kind | 0o600, os.makedev(*numbers))
    status = path.lstat()
    assert stat.S_IFMT(status.st_mode) == kind
    assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == numbers


@as_root
def test_devices_work_where_the_mount_allows(place: Path) -> None:
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(place / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    (place / "null").write_bytes(b"x" * 1000)
    assert (place / "null").read_bytes() == b""
    with open(place / "zero", "rb", buffering=0) as zero:
        assert zero.read(10) == bytes(10)


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK])
def test_mknod_without_privilege(place: Path, kind: int) -> None:
    os.mknod(place / "node", kind | 0o604)
    status = (place / "node").lstat()
    assert stat.S_IFMT(status.st_mode) == kind
    with refused(errno.EEXIST):
        os.mknod(place / "node", kind | 0o604)


def test_special_files_are_renamed_linked_and_removed(place: Path) -> None:
    os.mkfifo(place / "fifo")
    os.link(place / "fifo", place / "other")
    os.rename(place / "fifo", place / "renamed")
    assert (place / "renamed").lstat().st_nlink == 2
    os.chmod(place / "renamed", 0o600)
    assert stat.S_IMODE((place / "other").lstat().st_mode) == 0o600
    (place / "other").unlink()
    assert (place / "renamed").lstat().st_nlink == 1
