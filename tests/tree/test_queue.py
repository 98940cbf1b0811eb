"""The queue of what is to be published: when a job is done, when it is tried again, and when it gives way."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from lafsfs.errors import GridError
from lafsfs.tree.queue import (
    FIRST_RETRY,
    LAST_RETRY,
    LOOK_AGAIN,
    PARKED,
    PATIENCE,
    REST_MAX,
    REST_SHARE,
    Bell,
    Job,
    Queue,
)

STEP = 1 / 128  # seconds
Action = Callable[[Job], None]


class Worker:
    """A queue whose jobs take a known time, and what it did when."""

    def __init__(self, clock: MockClock, slots: int = 8, hurried_slots: int = 0) -> None:
        self.clock = clock
        self.busy_until = float("-inf")
        self.lasts = 0.0  # seconds that a job takes
        self.actions: dict[int, list[Action]] = defaultdict(list)  # what the next attempts of a job do
        self.begun: list[tuple[float, int]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.requests = 0
        self.changed = Bell()
        self.queue = Queue(
            self._work, slots, lambda: self.busy_until, lambda: self.requests, self.changed, hurried_slots
        )

    async def _work(self, job: Job) -> None:
        self.begun.append((trio.current_time(), job.key))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.lasts)
        finally:
            self.at_once -= 1
        if self.actions[job.key]:
            self.actions[job.key].pop(0)(job)

    async def until(self, moment: float) -> None:
        """Let time go on to `moment`, stopping wherever something may happen."""
        await wait_all_tasks_blocked()
        while (now := trio.current_time()) < moment:
            self.clock.jump(min(STEP, moment - now))
            await wait_all_tasks_blocked()

    def times(self, key: int) -> list[float]:
        """When the attempts of a job began, to a hundredth."""
        return [round(when, 2) for when, what in self.begun if what == key]


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[Worker]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.queue.run)
        await wait_all_tasks_blocked()
        yield worker
        nursery.cancel_scope.cancel()


def fail(_: Job) -> None:
    raise GridError("no servers")


def again_at(moment: float, *, parked: bool = False) -> Action:
    def act(job: Job) -> None:
        job.again, job.parked = moment, parked

    return act


# --- when it is due ------------------------------------------------------------------------------------


async def test_a_job_is_done_when_it_is_due_and_then_forgotten(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    async with running(worker):
        worker.queue.want(7, 2.0)
        worker.queue.want(8, 1.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(worker.until, 1.5)
            await worker.changed.wait()
            assert len(worker.queue) == 1
        assert worker.begun == [(1.0, 8)]
        assert [job.key for job in worker.queue] == [7]
        await worker.until(3.0)
        assert worker.times(7) == [2.0]
        assert len(worker.queue) == 0
        assert worker.queue.get(7) is None


async def test_what_was_due_before_the_queue_ran(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.queue.want(1, -5.0)
    worker.queue.want(2, 0.0)
    async with running(worker):
        assert {key for _, key in worker.begun} == {1, 2}


async def test_a_waiting_job_is_moved(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    async with running(worker):
        worker.queue.want(1, 1.0)
        worker.queue.want(1, 3.0)
        worker.queue.want(2, 3.0)
        worker.queue.want(2, 1.0)
        await worker.until(5.0)
        assert (worker.times(1), worker.times(2)) == ([3.0], [1.0])


async def test_a_job_that_was_moved_back_can_be_moved_forward_and_hurried(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    async with running(worker):
        for key in range(3):
            worker.queue.want(key, 1.0)
            worker.queue.want(key, 8.0)
        await worker.until(2.0)
        worker.queue.want(0, 3.0)
        worker.queue.want(1, 9.0)
        await worker.until(4.0)
        worker.queue.hurry_one(2)
        await worker.until(4.5)
        assert [key for _, key in worker.begun] == [0, 2]
        await worker.until(10.0)
        assert [worker.times(key) for key in range(3)] == [[3.0], [9.0], [4.0]]


async def test_sooner_never_moves_a_job_back(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    async with running(worker):
        worker.queue.want(1, 2.0)
        worker.queue.want(1, 9.0, sooner=True)
        worker.queue.want(2, 9.0)
        worker.queue.want(2, 2.0, sooner=True)
        await worker.until(10.0)
        assert (worker.times(1), worker.times(2)) == ([2.0], [2.0])


async def test_wanted_while_it_runs_it_is_done_once_more_at_the_earliest_of_the_times(
    mock_clock: MockClock,
) -> None:
    worker = Worker(mock_clock)
    worker.lasts = 1.0
    async with running(worker):
        worker.queue.want(1, 0.0)
        await worker.until(0.5)
        worker.queue.want(1, 6.0)
        worker.queue.want(1, 4.0)
        worker.queue.want(1, 5.0)
        await worker.until(3.5)
        assert worker.queue.get(1) is not None
        await worker.until(9.0)
        assert worker.times(1) == [0.0, 4.0]
        assert len(worker.queue) == 0


async def test_wanted_while_it_runs_but_for_a_time_that_is_over_when_it_ends(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.lasts = 1.0
    async with running(worker):
        worker.queue.want(1, 0.0)
        await worker.until(0.5)
        worker.queue.want(1, 0.6)
        await worker.until(1.5)
        assert worker.times(1) == [0.0, 1.0]


@pytest.mark.parametrize("slots", [1, 3])
async def test_no_more_at_once_than_there_are_slots(mock_clock: MockClock, slots: int) -> None:
    worker = Worker(mock_clock, slots)
    worker.lasts = 1.0
    async with running(worker):
        for key in range(7):
            worker.queue.want(key, 0.0)
        await worker.until(10.0)
        assert worker.most_at_once == slots
        assert sorted(key for _, key in worker.begun) == list(range(7))
        assert worker.begun[-1][0] == pytest.approx((7 - 1) // slots, abs=0.05)


async def test_more_at_once_in_a_hurry(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock, slots=2, hurried_slots=5)
    worker.lasts = 1.0
    async with running(worker):
        for key in range(20):
            worker.queue.want(key, 0.0)
        await worker.until(0.5)
        assert worker.at_once == 2
        worker.queue.hurry()
        await worker.until(0.6)
        assert worker.at_once == 5
        worker.queue.relax()
        await worker.until(1.5)
        assert worker.at_once == 2


# --- failures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (GridError("no servers"), "no servers"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("a detail"), "internal error (ValueError)"),
        (ExceptionGroup("several", [GridError("x")]), "internal error (ExceptionGroup)"),
    ],
)
async def test_whatever_goes_wrong_the_job_stays(
    mock_clock: MockClock, problem: Exception, reason: str
) -> None:
    worker = Worker(mock_clock)

    def act(_: Job) -> None:
        raise problem

    worker.actions[1] = [act]
    async with running(worker):
        worker.queue.want(1, 0.0)
        await worker.until(0.1)
        job = worker.queue.get(1)
        assert job is not None
        assert (job.tries, job.reason, job.running) == (1, reason, False)
        await worker.until(2.0)
        assert len(worker.begun) == 2
        assert worker.queue.get(1) is None
        assert (job.tries, job.reason) == (0, "")


async def test_back_off_grows_up_to_a_limit_for_any_number_of_failures(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.queue.want(1, 0.0)
    job = worker.queue.get(1)
    assert job is not None
    for tries in (*range(12), 100, 1_000, 1_023, 1_024, 1_025, 5_000, 1_000_000):
        job.tries = tries
        worker.queue._failed(job, "no servers")
        wait = min(FIRST_RETRY * 2 ** min(tries, 20), LAST_RETRY)
        assert 0.8 * wait <= job.due - trio.current_time() <= 1.2 * wait
        assert job.tries == tries + 1


async def test_new_wishes_do_not_shorten_the_back_off(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.actions[1] = [fail] * 5
    async with running(worker):
        worker.queue.want(1, 0.0)
        await worker.until(0.1)
        for _ in range(60):
            worker.queue.want(1, trio.current_time())
            worker.queue.want(1, trio.current_time(), sooner=True)
            await worker.until(trio.current_time() + 0.1)
        assert 2 <= len(worker.begun) <= 4


# --- in a hurry ----------------------------------------------------------------------------------------


async def test_in_a_hurry_nothing_waits_and_failures_are_tried_every_second(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.actions[1] = [fail] * 100
    async with running(worker):
        worker.queue.want(1, 50.0)
        worker.queue.want(2, 60.0)
        worker.queue.hurry()
        await worker.until(10.0)
        worker.queue.want(3, 70.0)
        await worker.until(10.1)
        assert (worker.times(2), worker.times(3)) == ([0.0], [10.0])
        assert 8 <= len(worker.times(1)) <= 13
        worker.queue.relax()
        assert not worker.queue.hurried
        worker.queue.want(4, 30.0)
        await worker.until(25.0)
        assert worker.times(4) == []


async def test_hurries_are_counted(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.queue.hurry()
    worker.queue.hurry()
    worker.queue.relax()
    assert worker.queue.hurried
    worker.queue.relax()
    assert not worker.queue.hurried


async def test_a_hurry_ends_the_back_off(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.actions[1] = [fail] * 6
    async with running(worker):
        worker.queue.want(1, 0.0)
        await worker.until(45.0)
        job = worker.queue.get(1)
        assert job is not None
        assert job.due > 46.0
        before = len(worker.begun)
        worker.queue.hurry()
        await worker.until(45.05)
        assert len(worker.begun) == before + 1


async def test_hurry_of_one(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.actions[1] = [fail] * 6
    async with running(worker):
        worker.queue.want(1, 0.0)
        worker.queue.want(2, 100.0)
        worker.queue.want(3, 100.0)
        await worker.until(45.0)
        before = len(worker.times(1))
        for key in (1, 2, 99):
            worker.queue.hurry_one(key)
        await worker.until(45.5)
        assert worker.times(2) == [45.0]
        assert len(worker.times(1)) == before, "one that failed rests for the shortest back-off all the same"
        await worker.until(46.1)
        assert len(worker.times(1)) == before + 1
        assert worker.times(3) == []


# --- parked and firm -----------------------------------------------------------------------------------


async def test_a_parked_job_is_looked_at_when_it_said_or_when_it_is_woken(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.actions[1] = [again_at(5.0, parked=True)]
    worker.actions[2] = [again_at(5.0, parked=True)]
    async with running(worker):
        worker.queue.want(1, 0.0)
        worker.queue.want(2, 0.0)
        await worker.until(1.0)
        job = worker.queue.get(1)
        assert job is not None
        assert job.parked
        worker.queue.want(2, 2.0, sooner=True)
        await worker.until(6.0)
        assert (worker.times(1), worker.times(2)) == ([0.0, 5.0], [0.0, 2.0])
        assert len(worker.queue) == 0


async def test_in_a_hurry_a_parked_job_is_not_spun(mock_clock: MockClock) -> None:
    """It parks itself again and again; a child that arrives wakes it, after a moment."""
    worker = Worker(mock_clock)
    worker.actions[1] = [again_at(1000.0, parked=True)] * 100
    async with running(worker):
        worker.queue.hurry()
        worker.queue.want(1, 0.0)
        await worker.until(5.0)
        assert worker.times(1) == [0.0]
        worker.queue.want(1, 8.0, sooner=True)
        await worker.until(6.0)
        assert worker.times(1) == pytest.approx([0.0, 5.0 + PARKED], abs=STEP)


async def test_firm_holds_even_in_a_hurry(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)

    def act(job: Job) -> None:
        job.again, job.firm = 1.0, 3.0

    worker.actions[1] = [act]
    async with running(worker):
        worker.queue.want(1, 0.0)
        await worker.until(0.5)
        worker.queue.hurry()
        worker.queue.hurry_one(1)
        worker.queue.want(2, 0.6)
        await worker.until(2.9)
        assert worker.times(1) == [0.0]
        assert worker.times(2) == [0.5], "others do not wait for it"
        await worker.until(3.1)
        assert worker.times(1) == [0.0, 3.0]


# --- giving way ----------------------------------------------------------------------------------------


async def test_while_programs_are_busy_work_is_held_then_done_one_at_a_time(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.lasts = 1.0
    async with running(worker):
        for key in range(3):
            worker.queue.want(key, 1.0)
        while trio.current_time() < PATIENCE - 0.1:
            worker.busy_until = trio.current_time() + 0.1
            await worker.until(trio.current_time() + 0.05)
        assert worker.begun == []
        while trio.current_time() < PATIENCE + 5:
            worker.busy_until = trio.current_time() + 0.1
            await worker.until(trio.current_time() + 0.05)
        assert len(worker.begun) == 3
        assert worker.most_at_once == 1


async def test_overdue_work_rests_as_long_as_many_requests_come(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.lasts = 0.125

    async def busy(until: float, requests: int) -> list[float]:
        """When jobs began, while so many requests came every twentieth of a second."""
        began = len(worker.begun)
        while trio.current_time() < until:
            worker.busy_until = trio.current_time() + 0.1
            worker.requests += requests
            await worker.until(trio.current_time() + 0.05)
        return [when for when, _ in worker.begun[began:]]

    async with running(worker):
        for key in range(1000):
            worker.queue.want(key, 1.0)
        await busy(PATIENCE + 0.5, 0)
        many = len(await busy(PATIENCE + 10.5, 0))
        few = len(await busy(PATIENCE + 20.5, 1))
        fewest = await busy(PATIENCE + 30.5, 1000)
        assert many > few > len(fewest)
        shortest = min(after - before for before, after in itertools.pairwise(fewest))
        assert 0.125 * (1 + REST_SHARE) <= shortest < 0.125 * (1 + REST_SHARE) + 0.1
        worker.lasts = 5.0
        slow = await busy(PATIENCE + 60.5, 1000)
        assert max(after - before for before, after in itertools.pairwise(slow)) < 5.0 + REST_MAX + 0.1
        await worker.until(PATIENCE + 60.7)
        assert worker.at_once == 1  # a pause, may be
        await worker.until(PATIENCE + 62.0)
        assert worker.at_once == 8  # nobody is busy any more: no rest


async def test_held_work_is_done_as_soon_as_programs_rest(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.busy_until = 4.0
    async with running(worker):
        worker.queue.want(1, 1.0)
        worker.queue.want(2, 6.0)
        await worker.until(3.9)
        assert worker.begun == []
        await worker.until(7.0)
        assert (worker.times(1), worker.times(2)) == ([4.0], [6.0])


async def test_what_somebody_waits_for_is_not_held(mock_clock: MockClock) -> None:
    worker = Worker(mock_clock)
    worker.busy_until = 1000.0
    async with running(worker):
        worker.queue.want(1, 0.0)
        worker.queue.want(2, 50.0)
        await worker.until(1.0)
        worker.queue.hurry_one(2)
        await worker.until(1.1)
        assert worker.begun == [(1.0, 2)]
        worker.queue.hurry()
        await worker.until(1.2)
        assert worker.times(1) == [1.1]


# --- everything at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
async def test_nothing_wanted_is_forgotten(mock_clock: MockClock, seed: int) -> None:
    """After any mixture of wishes, failures, hurries and busy programs, each key was done after its last wish."""
    chance = random.Random(seed)
    worker = Worker(mock_clock, chance.choice([1, 2, 8]))
    wanted: dict[int, float] = {}

    async def act() -> None:
        key = chance.randrange(6)
        what = chance.randrange(8)
        now = trio.current_time()
        if what < 4:
            worker.queue.want(key, now + chance.choice([0, 0, 0.5, 3]), sooner=chance.random() < 0.5)
            wanted[key] = now
        elif what == 4:
            worker.actions[key].append(fail)
        elif what == 5:
            worker.queue.hurry_one(key)
        elif what == 6:
            worker.queue.hurry()
            await worker.until(now + chance.random())
            worker.queue.relax()
        else:
            worker.busy_until = now + chance.random()

    async with running(worker):
        for _ in range(120):
            worker.lasts = chance.choice([0.0, 0.05, 0.3])
            await act()
            await worker.until(trio.current_time() + chance.choice([0, 0.01, 0.2]))
        worker.actions.clear()
        worker.queue.hurry()
        end = trio.current_time() + 5.0
        await worker.until(end)
        assert len(worker.queue) == 0
        for key, moment in wanted.items():
            assert max(worker.times(key)) >= round(moment, 2)


def _gives_way(worker: Worker, key: int, again: list[float]) -> None:
    """The job with this key does two parts, and gives way between them; when the second one began."""
    original = worker.queue._work

    async def work(job: Job) -> None:
        await original(job)
        if job.key == key:
            await worker.queue.give_way(key)
            again.append(trio.current_time())

    worker.queue._work = work


@pytest.mark.parametrize("what", ["quiet", "hurry", "this one is awaited", "another one is", "patience"])
async def test_a_long_job_gives_way_in_its_middle(mock_clock: MockClock, what: str) -> None:
    again: list[float] = []
    async with running(Worker(mock_clock)) as worker:
        worker.lasts = 1.0
        _gives_way(worker, 7, again)
        worker.queue.want(7, trio.current_time())
        await worker.until(trio.current_time() + 0.5)
        began = trio.current_time()
        worker.busy_until = began + 1000.0
        worker.queue.want(8, began + 500.0)
        await worker.until(began + 10.0)
        assert worker.times(7)
        assert not again
        match what:
            case "quiet":
                worker.busy_until = trio.current_time()
            case "hurry":
                worker.queue.hurry()
            case "this one is awaited":
                worker.queue.hurry_one(7)
            case "another one is":
                worker.queue.hurry_one(8)
            case _:
                await worker.until(began - 0.5 + PATIENCE - STEP)
                assert not again
        await worker.until(trio.current_time() + 2 * LOOK_AGAIN + STEP)
        assert len(again) == 1
