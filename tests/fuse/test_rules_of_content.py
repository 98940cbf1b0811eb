"""Rules of open files, sizes, holes and memory maps, in the mount and on ext4, which judges the tests."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.errnos import refused
from tests.support.syscalls import link_descriptor

PAGE = 4096


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


# --- open -----------------------------------------------------------------------------------------------------


def test_flags_that_say_what_must_be_there(spot: Path) -> None:
    (spot / "file").write_text("x")
    (spot / "dir").mkdir()
    os.symlink("file", spot / "link")
    with refused(errno.ENOTDIR):
        os.open(spot / "file", os.O_RDONLY | os.O_DIRECTORY)
    with refused(errno.ELOOP):
        os.open(spot / "link", os.O_RDONLY | os.O_NOFOLLOW)
    with refused(errno.EISDIR):
        os.open(spot / "dir", os.O_RDWR)
    with refused(errno.EISDIR):
        os.open(spot / "dir", os.O_CREAT | os.O_RDONLY)
    with refused(errno.EISDIR):
        os.open(f"{spot}/new/", os.O_CREAT | os.O_WRONLY)
    with refused(errno.ENOTDIR):
        os.open(f"{spot}/file/", os.O_RDONLY)
    with refused(errno.ENOENT):
        os.open(spot / "missing" / "file", os.O_CREAT | os.O_WRONLY)
    with refused(errno.EEXIST):
        os.open(spot / "dir", os.O_CREAT | os.O_EXCL | os.O_RDONLY)
    with opened(spot / "link", os.O_PATH | os.O_NOFOLLOW) as fd:
        assert stat.S_ISLNK(os.fstat(fd).st_mode)
        assert os.readlink("", dir_fd=fd) == "file"
        with refused(errno.EBADF):
            os.read(fd, 1)


def test_truncation_at_a_read_only_open(spot: Path) -> None:
    (spot / "file").write_text("content")
    with opened(spot / "file", os.O_RDONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
    assert (spot / "file").read_bytes() == b""


def test_a_file_created_without_rights_can_be_written(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0) as fd:
        os.write(fd, b"data")
        assert os.pread(fd, 10, 0) == b"data"
    assert stat.S_IMODE((spot / "file").stat().st_mode) == 0


def test_unnamed_files_are_made_or_refused_so_that_programs_go_on(spot: Path) -> None:
    with contextlib.suppress(OSError):
        os.close(os.open(spot, os.O_TMPFILE | os.O_RDWR))
        return
    with refused(errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):  # all three mean: use mkstemp
        os.open(spot, os.O_TMPFILE | os.O_RDWR)


def test_appending_ignores_positions(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_RDWR | os.O_APPEND) as fd:
        os.write(fd, b"one")
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, b"two")
        os.pwrite(fd, b"three", 1)
        assert os.pread(fd, 100, 0) == b"onetwothree"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 6
    with opened(spot / "file", os.O_WRONLY) as fd:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
        os.write(fd, b"four")
    assert (spot / "file").read_bytes() == b"onetwothreefour"


def test_appending_processes_lose_nothing(spot: Path) -> None:
    script = (
        "import os, sys\n"
        "fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)\n"
        "for n in range(200): os.write(fd, f'{sys.argv[2]}:{n:04}\\n'.encode())\n"
    )
    command = [sys.executable, "-c", script, spot / "log"]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    lines = (spot / "log").read_text().split()
    assert sorted(lines) == [f"{number}:{n:04}" for number in range(4) for n in range(200)]


def test_noatime_is_for_the_owner(spot: Path) -> None:
    (spot / "file").write_text("x")
    with opened(spot / "file", os.O_RDONLY | os.O_NOATIME) as fd:
        assert os.read(fd, 1) == b"x"


def test_descriptors_share_or_do_not_share_positions(spot: Path) -> None:
    (spot / "file").write_bytes(b"0123456789")
    with opened(spot / "file", os.O_RDONLY) as one, opened(spot / "file", os.O_RDONLY) as two:
        shared = os.dup(one)
        os.read(one, 4)
        assert os.read(shared, 2) == b"45"
        assert os.read(two, 2) == b"01"
        os.close(shared)


def test_proc_leads_to_a_file_without_a_name(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"content")
        (spot / "file").unlink()
        with open(f"/proc/self/fd/{fd}", "r+b") as again:
            assert again.read() == b"content"
            again.write(b"more")
        assert os.pread(fd, 100, 0) == b"contentmore"
        with refused(errno.ENOENT):
            link_descriptor(fd, spot / "back")
        os.setxattr(fd, "user.a", b"1")
        os.fchmod(fd, 0o600)
        os.fchown(fd, os.getuid(), os.getgid())
        assert os.getxattr(fd, "user.a") == b"1"
        assert os.fstat(fd).st_nlink == 0
    assert os.listdir(spot) == []


def test_files_without_a_name_can_be_mapped(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 3 * PAGE)
        (spot / "file").unlink()
        with mmap.mmap(fd, 3 * PAGE) as view:
            view[PAGE : PAGE + 3] = b"abc"
            view.flush()
            os.fsync(fd)
            assert os.pread(fd, 3, PAGE) == b"abc"
            os.ftruncate(fd, PAGE)
            os.ftruncate(fd, 3 * PAGE)
            assert view[PAGE : PAGE + 3] == bytes(3)


# --- sizes ----------------------------------------------------------------------------------------------------


def test_truncation(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(b"x" * 10_000)
    for size in (10_000, 5000, 1, 0, 7, 20_000, PAGE, PAGE + 1, 100_000):
        os.truncate(path, size)
        assert path.stat().st_size == size
    os.truncate(path, 7)
    assert path.read_bytes() == bytes(7)


def test_what_cannot_be_truncated(spot: Path) -> None:
    (spot / "file").write_bytes(b"x")
    (spot / "dir").mkdir()
    os.mkfifo(spot / "fifo")
    with refused(errno.EISDIR):
        os.truncate(spot / "dir", 0)
    with refused(errno.EINVAL):
        os.truncate(spot / "fifo", 0)
    with refused(errno.EINVAL):
        os.truncate(spot / "file", -1)
    with refused(errno.ENOENT):
        os.truncate(spot / "missing", 0)
    with opened(spot / "file", os.O_RDONLY) as fd, refused(errno.EINVAL, errno.EBADF):
        os.ftruncate(fd, 0)
    with refused(errno.EFBIG):
        os.truncate(spot / "file", 2**63 - 1)
    assert (spot / "file").read_bytes() == b"x"


def test_what_was_cut_off_does_not_come_back(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_RDWR) as fd:
        for size in (100, 5000, 50_000):
            os.pwrite(fd, b"y" * size, 0)
            os.ftruncate(fd, size // 2 + 1)
            os.ftruncate(fd, size)
            assert os.pread(fd, size, 0) == b"y" * (size // 2 + 1) + bytes(size - size // 2 - 1)
            os.ftruncate(fd, size // 3)
            os.pwrite(fd, b"z", size)
            assert os.pread(fd, size, size // 3) == bytes(size - size // 3) + b"z"


def test_the_limit_of_a_process(spot: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
            with opened(spot / "file", os.O_CREAT | os.O_WRONLY) as fd:
                results = [os.pwrite(fd, b"x" * 20_000, 0)]
                for action in (lambda: os.pwrite(fd, b"x", 10_000), lambda: os.ftruncate(fd, 10_001)):
                    try:
                        results.append(action() or 0)
                    except OSError as problem:
                        results.append(-(problem.errno or 0))
            os.write(writing, repr(results).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answers:
        assert answers.read() == repr([10_000, -errno.EFBIG, -errno.EFBIG])
    os.waitpid(child, 0)
    assert (spot / "file").stat().st_size == 10_000


def test_holes(spot: Path) -> None:
    path = spot / "sparse"
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"x", 0)
        os.pwrite(fd, b"y", 1 << 30)
        status = os.fstat(fd)
        assert status.st_size == (1 << 30) + 1
        assert status.st_blocks * 512 < 1 << 20
        assert os.pread(fd, 10, (1 << 30) - 5) == bytes(5) + b"y"
        assert os.pread(fd, 100, 1 << 29) == bytes(100)
        os.ftruncate(fd, 0)
        assert os.fstat(fd).st_blocks * 512 < 1 << 20


def test_blocks_of_what_is_there(spot: Path) -> None:
    (spot / "file").write_bytes(os.urandom(100_000))
    with opened(spot / "file", os.O_RDONLY) as fd:
        os.fsync(fd)
    assert 100_000 <= (spot / "file").stat().st_blocks * 512 <= 120_000
    (spot / "empty").touch()
    assert (spot / "empty").stat().st_blocks == 0
    os.truncate(spot / "empty", 1 << 20)
    assert (spot / "empty").stat().st_blocks * 512 < 1 << 16


def test_looking_for_data_and_holes(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"x" * 100, 0)
        os.ftruncate(fd, 1 << 20)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert 100 <= os.lseek(fd, 0, os.SEEK_HOLE) <= 1 << 20
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with refused(errno.ENXIO):
                os.lseek(fd, 1 << 20, whence)
        with refused(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
        assert os.lseek(fd, 1 << 40, os.SEEK_SET) == 1 << 40
        assert os.read(fd, 10) == b""


def test_positions_that_do_not_exist(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_RDWR) as fd:
        for action in (lambda: os.pread(fd, 1, -1), lambda: os.pwrite(fd, b"x", -1)):
            with refused(errno.EINVAL):
                action()
        with refused(errno.EFBIG, errno.EINVAL):
            os.pwrite(fd, b"xy", 2**63 - 2)
        assert os.write(fd, b"") == 0
        assert os.pwrite(fd, b"", 10_000) == 0
        assert os.fstat(fd).st_size == 0


def test_vectors(spot: Path) -> None:
    with opened(spot / "file", os.O_CREAT | os.O_RDWR) as fd:
        parts = [bytes([number]) * (number + 1) for number in range(200)]
        assert os.pwritev(fd, parts, 5) == sum(map(len, parts))
        buffers = [bytearray(len(part)) for part in parts]
        assert os.preadv(fd, buffers, 5) == sum(map(len, parts))
        assert buffers == parts
        os.pwritev(fd, [b"end"], 0, os.RWF_APPEND)
        assert os.pread(fd, 10, 5 + sum(map(len, parts))) == b"end"
        os.pwritev(fd, [b"synced"], 0, os.RWF_DSYNC)
        assert os.pread(fd, 6, 0) == b"synced"


def test_copies_inside_the_kernel(spot: Path) -> None:
    data = os.urandom(300_000)
    (spot / "source").write_bytes(data)
    with (
        opened(spot / "source", os.O_RDONLY) as source,
        opened(spot / "target", os.O_CREAT | os.O_RDWR) as target,
    ):
        assert os.sendfile(target, source, 0, 100_000) == 100_000
        copied = os.copy_file_range(source, target, 200_000, 100_000, 100_000)
        while copied < 200_000:
            copied += os.copy_file_range(source, target, 200_000 - copied, 100_000 + copied, 100_000 + copied)
        assert os.pread(target, 400_000, 0) == data
        assert os.copy_file_range(source, target, 10, 300_000, 0) == 0
        with refused(errno.EBADF):
            os.copy_file_range(target, source, 10, 0, 0)
        reading, writing = os.pipe()
        assert os.splice(source, writing, 1000, offset_src=5) == 1000
        assert os.splice(reading, target, 1000, offset_dst=400_000) == 1000
        assert os.pread(target, 1000, 400_000) == data[5:1005]
        os.close(reading)
        os.close(writing)


def test_overlapping_copies_in_one_file(spot: Path) -> None:
    data = os.urandom(50_000)
    (spot / "file").write_bytes(data)
    with opened(spot / "file", os.O_RDWR) as fd:
        with refused(errno.EINVAL):
            os.copy_file_range(fd, fd, 10_000, 0, 5000)
        assert os.copy_file_range(fd, fd, 10_000, 0, 60_000) == 10_000
    assert (spot / "file").read_bytes() == data + bytes(10_000) + data[:10_000]


def test_direct_reads_and_writes_see_cached_ones(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(b"a" * 3 * PAGE)
    with mmap.mmap(-1, PAGE) as buffer, opened(path, os.O_RDWR) as cached:
        assert os.pread(cached, 10, 0) == b"a" * 10
        with opened(path, os.O_RDWR | os.O_DIRECT) as direct:
            buffer[:] = b"b" * PAGE
            assert os.pwrite(direct, buffer, PAGE) == PAGE
            assert os.pread(cached, 2 * PAGE, 0) == b"a" * PAGE + b"b" * PAGE
            os.pwrite(cached, b"c" * PAGE, 2 * PAGE)
            assert os.preadv(direct, [buffer], 2 * PAGE) == PAGE
            assert buffer[:] == b"c" * PAGE
            assert os.preadv(direct, [buffer], 3 * PAGE) == 0
            buffer[:] = b"d" * PAGE
            assert os.pwrite(direct, buffer, 8 * PAGE) == PAGE
            assert os.fstat(cached).st_size == 9 * PAGE
            assert os.pread(cached, PAGE, 7 * PAGE) == bytes(PAGE)


def test_direct_writes_reach_maps(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(b"a" * 2 * PAGE)
    with (
        opened(path, os.O_RDWR | os.O_DIRECT) as direct,
        mmap.mmap(direct, 2 * PAGE) as view,
        mmap.mmap(-1, PAGE) as buffer,
    ):
        assert view[0] == ord("a")
        buffer[:] = b"b" * PAGE
        os.pwrite(direct, buffer, 0)
        assert view[0] == ord("b")
        view[PAGE] = ord("c")
        assert os.preadv(direct, [buffer], PAGE) == PAGE
        assert buffer[0] == ord("c")


# --- maps -----------------------------------------------------------------------------------------------------


def dies_of(action: Callable[[], object]) -> int:
    """The signal that ends a process that does `action`, 0 if none."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def test_maps_and_the_end_of_the_file(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(b"x" * (PAGE + 100))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 0) as small:
        assert len(small) == PAGE + 100
        os.ftruncate(fd, 3 * PAGE)
        with mmap.mmap(fd, 3 * PAGE) as view:
            assert view[PAGE + 100 :] == bytes(2 * PAGE - 100)
            os.ftruncate(fd, PAGE + 10)
            assert view[PAGE + 10 : 2 * PAGE] == bytes(PAGE - 10)
            assert dies_of(lambda: view[2 * PAGE]) == signal.SIGBUS


def test_maps_shared_between_processes(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(bytes(4 * PAGE))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 4 * PAGE) as view:
        child = os.fork()
        if child == 0:
            with opened(path, os.O_RDWR) as own, mmap.mmap(own, 4 * PAGE) as other:
                other[PAGE : PAGE + 5] = b"child"
            os._exit(0)
        os.waitpid(child, 0)
        assert view[PAGE : PAGE + 5] == b"child"
        assert os.pread(fd, 5, PAGE) == b"child"


def test_maps_survive_close_unlink_and_rename(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(b"a" * 2 * PAGE)
    with opened(path, os.O_RDWR) as fd:
        view = mmap.mmap(fd, 2 * PAGE)
    os.rename(path, spot / "renamed")
    view[0:3] = b"one"
    view.flush()
    assert (spot / "renamed").read_bytes()[:3] == b"one"
    (spot / "renamed").unlink()
    view[PAGE : PAGE + 3] = b"two"
    view.flush()
    assert view[PAGE : PAGE + 4] == b"twoa"
    view.close()


def test_writing_through_a_map_moves_mtime(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(b"a" * PAGE)
    os.utime(path, ns=(1, 1))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, PAGE) as view:
        view[0] = 1
        view.flush()
    assert path.stat().st_mtime_ns > 1


def test_maps_need_rights(spot: Path) -> None:
    (spot / "file").write_bytes(b"a" * PAGE)
    with opened(spot / "file", os.O_RDONLY) as fd:
        with refused(errno.EACCES):
            mmap.mmap(fd, PAGE, prot=mmap.PROT_WRITE)
        mmap.mmap(fd, PAGE, mmap.MAP_PRIVATE).close()
    with opened(spot / "file", os.O_WRONLY) as fd, refused(errno.EACCES):
        mmap.mmap(fd, PAGE, prot=mmap.PROT_READ)


def test_programs_run_from_maps(spot: Path) -> None:
    library = spot / "libm.so"
    library.write_bytes(Path(os.path.realpath("/lib/x86_64-linux-gnu/libm.so.6")).read_bytes())
    script = "import ctypes, sys; assert ctypes.CDLL(sys.argv[1]).lrint is not None"
    subprocess.run([sys.executable, "-c", script, library], check=True)


# --- sync -----------------------------------------------------------------------------------------------------


def test_sync_through_any_descriptor(spot: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    (spot / "file").write_text("x")
    for path in (spot / "file", spot):
        with opened(path, os.O_RDONLY) as fd:
            os.fsync(fd)
            os.fdatasync(fd)
            assert libc.syncfs(fd) == 0
    reading, writing = os.pipe()
    with refused(errno.EINVAL):
        os.fsync(reading)
    os.close(reading)
    os.close(writing)
    with opened(spot / "file", os.O_RDWR) as fd:
        assert libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), 7) == 0
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 1, 0) == b"x"


def test_times_of_truncation(spot: Path) -> None:
    path = spot / "file"
    path.write_bytes(b"x" * 100)
    for action, moved in (
        (lambda: os.truncate(path, 50), True),
        (lambda: os.truncate(path, 200), True),
        (lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)), True),
        (lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)), True),
    ):
        os.utime(path, ns=(1, 1))
        action()
        assert (path.stat().st_mtime_ns > 1) == moved
    os.utime(path, ns=(1, 1))
    with opened(path, os.O_RDWR) as fd:
        os.ftruncate(fd, 0)
    assert path.stat().st_mtime_ns > 1
