"""Work that is due at some time, retried for ever with back-off, a bounded number of pieces at once."""

from __future__ import annotations

import heapq
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterator

import trio

from lafsfs.errors import LafsError

log = logging.getLogger(__name__)

FIRST_RETRY = 1.0  # seconds
LAST_RETRY = 60.0
PATIENCE = 30.0  # seconds, as long as Linux keeps what was written from its disk
CALM = 0.4  # seconds for which programs must not be busy any more before several jobs are done at once
REST = 0.005  # seconds for which a queue rests for each request that came while it did an overdue job,
REST_SHARE = 4.0  # but no more than so many times as long as the job took,
REST_MAX = 1.0  # nor than this
LOOK_AGAIN = 0.02  # seconds between two looks at a job that gives way,
PARKED = 0.005  # and, in a hurry, at one that waits for many others
AWAITED = 5.0  # seconds for which no job gives way after somebody began to wait for one of them


class Job:
    """One piece of work. Times are those of `trio.current_time`."""

    __slots__ = (
        "again",
        "awaited",
        "due",
        "firm",
        "key",
        "parked",
        "reason",
        "running",
        "serial",
        "since",
        "tries",
        "urgent",
    )

    def __init__(self, key: int, due: float, since: float) -> None:
        self.key = key
        self.due = due
        self.since = since  # when it was first wanted
        self.firm = 0.0  # not before this time, not even in a hurry
        self.running = False
        self.urgent = False  # nothing should hold it back
        self.awaited = False  # somebody waits for just this job; whoever does it resets that
        self.parked = False  # it waits for others: hurry does not help
        self.again: float | None = None  # wanted again, at this time, while running
        self.tries = 0  # failures in a row
        self.reason = ""  # of the last failure
        self.serial = 0


class Bell:
    """Rings now and then; the next time can be waited for."""

    def __init__(self) -> None:
        self._next = trio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        rung, self._next = self._next, trio.Event()
        rung.set()

    async def wait(self) -> None:
        """Return when it rings."""
        await self._next.wait()


class Queue:
    """Jobs by key (inode number). `work` does one; raising means: again later. Used from the trio thread only."""

    def __init__(
        self,
        work: Callable[[Job], Awaitable[None]],
        slots: int,
        busy_until: Callable[[], float],
        requests: Callable[[], int],
        changed: Bell,
        hurried_slots: int = 0,
    ) -> None:
        """So many jobs at a time as there are `slots`, in a hurry `hurried_slots` if those are more. `changed` rings
        whenever a job ends or fails.

        `busy_until`: the time before which work that nobody waits for should not compete with people's programs;
        it is held back up to `PATIENCE` seconds, then done one at a time, with rests that grow with the number of
        `requests` that came meanwhile. Several at a time only when programs have rested for a while.
        """
        self._work = work
        self._slots = slots
        self._hurried_slots = max(slots, hurried_slots)
        self._busy_until = busy_until
        self._requests = requests
        self._rests_until = float("-inf")
        self._jobs: dict[int, Job] = {}
        self._heap: list[tuple[float, int, Job]] = []
        self._serial = itertools.count(1)
        self._running = 0
        self._wake = trio.Event()
        self._sleeping_until = float("-inf")
        self._hurried = 0
        self._awaited_until = float("-inf")  # somebody waited for one of the jobs lately
        self._changed = changed

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def get(self, key: int) -> Job | None:
        return self._jobs.get(key)

    def want(self, key: int, due: float, *, sooner: bool = False) -> Job:
        """Have the job done at `due`. A job that waits already is moved there (with `sooner`: only forward).

        A job that failed keeps its back-off, unless somebody is in a hurry.
        """
        now = trio.current_time()
        job = self._jobs.get(key)
        if self._hurried:
            due = min(due, now + PARKED if job is not None and job.parked else now)
        if job is None:
            job = self._jobs[key] = Job(key, due, now)
        elif job.running:
            job.again = due if job.again is None else min(job.again, due)
            return job
        elif (sooner and due >= job.due and not job.parked) or (job.tries and not self._hurried):
            return job
        elif due >= job.due and not (sooner or job.parked or job.urgent or self._hurried):
            job.due = due  # it stays where it is in the heap, and is put back when its turn comes too early
            return job
        job.due = min(due, job.due) if sooner else due
        job.parked = False
        self._push(job)
        return job

    def waits(self, key: int, until: float) -> bool:
        """Whether there is a job that will be started by itself, due at `until` at the latest."""
        job = self._jobs.get(key)
        return job is not None and job.due <= until and not (job.running or job.parked or self._hurried)

    def hurry(self) -> None:
        """From now until `relax`, nothing waits for its time; failed jobs are tried at once, then every second."""
        self._hurried += 1
        now = trio.current_time()
        waiting = [job for job in self._jobs.values() if not job.running]
        for job in waiting:
            job.due, job.parked, job.urgent = now, False, True
            job.serial = next(self._serial)
        self._heap = [(float("-inf"), job.serial, job) for job in waiting]  # all others are outdated
        self._wake.set()

    def relax(self) -> None:
        """Undo one `hurry`."""
        self._hurried -= 1

    @property
    def hurried(self) -> bool:
        return self._hurried > 0

    async def give_way(self, key: int) -> None:
        """In the middle of a long job: return when it may go on, as if it were to begin now.

        A job that was wanted for longer than PATIENCE goes on at once, and so do all as long as somebody waits for one.
        """
        job = self._jobs.get(key)
        while job is not None and (now := trio.current_time()) <= job.since + PATIENCE:
            if self._hurried or job.awaited or now < self._awaited_until or self._busy_until() <= now:
                return
            await trio.sleep(LOOK_AGAIN)

    def hurry_one(self, key: int) -> None:
        """Do this job now; one that failed, within the shortest back-off."""
        self._awaited_until = trio.current_time() + AWAITED
        job = self._jobs.get(key)
        if job is not None:
            job.awaited = True
        if job is not None and job.tries and not job.running:
            job.due = min(job.due, trio.current_time() + FIRST_RETRY)
            self._push(job)
        elif job is not None:
            self._now(job)

    def _now(self, job: Job) -> None:
        if not job.running:
            job.due = trio.current_time()
            job.parked = False
            job.urgent = True
            self._push(job)

    def _push(self, job: Job) -> None:
        job.serial = next(self._serial)
        first = float("-inf") if job.urgent else job.due  # an urgent job stands before those that are held
        heapq.heappush(self._heap, (first, job.serial, job))
        if first < self._sleeping_until:
            self._sleeping_until = first
            self._wake.set()

    async def run(self) -> None:
        """Do jobs until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                self._sleeping_until = self._start_due(nursery)
                with trio.move_on_at(self._sleeping_until):
                    await self._wake.wait()

    def _start_due(self, nursery: trio.Nursery) -> float:
        now = trio.current_time()
        slots = self._hurried_slots if self._hurried else self._slots
        while self._heap and self._running < slots:
            due, serial, job = self._heap[0]
            if serial != job.serial or job.running:
                heapq.heappop(self._heap)
            elif due > now:
                return due
            elif job.firm > now or (job.due > now and not job.urgent):
                job.due = job.firm if job.urgent else max(job.due, job.firm)
                heapq.heapreplace(self._heap, (job.due, job.serial, job))
            elif (held := self._held_until(job)) > now:
                return held
            else:
                heapq.heappop(self._heap)
                job.running, job.parked, job.urgent = True, False, False
                self._running += 1
                nursery.start_soon(self._do, job)
        return float("inf")

    def _held_until(self, job: Job) -> float:
        """When to look again at a job that is due while programs are busy with the tree."""
        if job.urgent or self._hurried:
            return 0.0
        busy_until = self._busy_until()
        if self._running:
            return busy_until + CALM  # it may have been a moment's pause
        if trio.current_time() > job.since + PATIENCE:
            return min(busy_until, self._rests_until)
        return busy_until

    def _rest(self, took: float, requests: int) -> None:
        """A job is done that took so long, while so many requests came: give way for a while to more of them."""
        self._rests_until = trio.current_time() + min(requests * REST, took * REST_SHARE, REST_MAX)

    async def _do(self, job: Job) -> None:
        began, requests = trio.current_time(), self._requests()
        try:
            await self._work(job)
        except LafsError as problem:
            self._failed(job, str(problem))
        except OSError as problem:
            self._failed(job, problem.strerror or type(problem).__name__)
        except Exception as problem:
            log.exception("publishing failed unexpectedly")
            self._failed(job, f"internal error ({type(problem).__name__})")
        else:
            job.tries, job.reason = 0, ""
            if job.again is None:
                del self._jobs[job.key]
            else:
                waits = job.parked or not self._hurried
                self._again(job, job.again if waits else min(job.again, trio.current_time()))
        finally:
            self._running -= 1
            self._rest(trio.current_time() - began, self._requests() - requests)
            job.running = False
            self._wake.set()
            self._changed.ring()

    def _failed(self, job: Job, reason: str) -> None:
        job.tries += 1
        job.reason = reason
        if job.tries == 1:
            log.warning("not published yet, will be tried again: %s", reason)
        # A number of failures has no limit, a float has.
        doublings = 0 if self._hurried else min(job.tries - 1, 30)
        wait = min(FIRST_RETRY * 2.0**doublings, LAST_RETRY)
        self._again(job, trio.current_time() + wait * random.uniform(0.8, 1.2))

    def _again(self, job: Job, due: float) -> None:
        job.again = None
        job.running = False
        job.due = due
        self._push(job)
