"""Files that are opened only to write pass the kernel's memory by; who looks at them meanwhile sees it all the same."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyfuse3 import FileInfo

from lafsfs.fuse.uncached import Uncached
from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.inodes import Inode
from tests.support.syscalls import pages_in_memory
from tests.support.users import NOBODY, as_user

SIZE = 50_000


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CREAT, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


# --- which handles they are ------------------------------------------------------------------------------------


class Opens:
    """Handles of one file."""

    def __init__(self, *, allowed: bool = True) -> None:
        self.inode = Inode(7, new_attributes(stat.S_IFREG | 0o644, 0, 0), None)
        self.uncached = Uncached()
        self.uncached.allowed = allowed
        self._next = 0

    def open(self, flags: int) -> FileInfo:
        self._next += 1
        self.inode.opens += 1
        return self.uncached.opened(self._next, self.inode, flags, 1)

    def close(self, info: FileInfo) -> None:
        self.inode.opens -= 1
        self.uncached.released(info.fh)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_SYNC, os.O_WRONLY | os.O_DSYNC])
def test_others_are_kept(flags: int) -> None:
    info = Opens().open(flags)
    assert not info.direct_io
    assert info.keep_cache


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC])
def test_who_only_writes(flags: int) -> None:
    assert Opens().open(flags).direct_io
    assert not Opens(allowed=False).open(flags).direct_io


def test_who_comes_while_it_is_written() -> None:
    opens = Opens()
    first = opens.open(os.O_WRONLY)
    others = [opens.open(flags) for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY)]
    assert all(info.direct_io for info in others)
    opens.close(first)
    assert opens.open(os.O_RDONLY).direct_io  # two others write still
    for info in others[1:]:
        opens.close(info)
    assert not opens.open(os.O_RDONLY).direct_io


def test_who_was_there_before() -> None:
    opens = Opens()
    reader = opens.open(os.O_RDONLY)
    writer = opens.open(os.O_WRONLY)
    assert not writer.direct_io
    opens.close(reader)
    assert not opens.open(os.O_WRONLY).direct_io  # the first writer keeps it still
    opens.close(writer)


def test_what_was_read_meanwhile_is_forgotten_once() -> None:
    opens = Opens()
    writer = opens.open(os.O_WRONLY)
    reader = opens.open(os.O_RDONLY)
    assert not reader.keep_cache
    opens.close(reader)
    opens.close(writer)
    assert not opens.open(os.O_RDONLY).keep_cache
    assert opens.open(os.O_RDONLY).keep_cache
    assert not opens.uncached.handles


# --- what programs see -----------------------------------------------------------------------------------------


def test_the_kernel_keeps_nothing_of_it(place: Path) -> None:
    (place / "file").write_bytes(bytes(SIZE))
    assert pages_in_memory(place / "file") == 0
    assert (place / "file").read_bytes() == bytes(SIZE)
    assert pages_in_memory(place / "file") > 0


@pytest.mark.parametrize("flags", [os.O_DSYNC, os.O_SYNC])
def test_synchronous_writes_are_the_kernels(place: Path, flags: int) -> None:
    with opened(place / "file", os.O_WRONLY | flags) as fd:
        os.write(fd, bytes(SIZE))
    assert pages_in_memory(place / "file") > 0


@pytest.mark.parametrize("first", ["reader", "writer"])
def test_each_write_is_seen_at_once(place: Path, first: str) -> None:
    path = place / "log"
    path.touch()
    with contextlib.ExitStack() as stack:
        flags = [os.O_RDONLY, os.O_WRONLY | os.O_APPEND]
        fds = [
            stack.enter_context(opened(path, how)) for how in (flags if first == "reader" else flags[::-1])
        ]
        reader, writer = fds if first == "reader" else fds[::-1]
        content = b""
        for number in range(300):
            record = b"%d," % number
            os.write(writer, record)
            content += record
            assert os.pread(reader, SIZE, 0) == content
            assert path.read_bytes() == content
            assert path.stat().st_size == len(content)


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_a_file_that_is_written_can_be_mapped(place: Path, flags: int) -> None:
    path = place / "file"
    with opened(path, os.O_WRONLY) as writer:
        os.write(writer, b"a" * SIZE)
        with opened(path, os.O_RDONLY) as reader, mmap.mmap(reader, SIZE, flags, mmap.PROT_READ) as mapped:
            assert mapped[:] == b"a" * SIZE
        os.pwrite(writer, b"b" * SIZE, 0)
        with opened(path, os.O_RDONLY) as reader, mmap.mmap(reader, SIZE, flags, mmap.PROT_READ) as mapped:
            assert mapped[:] == b"b" * SIZE


def test_a_map_from_before_sees_what_is_written(place: Path) -> None:
    path = place / "file"
    path.write_bytes(b"a" * SIZE)
    with opened(path, os.O_RDWR) as fd:
        mapped = mmap.mmap(fd, SIZE)
    with mapped, opened(path, os.O_WRONLY) as writer:
        assert mapped[:] == b"a" * SIZE
        os.pwrite(writer, b"b" * 5000, 3000)
        assert mapped[:] == b"a" * 3000 + b"b" * 5000 + b"a" * (SIZE - 8000)
        mapped[0:2] = b"cc"
        mapped.flush()
        assert path.read_bytes()[:3001] == b"cc" + b"a" * 2998 + b"b"


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _send(path: Path) -> bytes:
    """As `cat` into a pipe does: through the kernel's memory."""
    source, (out, into) = os.open(path, os.O_RDONLY), os.pipe()
    try:
        got, size = b"", os.fstat(source).st_size
        while len(got) < size:
            got += os.read(out, os.sendfile(into, source, len(got), min(4096, size - len(got))))
        return got
    finally:
        for fd in source, out, into:
            os.close(fd)


def _map(path: Path) -> bytes:
    size = path.stat().st_size
    with opened(path, os.O_RDONLY) as fd, mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        return mapped[:]


READS: list[Callable[[Path], bytes]] = [_read, _send, _map]
MODES = [os.O_RDONLY, os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_RDWR, os.O_WRONLY | os.O_DSYNC]


@pytest.mark.parametrize("seed", range(12))
def test_any_handles_in_any_order(place: Path, seed: int) -> None:
    """Several handles of one file are opened, used and closed; each read gives what was written last."""
    dice = random.Random(seed)
    path = place / "file"
    content = bytearray(dice.randbytes(9000))
    path.write_bytes(content)
    with contextlib.ExitStack() as stack:
        handles: list[tuple[int, int, contextlib.ExitStack]] = []
        for _ in range(400):
            what = dice.choice(["open", "close", "write", "write", "read", "read", "look", "look", "cut"])
            fd, mode, own = dice.choice(handles) if handles else (-1, os.O_RDONLY, stack)
            if what == "open" and len(handles) < 5:
                own = stack.enter_context(contextlib.ExitStack())
                mode = dice.choice(MODES)
                handles.append((own.enter_context(opened(path, mode)), mode, own))
            elif what == "close" and handles:
                handles.remove((fd, mode, own))
                own.close()
            elif what == "write" and mode != os.O_RDONLY:
                offset, data = (
                    dice.randrange(len(content) + 1),
                    dice.randbytes(dice.choice([1, 100, 4096, 9000])),
                )
                if mode & os.O_APPEND:
                    os.write(fd, data)
                    content += data
                else:
                    os.pwrite(fd, data, offset)
                    content[offset : offset + len(data)] = data
            elif what == "read" and handles and mode & os.O_ACCMODE != os.O_WRONLY:
                offset = dice.randrange(len(content))
                assert os.pread(fd, 5000, offset) == content[offset : offset + 5000]
            elif what == "look":
                assert dice.choice(READS)(path) == content
            elif what == "cut":
                size = dice.randrange(1, len(content) + 2000)
                os.truncate(path, size)
                content[size:] = bytes(max(0, size - len(content)))


def test_readers_of_a_log_see_no_holes(place: Path) -> None:
    """Whoever reads while somebody appends sees the beginning of what is written, whatever he reads it by."""
    path, count = place / "log", 1500
    whole = b"".join(b"%06d\n" % number for number in range(count))
    path.write_bytes(whole[:7])
    over = threading.Event()
    wrong: list[str] = []

    def follow(read: Callable[[Path], bytes]) -> None:
        seen = 0
        while not over.is_set():
            got = read(path)
            if got != whole[: len(got)] or len(got) < seen:
                wrong.append(f"{read.__name__}: {len(got)} bytes after {seen}")
                return
            seen = len(got)

    readers = [threading.Thread(target=follow, args=(read,)) for read in READS]
    for reader in readers:
        reader.start()
    try:
        with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
            for number in range(1, count):
                os.write(fd, b"%06d\n" % number)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert [read(path) == whole for read in READS] == [True] * 3


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")
def test_each_write_takes_set_id_bits(place: Path) -> None:
    os.chmod(place, 0o777)
    path = place / "program"

    def write() -> None:
        with opened(path, os.O_WRONLY) as fd:
            for _ in range(2):
                os.fchmod(fd, 0o6755)
                os.write(fd, b"x")
                assert stat.S_IMODE(path.stat().st_mode) == 0o755

    as_user(NOBODY, write)


@pytest.mark.skipif(os.geteuid() != 0, reason="sets file capabilities")
def test_each_write_takes_capabilities(place: Path) -> None:
    path = place / "program"
    with opened(path, os.O_WRONLY) as fd:
        for _ in range(2):
            os.setxattr(
                path, "security.capability", bytes.fromhex("01000002000400000000000000000000" + "0" * 8)
            )
            os.write(fd, b"x")
            assert "security.capability" not in os.listxattr(path)
        os.fchmod(fd, 0o6755)
        os.write(fd, b"x")
        assert stat.S_IMODE(path.stat().st_mode) == 0o6755  # the caller has CAP_FSETID
