"""Rules of extended attributes, times and locks, in the mount and on ext4, which judges the tests."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.mounts import wait_until
from tests.support.users import NOBODY, as_user

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")

OTHER = 65533
SECOND = 10**9


# --- extended attributes ----------------------------------------------------------------------------------------


def test_buffers_that_are_too_small(spot: Path) -> None:
    (spot / "file").touch()
    os.setxattr(spot / "file", "user.a", b"0123456789")
    libc = ctypes.CDLL(None, use_errno=True)
    path = os.fsencode(spot / "file")
    buffer = ctypes.create_string_buffer(100)
    assert libc.getxattr(path, b"user.a", None, 0) == 10
    assert libc.getxattr(path, b"user.a", buffer, 10) == 10
    assert buffer.raw[:10] == b"0123456789"
    assert libc.getxattr(path, b"user.a", buffer, 9) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(path, None, 0) == 7
    assert libc.listxattr(path, buffer, 7) == 7
    assert buffer.raw[:7] == b"user.a\0"
    assert libc.listxattr(path, buffer, 6) == -1
    assert ctypes.get_errno() == errno.ERANGE


def test_flags(spot: Path) -> None:
    (spot / "file").touch()
    with refused(errno.ENODATA):
        os.setxattr(spot / "file", "user.a", b"", os.XATTR_REPLACE)
    os.setxattr(spot / "file", "user.a", b"", os.XATTR_CREATE)
    with refused(errno.EEXIST):
        os.setxattr(spot / "file", "user.a", b"", os.XATTR_CREATE)
    with refused(errno.EINVAL):
        os.setxattr(spot / "file", "user.a", b"", 4)
    assert os.getxattr(spot / "file", "user.a") == b""


def test_sizes(spot: Path) -> None:
    (spot / "file").touch()
    os.setxattr(spot / "file", "user.a", b"x" * 3500)
    os.setxattr(spot / "file", "user." + "n" * 250, b"y")
    assert len(os.getxattr(spot / "file", "user.a")) == 3500
    with refused(errno.ERANGE):
        os.setxattr(spot / "file", "user." + "n" * 251, b"y")
    with refused(errno.E2BIG):
        os.setxattr(spot / "file", "user.b", b"x" * 65537)
    with refused(errno.ENOSPC):
        for number in range(10_000):
            os.setxattr(spot / "file", f"user.{number}", b"x" * 3000)
    assert len(os.getxattr(spot / "file", "user.a")) == 3500


@pytest.mark.parametrize("name", ["", "user", "user.", "name", "nonsense.name"])
def test_names_that_are_none(spot: Path, name: str) -> None:
    (spot / "file").touch()
    with refused(errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE):
        os.setxattr(spot / "file", name, b"x")
    assert os.listxattr(spot / "file") == []


def test_what_has_no_user_attributes(spot: Path) -> None:
    os.symlink("x", spot / "link")
    os.mkfifo(spot / "fifo")
    for name in ("link", "fifo"):
        with refused(errno.EPERM):
            os.setxattr(spot / name, "user.a", b"1", follow_symlinks=False)
        with refused(errno.ENODATA, errno.EPERM):
            os.getxattr(spot / name, "user.a", follow_symlinks=False)
        assert os.listxattr(spot / name, follow_symlinks=False) == []


@as_root
def test_rights_to_user_attributes(spot: Path) -> None:
    (spot / "file").touch()
    os.setxattr(spot / "file", "user.a", b"1")
    os.chmod(spot / "file", 0o644)
    assert as_user(OTHER, lambda: os.getxattr(spot / "file", "user.a")) == b"1"
    for action in (
        lambda: os.setxattr(spot / "file", "user.a", b"2"),
        lambda: os.removexattr(spot / "file", "user.a"),
    ):
        with refused(errno.EACCES):
            as_user(OTHER, action)
    os.chmod(spot / "file", 0o600)
    with refused(errno.EACCES):
        as_user(OTHER, lambda: os.getxattr(spot / "file", "user.a"))
    assert as_user(OTHER, lambda: os.listxattr(spot / "file")) == ["user.a"]
    os.chown(spot / "file", NOBODY, NOBODY)
    as_user(NOBODY, lambda: os.setxattr(spot / "file", "user.a", b"2"))
    (spot / "sticky").mkdir()
    os.chmod(spot / "sticky", 0o1777)
    with refused(errno.EPERM):
        as_user(OTHER, lambda: os.setxattr(spot / "sticky", "user.a", b"1"))


@as_root
def test_trusted_attributes_are_the_privileged_ones(spot: Path) -> None:
    (spot / "file").touch()
    os.chmod(spot / "file", 0o666)
    os.setxattr(spot / "file", "trusted.a", b"1")
    os.setxattr(spot / "file", "user.b", b"2")
    assert sorted(os.listxattr(spot / "file")) == ["trusted.a", "user.b"]
    assert as_user(OTHER, lambda: os.listxattr(spot / "file")) == ["user.b"]
    with refused(errno.ENODATA):
        as_user(OTHER, lambda: os.getxattr(spot / "file", "trusted.a"))
    for action in (
        lambda: os.setxattr(spot / "file", "trusted.a", b"2"),
        lambda: os.removexattr(spot / "file", "trusted.a"),
        lambda: os.setxattr(spot / "file", "security.a", b"2"),
    ):
        with refused(errno.EPERM):
            as_user(OTHER, action)
    assert as_user(OTHER, lambda: os.access(spot / "file", os.R_OK))


@as_root
def test_privileged_attributes_of_anything(spot: Path) -> None:
    os.symlink("x", spot / "link")
    os.mkfifo(spot / "fifo")
    (spot / "dir").mkdir()
    for name in ("link", "fifo", "dir"):
        for attribute in ("trusted.a", "security.a"):
            os.setxattr(spot / name, attribute, name.encode(), follow_symlinks=False)
            assert os.getxattr(spot / name, attribute, follow_symlinks=False) == name.encode()
        assert sorted(os.listxattr(spot / name, follow_symlinks=False)) == ["security.a", "trusted.a"]


def test_attributes_belong_to_the_file(spot: Path) -> None:
    (spot / "file").touch()
    os.setxattr(spot / "file", "user.a", b"1")
    os.link(spot / "file", spot / "link")
    os.rename(spot / "file", spot / "renamed")
    with open(spot / "renamed", "r+b") as file:
        assert os.getxattr(file.fileno(), "user.a") == b"1"
        os.setxattr(file.fileno(), "user.b", b"2")
        (spot / "renamed").unlink()
        os.removexattr(file.fileno(), "user.a")
    assert os.listxattr(spot / "link") == ["user.b"]


def test_nothing_is_lost_when_many_write_attributes(spot: Path) -> None:
    (spot / "file").touch()
    script = (
        "import os, sys\n"
        "for n in range(50): os.setxattr(sys.argv[1], f'user.{sys.argv[2]}-{n}', b'value')\n"
        "for n in range(0, 50, 2): os.removexattr(sys.argv[1], f'user.{sys.argv[2]}-{n}')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, spot / "file", str(number)]) for number in range(3)
    ]
    assert [process.wait() for process in processes] == [0] * 3
    expected = {f"user.{number}-{n}" for number in range(3) for n in range(1, 50, 2)}
    assert set(os.listxattr(spot / "file")) == expected


# --- times -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [0, 1, SECOND - 1, 1_700_000_000_123_456_789, 2**31 * SECOND - 1, 2**31 * SECOND, 2**32 * SECOND + 5],
)
def test_nanoseconds(spot: Path, moment: int) -> None:
    (spot / "file").touch()
    (spot / "dir").mkdir()
    os.symlink("x", spot / "link")
    for name in ("file", "dir", "link"):
        os.utime(spot / name, ns=(moment + 1, moment), follow_symlinks=False)
        found = os.lstat(spot / name)
        assert (found.st_atime_ns, found.st_mtime_ns) == (moment + 1, moment)


@pytest.mark.parametrize("moment", [-1, -SECOND, -1_500_000_001, -(2**31) * SECOND])
def test_before_1970(spot: Path, moment: int) -> None:
    (spot / "file").touch()
    os.utime(spot / "file", ns=(moment, moment - 1 if moment > -(2**31) * SECOND else moment))
    assert (spot / "file").stat().st_atime_ns == moment


def changes(path: Path, action: Callable[[], object]) -> str:
    """Which of a(time), m(time) and c(time) an action moves; a is left out, mounts differ in it."""
    os.utime(path, ns=(SECOND, SECOND), follow_symlinks=False)
    before = os.lstat(path)
    time.sleep(0.011)  # longer than a tick of ext4's clock
    action()
    after = os.lstat(path)
    moved = "m" if after.st_mtime_ns != before.st_mtime_ns else ""
    return moved + ("c" if after.st_ctime_ns != before.st_ctime_ns else "")


def test_what_moves_which_time(spot: Path) -> None:
    file, directory = spot / "file", spot / "dir"
    file.write_bytes(b"x" * 100)
    directory.mkdir()
    (spot / "elsewhere").mkdir()

    def write() -> None:
        with open(file, "r+b") as opened:
            opened.write(b"y")

    cases: list[tuple[Path, Callable[[], object], str]] = [
        (file, write, "mc"),
        (file, lambda: os.truncate(file, 50), "mc"),
        (file, lambda: os.chmod(file, 0o600), "c"),
        (file, lambda: os.chmod(file, 0o600), "c"),
        (file, lambda: os.chown(file, -1, -1), "c"),
        (file, lambda: os.setxattr(file, "user.a", b"1"), "c"),
        (file, lambda: os.removexattr(file, "user.a"), "c"),
        (file, lambda: os.link(file, spot / "link"), "c"),
        (file, lambda: os.unlink(spot / "link"), "c"),
        (file, lambda: os.utime(file, ns=(SECOND, SECOND)), "c"),
        (file, file.read_bytes, ""),
        (file, lambda: os.stat(file), ""),
        (file, lambda: os.close(os.open(file, os.O_RDWR)), ""),
        (directory, (directory / "new").touch, "mc"),
        (directory, lambda: (directory / "new").write_text("x"), ""),
        (directory, lambda: os.link(file, directory / "link"), "mc"),
        (directory, lambda: os.rename(directory / "link", directory / "renamed"), "mc"),
        (directory, lambda: os.rename(directory / "renamed", spot / "out"), "mc"),
        (directory, lambda: os.rename(spot / "out", directory / "in"), "mc"),
        (directory, lambda: os.unlink(directory / "in"), "mc"),
        (directory, lambda: os.mkdir(directory / "sub"), "mc"),
        (directory, lambda: os.mkdir(directory / "sub" / "sub"), ""),
        (directory, lambda: os.rmdir(directory / "sub" / "sub"), ""),
        (directory, lambda: os.rmdir(directory / "sub"), "mc"),
        (directory, lambda: os.symlink("x", directory / "symlink"), "mc"),
        (directory, lambda: os.mkfifo(directory / "fifo"), "mc"),
        (directory, lambda: os.listdir(directory), ""),
        (directory, lambda: os.chmod(directory, 0o711), "c"),
        (
            directory,
            lambda: os.rename(directory, spot / "moved") or os.rename(spot / "moved", directory),
            "c",
        ),
    ]
    found = [changes(path, action) for path, action, _ in cases]
    assert found == [expected for _, _, expected in cases]


def test_refused_calls_move_no_time(spot: Path) -> None:
    (spot / "file").write_text("x")
    (spot / "dir" / "full").mkdir(parents=True)
    cases: list[Callable[[], object]] = [
        lambda: os.mkdir(spot / "dir" / "full"),
        lambda: os.rmdir(spot / "dir"),
        lambda: os.unlink(spot / "dir" / "missing"),
        lambda: os.rename(spot / "file", spot / "dir" / "full"),
        lambda: os.link(spot / "file", spot / "dir" / "full"),
        lambda: os.symlink("x", spot / "dir" / "full"),
    ]
    for case in cases:

        def action(case: Callable[[], object] = case) -> None:
            with refused(errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT, errno.EISDIR):
                case()

        assert changes(spot / "dir", action) == ""
        assert changes(spot / "file", action) == ""


def test_ctime_is_now_whatever_utimes_says(spot: Path) -> None:
    (spot / "file").touch()
    before = time.time_ns() - SECOND
    os.utime(spot / "file", ns=(0, 0))
    assert before < (spot / "file").stat().st_ctime_ns < time.time_ns() + SECOND


# --- locks -----------------------------------------------------------------------------------------------------

LOCKER = """
import fcntl, os, sys
path, kind, start, length = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
fd = os.open(path, os.O_RDWR)
try:
    if kind == "flock": fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif kind == "shared": fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    elif kind == "read": fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, length, start)
    else: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
except OSError: sys.exit(1)
"""


def lockable(path: Path, kind: str, start: int = 0, length: int = 0) -> bool:
    """Whether another process gets a lock now."""
    command = [sys.executable, "-c", LOCKER, str(path), kind, str(start), str(length)]
    return subprocess.run(command, check=False).returncode == 0


def test_record_locks(spot: Path) -> None:
    path = spot / "file"
    path.touch()
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 100)
        assert not lockable(path, "write", 105, 1)
        assert not lockable(path, "read", 109, 1)
        assert lockable(path, "write", 110, 5)
        assert lockable(path, "write", 0, 100)
        assert lockable(path, "flock")
        fcntl.lockf(file, fcntl.LOCK_SH, 10, 100)
        assert lockable(path, "read", 105, 1)
        assert not lockable(path, "write", 105, 1)
        fcntl.lockf(file, fcntl.LOCK_UN, 5, 100)
        assert lockable(path, "write", 100, 5)
        assert not lockable(path, "write", 100, 6)
        fcntl.lockf(file, fcntl.LOCK_EX)
        with open(path, "rb"):
            pass  # closing any descriptor of the file gives record locks up
        assert lockable(path, "write")


def test_flock_belongs_to_the_open_file(spot: Path) -> None:
    path = spot / "file"
    path.touch()
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        duplicate = os.dup(file.fileno())
        with open(path, "r+b") as other, refused(errno.EWOULDBLOCK):
            fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert lockable(path, "write")
        assert not lockable(path, "shared")
        fcntl.flock(file, fcntl.LOCK_SH)
        assert lockable(path, "shared")
    assert not lockable(path, "flock")  # the duplicate holds it
    os.close(duplicate)
    assert lockable(path, "flock")


def test_locks_end_with_their_process(spot: Path) -> None:
    path = spot / "file"
    path.touch()
    script = "import fcntl, sys, time; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); fcntl.flock(f, 2); print(1, flush=True); time.sleep(60)"  # noqa: E501
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        assert not lockable(path, "write")
        assert not lockable(path, "flock")
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert lockable(path, "write")
    assert lockable(path, "flock")


def test_who_holds_a_lock(spot: Path) -> None:
    path = spot / "file"
    path.touch()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with open(path, "r+b") as mine:
            fcntl.lockf(mine, fcntl.LOCK_EX, 10, 5)
            os.write(writing, b"x")
            signal.pause()
        os._exit(0)
    os.read(reading, 1)
    with open(path, "r+b") as file:
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, question))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert answer == (fcntl.F_WRLCK, os.SEEK_SET, 5, 10, child)


def test_locks_of_open_file_descriptions(spot: Path) -> None:
    path = spot / "file"
    path.touch()
    setlk, whole = 37, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with open(path, "r+b") as one, open(path, "r+b") as two:
        fcntl.fcntl(one, setlk, whole)
        with refused(errno.EAGAIN, errno.EACCES):
            fcntl.fcntl(two, setlk, whole)
        assert not lockable(path, "write")
        two.close()
        assert not lockable(path, "write")
    assert lockable(path, "write")


def test_waiting_for_a_lock_can_be_interrupted(spot: Path) -> None:
    path = spot / "file"
    path.touch()
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        script = (
            "import fcntl, signal, sys\n"
            "def stop(*_): raise InterruptedError\n"
            "signal.signal(signal.SIGALRM, stop); signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
            "try: fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX)\n"
            "except InterruptedError: sys.exit(7)\n"
        )
        done = subprocess.run([sys.executable, "-c", script, path], timeout=60, check=False)
        assert done.returncode == 7


def test_two_that_wait_for_each_other(spot: Path) -> None:
    path = spot / "file"
    path.touch()
    reading, writing = os.pipe()
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 1)
        child = os.fork()
        if child == 0:
            with open(path, "r+b") as mine:
                fcntl.lockf(mine, fcntl.LOCK_EX, 1, 0)
                os.write(writing, b"x")
                fcntl.lockf(mine, fcntl.LOCK_EX, 1, 1)  # waits for the parent
            os._exit(0)
        os.read(reading, 1)
        wait_until(lambda: _waits(child), what="the wait for a lock")
        with refused(errno.EDEADLK):
            fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
    os.waitpid(child, 0)


def _waits(pid: int) -> bool:
    return any(f" {pid} " in line and "->" in line for line in Path("/proc/locks").read_text().splitlines())


# --- notification ----------------------------------------------------------------------------------------------


def test_inotify_tells_of_changes(spot: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(fd, os.fsencode(spot), 0x100 | 0x200 | 0x40 | 0x80 | 0x2) > 0
    (spot / "file").write_text("x")
    os.rename(spot / "file", spot / "moved")
    (spot / "moved").unlink()
    data, names = os.read(fd, 65536), []
    os.close(fd)
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        names.append((mask, data[16 : 16 + length].rstrip(b"\0")))
        data = data[16 + length :]
    assert names == [
        (0x100, b"file"), (0x2, b"file"), (0x40, b"file"), (0x80, b"moved"), (0x200, b"moved")
    ]  # fmt: skip
