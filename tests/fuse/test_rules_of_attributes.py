"""Rules of modes, owners and set-id bits, in the mount and on ext4, which judges the tests."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.users import NOBODY, as_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")

OTHER, GROUP = 65533, 65530


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def made(path: Path, mode: int, data: bytes = b"content", uid: int = NOBODY, gid: int = NOBODY) -> Path:
    path.write_bytes(data)
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    return path


def _write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)


def _append(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"x")
    os.close(fd)


def _direct(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as buffer:
        os.pwrite(fd, buffer, 0)
    os.close(fd)


def _ftruncate(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, 3)
    os.close(fd)


def _open_truncating(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))


def _copy(path: Path) -> None:
    source = os.open(path, os.O_RDONLY)
    fd = os.open(path, os.O_WRONLY)
    os.copy_file_range(source, fd, 3, 0, 100)
    os.close(fd)
    os.close(source)


CONTENT_CHANGES: list[Callable[[Path], None]] = [
    _write,
    _append,
    _direct,
    _ftruncate,
    _open_truncating,
    _copy,
    lambda path: os.truncate(path, 3),
    lambda path: os.truncate(path, 100_000),
]


@pytest.mark.parametrize("change", range(len(CONTENT_CHANGES)))
def test_content_changes_take_set_id_bits(spot: Path, change: int) -> None:
    action = CONTENT_CHANGES[change]
    path = made(spot / "file", 0o6777)
    as_user(OTHER, lambda: action(path))
    assert mode_of(path) == 0o777
    path = made(spot / "not executable", 0o6766)
    as_user(OTHER, lambda: action(path))
    assert mode_of(path) in (0o2766, 0o766)  # set-group-ID without execution was mandatory locking once
    path = made(spot / "root's", 0o6777)
    action(path)
    assert mode_of(path) == 0o6777


def test_reading_and_empty_writes_take_nothing(spot: Path) -> None:
    path = made(spot / "file", 0o6777)

    def nothing() -> None:
        path.read_bytes()
        fd = os.open(path, os.O_RDWR)
        os.write(fd, b"")
        os.close(fd)

    as_user(OTHER, nothing)
    assert mode_of(path) == 0o6777


def test_chown_takes_set_id_bits(spot: Path) -> None:
    path = made(spot / "file", 0o6755)
    as_user(NOBODY, lambda: os.chown(path, -1, GROUP), groups=(GROUP,))
    assert mode_of(path) == 0o755
    for uid, gid in ((OTHER, -1), (-1, OTHER), (OTHER, OTHER), (-1, -1)):
        os.chmod(path, 0o6755)
        os.chown(path, uid, gid)
        assert mode_of(path) == 0o755
    os.chmod(path, 0o6745)
    os.chown(path, OTHER, -1)
    assert mode_of(path) == 0o2745
    (spot / "dir").mkdir()
    os.chmod(spot / "dir", 0o6755)
    os.chown(spot / "dir", OTHER, OTHER)
    assert mode_of(spot / "dir") == 0o6755


def test_chmod_takes_a_foreign_set_group_id(spot: Path) -> None:
    path = made(spot / "file", 0o755, gid=GROUP)
    as_user(NOBODY, lambda: os.chmod(path, 0o2755))
    assert mode_of(path) == 0o755
    as_user(NOBODY, lambda: os.chmod(path, 0o2755), groups=(GROUP,))
    assert mode_of(path) == 0o2755
    as_user(NOBODY, lambda: os.chmod(path, 0o4755))
    assert mode_of(path) == 0o4755
    os.chmod(path, 0o7777)
    assert mode_of(path) == 0o7777


def test_who_may_chmod_and_chown(spot: Path) -> None:
    path = made(spot / "file", 0o666)
    actions: list[Callable[[], None]] = [
        lambda: os.chmod(path, 0o777),
        lambda: os.chown(path, OTHER, -1),
        lambda: os.chown(path, -1, OTHER),
        lambda: os.utime(path, ns=(1, 1)),
    ]
    for action in actions:
        with refused(errno.EPERM):
            as_user(OTHER, action)
    as_user(OTHER, lambda: os.utime(path))  # now: whoever may write
    with refused(errno.EPERM):
        as_user(NOBODY, lambda: os.chown(path, OTHER, -1))
    with refused(errno.EPERM):
        as_user(NOBODY, lambda: os.chown(path, -1, GROUP))
    as_user(NOBODY, lambda: os.chown(path, -1, GROUP), groups=(GROUP,))
    as_user(NOBODY, lambda: os.chown(path, NOBODY, -1))
    assert (path.stat().st_uid, path.stat().st_gid) == (NOBODY, GROUP)
    os.chmod(path, 0o444)
    with refused(errno.EACCES):
        as_user(OTHER, lambda: os.utime(path))


def test_owners_of_symlinks_are_their_own(spot: Path) -> None:
    made(spot / "file", 0o644, uid=0, gid=0)
    os.symlink("file", spot / "link")
    os.lchown(spot / "link", NOBODY, GROUP)
    assert ((spot / "link").lstat().st_uid, (spot / "file").stat().st_uid) == (NOBODY, 0)
    os.chown(spot / "link", OTHER, OTHER)
    assert ((spot / "link").lstat().st_uid, (spot / "file").stat().st_uid) == (NOBODY, OTHER)


@pytest.mark.parametrize("uid", [0, 1, 65535, 65536, 2**31, 2**32 - 2])
def test_any_owner(spot: Path, uid: int) -> None:
    (spot / "file").touch()
    os.chown(spot / "file", uid, uid)
    assert ((spot / "file").stat().st_uid, (spot / "file").stat().st_gid) == (uid, uid)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_umask(spot: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        os.close(os.open(spot / "file", os.O_CREAT | os.O_WRONLY, 0o7777))
        os.mkdir(spot / "dir", 0o1777)
        os.mkfifo(spot / "fifo", 0o666)
        os.mknod(spot / "node", stat.S_IFREG | 0o6777)
        os.symlink("x", spot / "link")
    finally:
        os.umask(old)
    assert mode_of(spot / "file") == 0o7777 & ~umask
    assert mode_of(spot / "dir") == 0o1777 & ~umask
    assert mode_of(spot / "fifo") == 0o666 & ~umask
    assert mode_of(spot / "node") == 0o6777 & ~umask
    assert mode_of(spot / "link") == 0o777


def test_set_group_id_directories(spot: Path) -> None:
    top = spot / "top"
    top.mkdir()
    os.chown(top, NOBODY, GROUP)
    os.chmod(top, 0o2777)

    def make() -> None:
        os.umask(0)
        os.close(os.open(top / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.close(os.open(top / "runs", os.O_CREAT | os.O_WRONLY, 0o2777))
        os.close(os.open(top / "locks", os.O_CREAT | os.O_WRONLY, 0o2766))
        os.mkdir(top / "dir", 0o755)
        os.mkfifo(top / "fifo", 0o2666)
        os.symlink("x", top / "link")

    as_user(OTHER, make)
    assert {path.lstat().st_gid for path in top.iterdir()} == {GROUP}
    assert {path.lstat().st_uid for path in top.iterdir()} == {OTHER}
    modes = {path.name: mode_of(path) for path in top.iterdir()}
    assert modes == {
        "file": 0o666, "runs": 0o777, "locks": 0o2766, "dir": 0o2755, "fifo": 0o2666, "link": 0o777
    }  # fmt: skip
    (top / "file").unlink()
    os.rename(top / "dir", spot / "dir")
    assert (mode_of(spot / "dir"), (spot / "dir").stat().st_gid) == (0o2755, GROUP)


def test_sticky_directories(spot: Path) -> None:
    top = spot / "top"
    top.mkdir()
    os.chmod(top, 0o1777)
    made(top / "file", 0o666)
    made(top / "mine", 0o666, uid=OTHER)
    (top / "dir").mkdir()
    os.chown(top / "dir", NOBODY, NOBODY)
    actions: list[Callable[[], None]] = [
        lambda: os.unlink(top / "file"),
        lambda: os.rename(top / "file", top / "renamed"),
        lambda: os.rename(top / "mine", top / "file"),
        lambda: os.rename(top / "file", spot / "elsewhere"),
        lambda: os.rmdir(top / "dir"),
    ]
    for action in actions:
        with refused(errno.EPERM, errno.EACCES):
            as_user(OTHER, action)
    as_user(NOBODY, lambda: os.rename(top / "file", top / "renamed"))
    os.chown(top, OTHER, OTHER)
    as_user(OTHER, lambda: os.unlink(top / "renamed"))
    as_user(OTHER, lambda: os.rmdir(top / "dir"))


def test_moving_a_directory_needs_the_right_to_write_in_it(spot: Path) -> None:
    (spot / "dir").mkdir()
    os.chown(spot / "dir", NOBODY, NOBODY)
    os.chmod(spot / "dir", 0o555)
    (spot / "other").mkdir()
    os.chmod(spot / "other", 0o777)
    with refused(errno.EACCES):
        as_user(NOBODY, lambda: os.rename(spot / "dir", spot / "other" / "dir"))
    as_user(NOBODY, lambda: os.rename(spot / "dir", spot / "renamed"))


def test_permissions_are_checked_on_the_way(spot: Path) -> None:
    inner = spot / "closed" / "dir"
    inner.mkdir(parents=True)
    made(inner / "file", 0o644)
    os.chmod(spot / "closed", 0o700)
    for action in (inner.stat, (inner / "file").read_bytes, (inner / "missing").lstat):
        with refused(errno.EACCES):
            as_user(OTHER, action)
    os.chmod(spot / "closed", 0o711)
    assert as_user(OTHER, (inner / "file").read_bytes) == b"content"
    with refused(errno.EACCES):
        as_user(OTHER, lambda: os.listdir(spot / "closed"))
    os.chmod(spot / "closed", 0o744)
    assert as_user(OTHER, lambda: os.listdir(spot / "closed")) == ["dir"]
    with refused(errno.EACCES):
        as_user(OTHER, inner.stat)
    os.chmod(spot / "closed", 0o755)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "others"),
    [(0o077, "", "rwx", "rwx"), (0o704, "rwx", "", "r"), (0o650, "rw", "rx", "")],
)
def test_the_first_class_that_fits_decides(
    spot: Path, mode: int, owner: str, group: str, others: str
) -> None:
    path = made(spot / "file", mode, gid=GROUP)
    bits = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}

    def allowed() -> str:
        return "".join(letter for letter, bit in bits.items() if os.access(path, bit))

    assert as_user(NOBODY, allowed, groups=(GROUP,)) == owner
    assert as_user(OTHER, allowed, groups=(GROUP,)) == group
    assert as_user(OTHER, allowed, gid=GROUP) == group
    assert as_user(OTHER, allowed) == others
    assert allowed() == ("rwx" if mode & 0o111 else "rw")


def test_descriptors_keep_the_rights_they_were_opened_with(spot: Path) -> None:
    def use() -> bytes:
        fd = os.open(spot / "file", os.O_CREAT | os.O_RDWR, 0)
        os.write(fd, b"written")
        os.chmod(spot / "file", 0)
        data = os.pread(fd, 100, 0)
        os.ftruncate(fd, 3)
        os.close(fd)
        return data

    assert as_user(NOBODY, use) == b"written"
    assert ((spot / "file").stat().st_size, mode_of(spot / "file")) == (3, 0)
    with refused(errno.EACCES):
        as_user(NOBODY, (spot / "file").read_bytes)


def test_a_running_program_cannot_be_written(spot: Path) -> None:
    shutil.copy("/bin/sleep", spot / "sleep")
    process = subprocess.Popen([spot / "sleep", "60"])
    try:
        with refused(errno.ETXTBSY):
            os.open(spot / "sleep", os.O_WRONLY)
        (spot / "sleep").unlink()
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_what_is_open_for_writing_cannot_be_run(spot: Path) -> None:
    shutil.copy("/bin/true", spot / "true")
    with open(spot / "true", "r+b"), refused(errno.ETXTBSY):
        subprocess.run([spot / "true"], check=True)
    subprocess.run([spot / "true"], check=True)
    (spot / "script").write_text("#!/bin/sh\nexit 7\n")
    with refused(errno.EACCES):
        subprocess.run([spot / "script"], check=True)
    os.chmod(spot / "script", 0o755)
    assert subprocess.run([spot / "script"], check=False).returncode == 7


def test_set_user_id_programs_run_as_their_owner(spot: Path) -> None:
    shutil.copy("/usr/bin/id", spot / "id")
    os.chown(spot / "id", OTHER, GROUP)
    os.chmod(spot / "id", 0o6755)

    def identity() -> str:
        return subprocess.run([spot / "id", "-u"], capture_output=True, text=True, check=True).stdout.strip()

    assert as_user(NOBODY, identity) == str(OTHER)
    os.chmod(spot / "id", 0o755)
    assert as_user(NOBODY, identity) == str(NOBODY)


@pytest.mark.skipif(not shutil.which("setcap"), reason="setcap is not installed (Debian: libcap2-bin)")
@pytest.mark.parametrize("change", range(len(CONTENT_CHANGES)))
def test_content_changes_take_capabilities(spot: Path, change: int) -> None:
    path = made(spot / "file", 0o777, uid=0, gid=0)
    subprocess.run(["setcap", "cap_net_raw+ep", path], check=True)
    assert os.listxattr(path) == ["security.capability"]
    CONTENT_CHANGES[change](path)
    assert os.listxattr(path) == []


@pytest.mark.skipif(not shutil.which("setcap"), reason="setcap is not installed (Debian: libcap2-bin)")
def test_chown_takes_capabilities(spot: Path) -> None:
    path = made(spot / "file", 0o777, uid=0, gid=0)
    subprocess.run(["setcap", "cap_net_raw+ep", path], check=True)
    os.chmod(path, 0o755)
    assert os.listxattr(path) == ["security.capability"]
    os.chown(path, NOBODY, NOBODY)
    assert os.listxattr(path) == []
