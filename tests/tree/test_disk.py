"""A little is synced in the loop by who has found the disk to be quick, and only then."""

from __future__ import annotations

import errno
import threading

import pytest
import trio
from trio.testing import MockClock

from lafsfs.tree.disk import Disk

LITTLE, MUCH = 1000, 1 << 20
QUICK, SLOW = 0.0001, 0.05


class Call:
    """Something that takes a while; where it was made."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.takes = QUICK
        self.fails = False
        self._loop = threading.get_ident()
        self.in_loop = False

    def __call__(self) -> None:
        self.in_loop = threading.get_ident() == self._loop
        self.clock.jump(self.takes)
        if self.fails:
            raise OSError(errno.EIO, "broken")


async def prove(disk: Disk, call: Call) -> None:
    """Let the disk be quick until it is trusted."""
    for _ in range(8):
        await disk.wait(call, LITTLE)
        assert not call.in_loop
    await disk.wait(call, LITTLE)
    assert call.in_loop


async def test_little_in_the_loop_much_in_a_thread(mock_clock: MockClock) -> None:
    disk, call = Disk(), Call(mock_clock)
    await prove(disk, call)
    await disk.wait(call, MUCH)
    assert not call.in_loop
    await disk.wait(call, LITTLE)
    assert call.in_loop


async def test_a_slow_disk_has_to_prove_itself(mock_clock: MockClock) -> None:
    disk, call = Disk(), Call(mock_clock)
    call.takes = SLOW
    for _ in range(20):
        await disk.wait(call, LITTLE)
        assert not call.in_loop
    call.takes = QUICK
    await prove(disk, call)
    call.takes = SLOW
    await disk.wait(call, LITTLE)
    assert call.in_loop
    call.takes = QUICK
    await prove(disk, call)


async def test_a_failure_is_passed_on_and_remembered(mock_clock: MockClock) -> None:
    disk, call = Disk(), Call(mock_clock)
    await prove(disk, call)
    call.fails = True
    with pytest.raises(OSError, match="broken"):
        await disk.wait(call, LITTLE)
    call.fails = False
    await prove(disk, call)


async def test_others_go_on_while_a_thread_waits(mock_clock: MockClock) -> None:
    disk = Disk()
    released = threading.Event()

    def wait() -> None:
        assert released.wait(10)

    async def release() -> None:
        released.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(disk.wait, wait, LITTLE)
        nursery.start_soon(release)
