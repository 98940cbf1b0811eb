"""What descriptors promise: files without a name, O_ flags, memory maps, sync."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.mounts import MountedTree


@contextmanager
def opened(path: Path, flags: int, mode: int = 0o644) -> Iterator[int]:
    """A descriptor while the context lasts."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


SIZES = [0, 100, 20_000, 3 << 20]  # nothing, in the journal, in a log of its own, many requests


@pytest.mark.parametrize("size", SIZES)
def test_an_unlinked_file_lives_until_the_last_close(place: Path, size: int) -> None:
    path, data = place / "file", os.urandom(size)
    path.write_bytes(data)
    with opened(path, os.O_RDWR) as fd, opened(path, os.O_RDONLY) as other:
        path.unlink()
        assert os.fstat(fd).st_nlink == 0
        assert os.pread(fd, size + 1, 0) == data
        os.pwrite(fd, b"more", size)
        os.fsync(fd)
        os.fdatasync(fd)
        assert os.pread(other, size + 10, 0) == data + b"more"
        os.ftruncate(fd, size // 2)
        assert os.fstat(other).st_size == size // 2
        assert os.pread(other, size + 10, 0) == data[: size // 2]
        os.fchmod(fd, 0o600)
        os.utime(fd, ns=(5, 7))
        assert (os.fstat(fd).st_mode & 0o777, os.fstat(fd).st_mtime_ns) == (0o600, 7)
    assert os.listdir(place) == []


@pytest.mark.parametrize("size", SIZES)
def test_a_file_renamed_over_lives_until_the_last_close(place: Path, size: int) -> None:
    path, data = place / "file", os.urandom(size)
    path.write_bytes(data)
    with opened(path, os.O_RDWR) as fd:
        (place / "new").write_bytes(b"new")
        os.rename(place / "new", path)
        assert os.fstat(fd).st_nlink == 0
        os.pwrite(fd, b"x" * 50_000, size)
        os.fsync(fd)
        os.ftruncate(fd, size + 10)
        assert os.pread(fd, size + 100, 0) == data + b"x" * 10
        assert path.read_bytes() == b"new"
    assert path.read_bytes() == b"new"


def test_an_unlinked_file_made_new_under_its_name(place: Path) -> None:
    path = place / "file"
    with opened(path, os.O_RDWR | os.O_CREAT) as old:
        os.write(old, b"old")
        path.unlink()
        path.write_bytes(b"new")
        os.pwrite(old, b"OLD", 0)
        assert (os.pread(old, 10, 0), path.read_bytes()) == (b"OLD", b"new")


def test_a_map_of_an_unlinked_file(place: Path) -> None:
    path = place / "file"
    path.write_bytes(bytes(10_000))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 10_000) as view:
        path.unlink()
        view[5000:5004] = b"here"
        view.flush()
        assert os.pread(fd, 4, 5000) == b"here"


def test_a_removed_directory_that_is_open(place: Path) -> None:
    directory = place / "dir"
    directory.mkdir()
    with opened(directory, os.O_RDONLY | os.O_DIRECTORY) as fd:
        directory.rmdir()
        assert os.listdir(fd) == []
        with pytest.raises(FileNotFoundError):
            os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        with pytest.raises(FileNotFoundError):
            os.mkdir("dir", dir_fd=fd)
        os.fsync(fd)


# --- flags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_truncation_at_open(place: Path, size: int) -> None:
    path = place / "file"
    path.write_bytes(os.urandom(size))
    before = path.stat()
    with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
    after = path.stat()
    assert after.st_ino == before.st_ino
    assert path.read_bytes() == b""
    if size:
        assert after.st_mtime_ns > before.st_mtime_ns


def test_exclusive_creation(place: Path) -> None:
    path = place / "file"
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY):
        pass
    os.symlink("nowhere", place / "link")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            os.open(place / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_one_of_many_creates_exclusively(place: Path) -> None:
    winners = []
    barrier = threading.Barrier(8)

    def race(number: int) -> None:
        barrier.wait()
        try:
            os.close(os.open(place / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        winners.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1


def test_creation_through_a_dangling_link(place: Path) -> None:
    os.symlink("target", place / "link")
    with opened(place / "link", os.O_CREAT | os.O_WRONLY) as fd:
        os.write(fd, b"x")
    assert (place / "target").read_bytes() == b"x"


def test_appending_descriptors_do_not_overwrite_each_other(place: Path) -> None:
    path = place / "log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    with opened(path, flags) as one, opened(path, flags) as two:
        for number in range(200):
            os.write(one if number % 2 else two, b"%04d\n" % number)
    assert path.read_bytes() == b"".join(b"%04d\n" % number for number in range(200))


def test_access_modes(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"data")
    with opened(path, os.O_RDONLY) as fd, refused(errno.EBADF):
        os.write(fd, b"x")
    with opened(path, os.O_WRONLY) as fd, refused(errno.EBADF):
        os.read(fd, 1)


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT])
def test_directories_are_not_opened_for_writing(place: Path, flags: int) -> None:
    with pytest.raises(IsADirectoryError):
        os.open(place, flags)


def test_direct_io(place: Path) -> None:
    path = place / "file"
    with mmap.mmap(-1, 8192) as buffer:
        buffer[:] = os.urandom(8192)
        with opened(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT) as fd:
            assert os.pwrite(fd, buffer, 4096) == 8192
            assert os.preadv(fd, [buffer], 4096) == 8192
        expected = bytes(4096) + buffer[:]
        path_read = path.read_bytes()
        assert path_read == expected
        with opened(path, os.O_RDONLY | os.O_DIRECT) as direct, opened(path, os.O_WRONLY) as cached:
            os.pwrite(cached, b"new", 0)
            assert os.preadv(direct, [buffer], 0) == 8192
            assert buffer[:3] == b"new"


# --- content ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["fresh", "published"])
@pytest.mark.parametrize("size", SIZES)
def test_writes_anywhere(tree: MountedTree, place: Path, base: str, size: int) -> None:
    path = place / "file"
    model = bytearray(os.urandom(size))
    path.write_bytes(model)
    if base == "published":
        tree.flush()
    with opened(path, os.O_RDWR) as fd:
        for offset, length in ((size // 2, 10), (0, 5), (size + 5000, 70_000), (size // 3, 4097)):
            data = os.urandom(length)
            os.pwrite(fd, data, offset)
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + length] = data
            assert os.pread(fd, len(model) + 1, 0) == model
        os.ftruncate(fd, size // 2 + 3)
        del model[size // 2 + 3 :]
        os.ftruncate(fd, size + 9)
        model.extend(bytes(size + 9 - len(model)))
        assert os.pread(fd, len(model) + 1, 0) == model
    assert path.read_bytes() == model


def test_shared_writable_maps(place: Path) -> None:
    path = place / "file"
    path.write_bytes(bytes(100_000))
    with opened(path, os.O_RDWR) as fd, mmap.mmap(fd, 100_000) as view:
        view[0:5] = b"start"
        view[99_995:] = b"final"
        view.flush()
        assert os.pread(fd, 5, 99_995) == b"final"
        os.pwrite(fd, b"middle", 50_000)
        assert view[50_000:50_006] == b"middle"
        with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as reader:
            view[10:13] = b"abc"
            assert reader[10:13] == b"abc"
    data = path.read_bytes()
    assert (data[:5], data[10:13], data[50_000:50_006], data[-5:]) == (b"start", b"abc", b"middle", b"final")


def test_a_map_changed_after_close(place: Path) -> None:
    path = place / "file"
    path.write_bytes(bytes(8192))
    with opened(path, os.O_RDWR) as fd:
        view = mmap.mmap(fd, 8192)
    before = path.stat().st_mtime_ns
    view[4096:4100] = b"late"
    view.flush()
    view.close()
    assert path.read_bytes()[4096:4100] == b"late"
    assert path.stat().st_mtime_ns > before


def test_private_maps_change_nothing(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"original" * 1000)
    with opened(path, os.O_RDONLY) as fd, mmap.mmap(fd, 0, access=mmap.ACCESS_COPY) as view:
        view[:8] = b"changed!"
    assert path.read_bytes() == b"original" * 1000


def test_sparse_files(place: Path) -> None:
    path = place / "sparse"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", 20 << 20)
        os.pwrite(fd, b"middle", 10 << 20)
        assert os.fstat(fd).st_size == (20 << 20) + 3
        assert os.fstat(fd).st_blocks < 1000
        assert os.pread(fd, 100, (10 << 20) - 50) == bytes(50) + b"middle" + bytes(44)
        assert os.pread(fd, 100, 5 << 20) == bytes(100)
    assert path.stat().st_size == (20 << 20) + 3


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 62])
def test_what_no_grid_can_hold_is_refused(place: Path, size: int) -> None:
    path = place / "file"
    path.write_bytes(b"data")
    with opened(path, os.O_RDWR) as fd:
        with refused(errno.EFBIG):
            os.ftruncate(fd, size)
        with refused(errno.EFBIG):
            os.pwrite(fd, b"x", size - 1)
    assert path.read_bytes() == b"data"


def test_vectors_and_positions(place: Path) -> None:
    with opened(place / "file", os.O_RDWR | os.O_CREAT) as fd:
        assert os.writev(fd, [b"one", b"two", b"three"]) == 11
        assert os.lseek(fd, -5, os.SEEK_END) == 6
        assert os.read(fd, 100) == b"three"
        assert os.read(fd, 100) == b""
        buffers = [bytearray(3), bytearray(3)]
        assert os.preadv(fd, buffers, 0) == 6
        assert buffers == [b"one", b"two"]
        with refused(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)


def test_sync_of_everything(place: Path) -> None:
    with opened(place / "file", os.O_RDWR | os.O_CREAT | os.O_SYNC) as fd:
        os.write(fd, b"synced")
        os.fsync(fd)
    with opened(place, os.O_RDONLY) as fd:
        os.fsync(fd)
    os.sync()
