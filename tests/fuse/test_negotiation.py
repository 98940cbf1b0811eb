"""What is added to what libfuse and the kernel agree on, and what comes of it."""

from __future__ import annotations

import mmap
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.fuse.negotiation import (
    AUTO_INVAL_DATA,
    CACHE_SYMLINKS,
    DIRECT_IO_ALLOW_MMAP,
    HANDLE_KILLPRIV_V2,
    INIT_EXT,
    Negotiation,
    amended,
    maps_directly,
)
from tests.support.mounts import MountedTree
from tests.support.syscalls import pages_in_memory

FLAGS = st.integers(0, 2**32 - 1)
ADDED = HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS


def request(offered: int, more: int = 0) -> bytes:
    """FUSE_INIT of a kernel (fuse_in_header, fuse_init_in)."""
    header = struct.pack("=IIQQIIII", 104, 26, 1, 0, 0, 0, 0, 0)
    return header + struct.pack("=IIIII44x", 7, 45, 131072, offered, more)


def answer(wanted: int) -> bytes:
    """What libfuse says to it (fuse_out_header, fuse_init_out)."""
    return struct.pack("=IiQ", 80, 0, 1) + struct.pack(
        "=IIIIHHIIHHI28x", 7, 34, 131072, wanted, *([9] * 6), 0
    )


@given(FLAGS, FLAGS)
def test_flags(offered: int, wanted: int) -> None:
    (got,) = struct.unpack_from("=I", amended(request(offered), answer(wanted)), 28)
    assert not got & AUTO_INVAL_DATA
    assert got & ADDED == (wanted | offered) & ADDED
    rest = ~(ADDED | AUTO_INVAL_DATA | INIT_EXT)
    assert got & rest == wanted & rest


@given(FLAGS, FLAGS)
def test_all_else_stays(offered: int, wanted: int) -> None:
    before, after = answer(wanted), amended(request(offered), answer(wanted))
    assert (after[:28], after[32:48], after[52:]) == (before[:28], before[32:48], before[52:])


@given(FLAGS, FLAGS, FLAGS)
def test_second_word(offered: int, more: int, wanted: int) -> None:
    got = amended(request(offered, more), answer(wanted))
    first, second = struct.unpack_from("=I", got, 28)[0], struct.unpack_from("=I", got, 48)[0]
    asked = bool(offered & INIT_EXT and more & DIRECT_IO_ALLOW_MMAP)
    assert bool(first & INIT_EXT) == bool(wanted & INIT_EXT or offered & INIT_EXT)
    assert second == (DIRECT_IO_ALLOW_MMAP if asked else 0)
    assert maps_directly(got) == asked


@pytest.mark.parametrize("said", [struct.pack("=IiQ", 16, -71, 1), b""])
def test_a_refusal_is_passed_on(said: bytes) -> None:
    assert amended(request(2**32 - 1), said) == said
    assert amended(b"", answer(0)) == answer(0)


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The kernel's end, and the one whose descriptor libfuse reads from."""
    kernel, libfuse = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, libfuse:
        yield kernel, libfuse


async def test_the_descriptor_is_the_kernels_again_afterwards(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    kernel, libfuse = connection
    before = len(os.listdir("/proc/self/fd"))
    negotiation = Negotiation()
    kernel.send(request(ADDED))
    with trio.fail_after(5):
        await negotiation.begin(libfuse.fileno())
    assert negotiation.begun
    assert os.read(libfuse.fileno(), 4096) == request(ADDED)
    os.write(libfuse.fileno(), answer(AUTO_INVAL_DATA))
    negotiation.end(libfuse.fileno())
    assert kernel.recv(4096) == answer(ADDED)
    kernel.send(b"next")
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(libfuse.fileno())
    assert os.read(libfuse.fileno(), 4096) == b"next"
    assert not os.get_inheritable(libfuse.fileno())
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_connection_that_ends_before(connection: tuple[socket.socket, socket.socket]) -> None:
    kernel, libfuse = connection
    before = len(os.listdir("/proc/self/fd"))
    negotiation = Negotiation()
    kernel.send(request(0))
    with trio.fail_after(5):
        await negotiation.begin(libfuse.fileno())
    with pytest.raises(BlockingIOError):
        negotiation.end(libfuse.fileno())
    negotiation.close()
    negotiation.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_was_written_can_be_read_without_us(place: Path) -> None:
    path = place / "file"
    with path.open("w+b", buffering=0) as file:
        for _ in range(16):
            file.write(os.urandom(65536))
            assert os.stat(path).st_size == file.tell()  # the kernel hears of new times
    assert pages_in_memory(path) == (16 << 16) // mmap.PAGESIZE


def test_targets_of_links_are_kept_until_they_change(place: Path) -> None:
    for target in "one", "two", "three":
        (place / "new").symlink_to(target)
        os.replace(place / "new", place / "link")
        assert [os.readlink(place / "link") for _ in range(3)] == [target] * 3


def reads_of(pid: int) -> int:
    """How often a process has called read(2) so far: for every request, and little else."""
    words = Path(f"/proc/{pid}/io").read_text().split()
    return int(words[words.index("syscr:") + 1])


def test_writes_ask_for_nothing_else(tree: MountedTree, place: Path) -> None:
    writes = 500
    pid = tree.pid
    with (place / "file").open("w+b", buffering=0) as file:
        file.write(bytes(4096))
        before = reads_of(pid)
        for _ in range(writes):
            file.write(bytes(4096))
        # If each write asked for security.capability first, it would be twice as many.
        assert reads_of(pid) < before + 1.5 * writes
