"""Large writes stay in the loop as long as nobody is kept waiting by them."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from lafsfs.tree.large_writes import LargeWrites

MIB = 1 << 20


def test_small_writes_always_are_for_the_loop() -> None:
    async def run() -> None:
        writes = LargeWrites()
        assert all(writes.at_once(128 << 10, requests) for requests in (1, 5, 6, 20))

    trio.run(run)


def test_large_ones_when_nobody_else_asks(mock_clock: MockClock) -> None:
    async def run() -> None:
        writes = LargeWrites()
        requests = 7
        assert not writes.at_once(MIB, requests)
        mock_clock.jump(0.1)
        for _ in range(5):  # with what the kernel asks before each
            requests += 2
            writes.announced()
            assert writes.at_once(MIB, requests)
        assert not writes.at_once(MIB, requests + 2), "somebody else asked"
        mock_clock.jump(0.01)
        assert not writes.at_once(MIB, requests + 3)
        mock_clock.jump(0.1)
        assert writes.at_once(MIB, requests + 4)

    trio.run(run, clock=mock_clock)


def test_not_on_a_disk_that_makes_writers_wait(mock_clock: MockClock) -> None:
    async def run() -> None:
        writes = LargeWrites()
        writes.at_once(MIB, 1)
        mock_clock.jump(0.1)
        began = trio.current_time()
        assert writes.at_once(MIB, 2)
        writes.began_at(began)
        assert writes.at_once(MIB, 3), "it took no time"
        mock_clock.jump(0.05)
        writes.began_at(began)
        assert not writes.at_once(MIB, 4)
        mock_clock.jump(2.0)
        assert writes.at_once(MIB, 5)

    trio.run(run, clock=mock_clock)
