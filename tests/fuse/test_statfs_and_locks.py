"""statfs, advisory locks, and calls that are refused so that programs do it another way."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.mounts import MountedTree
from tests.support.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate


def test_statfs(place: Path) -> None:
    found = os.statvfs(place)
    assert found.f_namemax == 255
    assert found.f_bsize == found.f_frsize == 4096
    assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
    assert 0 < found.f_favail <= found.f_ffree <= found.f_files


def test_df_shows_the_mount(tree: MountedTree) -> None:
    for option in ("-k", "-i"):
        lines = subprocess.run(["df", option, tree.path], capture_output=True, text=True, check=True).stdout
        fields = lines.splitlines()[1].split()
        assert int(fields[1]) > 0
        assert int(fields[3]) > 0
        assert fields[5] == str(tree.path)


def elsewhere(action: Callable[[Path], None], path: Path) -> str:
    """What `action` raises in another process, by name of its errno; "" if nothing."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_outcome, (action, path))


def _outcome(action: Callable[[Path], None], path: Path) -> str:
    try:
        action(path)
    except OSError as problem:
        return errno.errorcode[problem.errno or 0]
    return ""


def _flock(path: Path) -> None:
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lockf(path: Path) -> None:
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)


def _lockf_beside(path: Path) -> None:
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)


def test_flock(place: Path) -> None:
    path = place / "file"
    path.touch()
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert elsewhere(_flock, path) == "EAGAIN"
        fcntl.flock(file, fcntl.LOCK_UN)
        assert elsewhere(_flock, path) == ""


def test_fcntl_locks(place: Path) -> None:
    path = place / "file"
    path.touch()
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
        assert elsewhere(_lockf, path) in ("EAGAIN", "EACCES")
        assert elsewhere(_lockf_beside, path) == ""
    assert elsewhere(_lockf, path) == ""


def test_locks_of_open_file_descriptions(place: Path) -> None:
    path = place / "file"
    path.touch()
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    f_ofd_setlk = 37
    with open(path, "r+b") as one, open(path, "r+b") as two:
        fcntl.fcntl(one, f_ofd_setlk, lock)
        with refused(errno.EAGAIN, errno.EACCES):
            fcntl.fcntl(two, f_ofd_setlk, lock)


# --- what FUSE or pyfuse3 cannot do -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE])
def test_fallocate_is_not_supported(place: Path, mode: int) -> None:
    with open(place / "file", "wb") as file, refused(errno.EOPNOTSUPP):
        fallocate(file.fileno(), mode, 0, 10_000)


def test_posix_fallocate_finds_another_way(place: Path) -> None:
    with open(place / "file", "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
        assert os.fstat(file.fileno()).st_size == 100_000


def test_seek_data_and_hole_take_the_file_for_one_piece(place: Path) -> None:
    with open(place / "file", "w+b") as file:
        os.pwrite(file.fileno(), b"x", 1 << 20)
        size = (1 << 20) + 1
        assert os.lseek(file.fileno(), 10, os.SEEK_DATA) == 10
        assert os.lseek(file.fileno(), 10, os.SEEK_HOLE) == size
        with refused(errno.ENXIO):
            os.lseek(file.fileno(), size, os.SEEK_DATA)


def test_copy_file_range_copies(place: Path) -> None:
    data = os.urandom(300_000)
    (place / "source").write_bytes(data)
    with open(place / "source", "rb") as source, open(place / "copy", "w+b") as copy:
        done = 0
        while done < len(data):
            count = os.copy_file_range(source.fileno(), copy.fileno(), len(data) - done)
            assert count > 0
            done += count
    assert (place / "copy").read_bytes() == data


def test_sendfile_and_splice(place: Path) -> None:
    data = os.urandom(100_000)
    (place / "source").write_bytes(data)
    shutil.copyfile(place / "source", place / "copy")
    assert (place / "copy").read_bytes() == data
    reading, writing = os.pipe()
    with open(place / "spliced", "wb") as target:
        os.write(writing, b"through a pipe")
        assert os.splice(reading, target.fileno(), 14) == 14
    os.close(reading)
    os.close(writing)
    assert (place / "spliced").read_bytes() == b"through a pipe"


def test_files_without_a_name_are_not_supported(place: Path) -> None:
    with refused(errno.EOPNOTSUPP, errno.EISDIR):
        os.open(place, os.O_TMPFILE | os.O_RDWR)


def test_reflinks_and_attributes_of_ext4_are_not_supported(place: Path) -> None:
    (place / "a").write_text("a")
    with open(place / "a", "rb") as a, open(place / "b", "wb") as b:
        with refused(errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
            fcntl.ioctl(b, 0x40049409, a.fileno())  # FICLONE
        with refused(errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS):
            fcntl.ioctl(a, 0x80086601, bytes(8))  # FS_IOC_GETFLAGS


def test_programs_copy_all_the_same(place: Path) -> None:
    (place / "a").write_bytes(os.urandom(50_000))
    subprocess.run(["cp", "--reflink=auto", "--sparse=auto", place / "a", place / "b"], check=True)
    assert (place / "a").read_bytes() == (place / "b").read_bytes()
