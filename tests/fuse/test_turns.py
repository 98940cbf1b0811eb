"""Who reads the next request: the task that is there anyway; another one as soon as that one waits, or is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lafsfs.fuse.turns import Turns, taking_turns

SLOW = 3


class Readers:
    """Tasks that do as pyfuse3's: take turns at reading, then answer. Every `SLOW`th request waits for `slow`."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.requests, self._receive = trio.open_memory_channel[int](100)
        self.slow = trio.Event()
        self.answered: list[tuple[int, int]] = []  # request, reader
        self.reading = 0
        self.most_reading = 0

    async def run(self, number: int) -> None:
        while True:
            async with self.turns:
                self.reading += 1
                self.most_reading = max(self.reading, self.most_reading)
                try:
                    request = await self._receive.receive()
                finally:
                    self.reading -= 1
            if request % SLOW == 0:
                await self.slow.wait()
            self.answered.append((request, number))

    async def ask(self, *requests: int) -> None:
        for request in requests:
            self.requests.send_nowait(request)
            await wait_all_tasks_blocked()


@asynccontextmanager
async def readers(count: int) -> AsyncIterator[tuple[Readers, list[trio.CancelScope]]]:
    """So many of them, and what ends each."""
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    some = Readers(turns)
    scopes = [trio.CancelScope() for _ in range(count)]

    async def run(number: int) -> None:
        with scopes[number]:
            await some.run(number)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(run, number)
        await wait_all_tasks_blocked()
        yield some, scopes
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(turns)
    assert some.most_reading == 1


async def test_who_answers_without_waiting_reads_the_next_request() -> None:
    async with readers(4) as (some, _):
        await some.ask(1, 2, 4, 5, 7)
        assert [request for request, _ in some.answered] == [1, 2, 4, 5, 7]
        assert len({reader for _, reader in some.answered}) == 1


async def test_who_waits_is_followed_by_another() -> None:
    async with readers(3) as (some, _):
        await some.ask(3, 6, 1, 2)
        assert [request for request, _ in some.answered] == [1, 2]
        await some.ask(9, 4)
        assert [request for request, _ in some.answered] == [1, 2]  # all three wait
        some.slow.set()
        await wait_all_tasks_blocked()
        assert {request for request, _ in some.answered} == {1, 2, 3, 4, 6, 9}
        await some.ask(5)
        assert some.answered[-1][0] == 5


@pytest.mark.parametrize("gone", [{0}, {1}, {0, 1}, {1, 2}, {0, 2}])
async def test_those_that_end_are_not_waited_for(gone: set[int]) -> None:
    """Whoever of them was reading, and whoever was to be next."""
    async with readers(3) as (some, scopes):
        for number in gone:
            scopes[number].cancel()
        await wait_all_tasks_blocked()
        await some.ask(1, 2)
        assert [request for request, _ in some.answered] == [1, 2]
        assert not gone & {reader for _, reader in some.answered}


@pytest.mark.parametrize("steps", range(5))
async def test_one_that_ends_when_its_turn_comes_hands_it_on(steps: int) -> None:
    async with readers(3) as (some, scopes):
        some.requests.send_nowait(3)
        for _ in range(steps):  # one has it, and waits; another is told, and reads
            await trio.lowlevel.checkpoint()
        scopes[0].cancel()
        scopes[1].cancel()
        await wait_all_tasks_blocked()
        some.slow.set()
        await some.ask(1)
        assert some.answered[-1] == (1, 2)


async def test_pyfuse3_is_left_as_it_was() -> None:
    with taking_turns():
        assert isinstance(vars(pyfuse3)["trio"].Lock(), Turns)
        assert vars(pyfuse3)["trio"].lowlevel is trio.lowlevel
    assert vars(pyfuse3)["trio"] is trio
