"""Who reads the next request: the task that is there anyway; another one as soon as that one waits, or is gone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

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


class Counting(Turns):
    """Tells how often somebody looked for the next request by itself, and whether that paid."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[bool] = []

    def _linger(self, fd: int, until: float) -> bool:
        self.looks.append(super()._linger(fd, until))
        return self.looks[-1]


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


async def test_requests_that_come_at_once_are_seen_by_looking() -> None:
    turns = Counting()
    with pipe() as (reading, writing):
        os.write(writing, b"....")
        for _ in range(4):
            async with turns:
                await turns.wait_readable(reading)
                assert os.read(reading, 1)
    assert turns.looks == [True] * 4


async def test_other_tasks_go_on_while_requests_come_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lafsfs.fuse.turns.UNTURNED", 0.0)
    turns, steps = Counting(), 0

    async def other() -> None:
        nonlocal steps
        while True:
            steps += 1
            await trio.lowlevel.checkpoint()

    with pipe() as (reading, writing):
        os.write(writing, b".")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(20):
                async with turns:
                    await turns.wait_readable(reading)
            nursery.cancel_scope.cancel()
    assert all(turns.looks)
    assert steps >= 19


async def test_nobody_looks_for_long_where_programs_take_their_time() -> None:
    """Each of them is waited for all the same; when they are quick again, looking is taken up again."""
    turns = Counting()
    with pipe() as (reading, writing):

        async def answer() -> None:
            async with turns:
                await turns.wait_readable(reading)
                os.read(reading, 1)

        for _ in range(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                await wait_all_tasks_blocked(0.01)
                os.write(writing, b".")
        assert 0 < turns.looks.count(False) < 20
        turns.looks.clear()
        with trio.fail_after(30):
            while True not in turns.looks:
                os.write(writing, b".")
                await answer()


async def test_a_task_that_had_to_wait_for_its_turn_does_not_look() -> None:
    """Something else in the loop is going on then."""
    turns = Counting()
    trio.lowlevel.add_instrument(turns)
    with pipe() as (reading, writing):

        async def answer() -> None:
            async with turns:
                await turns.wait_readable(reading)

        async with turns, trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            await wait_all_tasks_blocked()
            await turns.__aexit__()
            os.write(writing, b".")
    trio.lowlevel.remove_instrument(turns)
    assert turns.looks == []


async def test_pyfuse3_is_left_as_it_was() -> None:
    with taking_turns():
        assert isinstance(vars(pyfuse3)["trio"].Lock(), Turns)
        assert isinstance(vars(pyfuse3)["trio"].lowlevel.wait_readable.__self__, Turns)
        assert vars(pyfuse3)["trio"].lowlevel.current_task is trio.lowlevel.current_task
    assert vars(pyfuse3)["trio"] is trio
