"""Large transfers stay in the loop as long as few are kept waiting by them."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from lafsfs.tree.large_transfers import LargeTransfers

MIB = 1 << 20
SMALL = 128 << 10


def test_small_ones_always_are_for_the_loop() -> None:
    async def run() -> None:
        large = LargeTransfers()
        assert all(large.write_at_once(SMALL, requests) for requests in (1, 500, 501, 2000))
        assert all(large.read_at_once(SMALL, requests) for requests in (2001, 2500, 2501, 4000))

    trio.run(run)


def test_large_ones_when_few_others_ask(mock_clock: MockClock) -> None:
    async def run() -> None:
        large = LargeTransfers()
        requests = 7
        assert large.write_at_once(MIB, requests)
        for _ in range(50):  # with what the kernel asks before each
            requests += 2
            large.announced()
            assert large.write_at_once(MIB, requests)
            requests += 1
            assert large.read_at_once(MIB, requests)
        for _ in range(50):  # somebody looks around
            mock_clock.jump(0.1)
            requests += 10
            assert large.write_at_once(MIB, requests)

    trio.run(run, clock=mock_clock)


def test_not_when_many_others_ask(mock_clock: MockClock) -> None:
    async def run() -> None:
        large = LargeTransfers()
        assert large.write_at_once(MIB, 1)
        requests = 1
        for number in range(100):
            mock_clock.jump(0.01)
            requests += 21  # twenty others
            at_once = large.write_at_once(MIB, requests) if number % 2 else large.read_at_once(MIB, requests)
            assert at_once == (number == 0)
        mock_clock.jump(0.2)
        assert large.read_at_once(MIB, requests + 1)

    trio.run(run, clock=mock_clock)


def test_small_reads_are_others(mock_clock: MockClock) -> None:
    async def run() -> None:
        large = LargeTransfers()
        assert large.write_at_once(MIB, 1)
        assert all(large.read_at_once(4096, 1 + number) for number in range(1, 31))
        assert not large.write_at_once(MIB, 32)

    trio.run(run, clock=mock_clock)


def test_not_on_a_disk_that_makes_writers_wait(mock_clock: MockClock) -> None:
    async def run() -> None:
        large = LargeTransfers()
        began = trio.current_time()
        assert large.write_at_once(MIB, 1)
        large.began_at(began)
        assert large.write_at_once(MIB, 2), "it took no time"
        mock_clock.jump(0.05)
        large.began_at(began)
        assert not large.write_at_once(MIB, 3)
        assert large.read_at_once(MIB, 4), "what is in memory needs no disk"
        mock_clock.jump(2.0)
        assert large.write_at_once(MIB, 5)

    trio.run(run, clock=mock_clock)
