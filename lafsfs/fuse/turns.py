"""Which of pyfuse3's tasks reads the next request.

pyfuse3 has its tasks take turns with a `trio.Lock`: whoever has read a request hands the lock on, so every request
makes two tasks run, and the loop ask the system for news twice. That is a third of what a small request costs. Here a
task that answered without waiting for anything reads the next request, too; another one takes over only when it does
wait.

A program that was answered asks for the next thing within microseconds. To sleep and be woken for that, on another
processor than the program's, takes longer than most answers. So who has just answered looks again and again for a
moment, as long as that mostly pays.
"""

from __future__ import annotations

import select
import time
import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pyfuse3
import trio
from trio.lowlevel import Abort, RaiseCancelT, Task

from lafsfs.fuse.negotiation import Negotiation

LINGER = 0.0001  # seconds for which who has just answered looks for the next request without going to sleep
UNTURNED = 0.002  # seconds for which other tasks may have to wait because of that
_TRUST = 8  # so many times it may be in vain, after it paid that often, before it is left


class Turns(trio.abc.Instrument):
    """What pyfuse3 uses as its lock: held while waiting for a request and taking it. Used in one trio loop."""

    def __init__(self, negotiation: Negotiation | None = None) -> None:
        self._negotiation = negotiation  # of a connection that is new
        self._taken = False
        self._waiting: deque[Task] = deque()
        # Whether the task whose turn it is has just answered a request, and waited for nothing.
        self._answered = False
        self._trust = _TRUST
        self._turned = 0.0  # when the loop last had time for other tasks
        self._poll = select.poll()
        self._polled = -1

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = self._answered = True
            return
        self._answered = False
        task = trio.lowlevel.current_task()

        def abort(_: RaiseCancelT) -> Abort:
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        self._waiting.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def __aexit__(self, *_: object) -> None:
        self._taken = False

    async def wait_readable(self, fd: int) -> None:
        """Return when there is a request; what pyfuse3 waits with while it has its turn."""
        if self._negotiation is not None:
            if not self._negotiation.begun:
                await self._negotiation.begin(fd)
                return
            self._negotiation.end(fd)
            self._negotiation = None
        began = time.monotonic()
        if self._answered and self._trust > 0:
            if began > self._turned + UNTURNED:
                await trio.lowlevel.checkpoint()
                self._turned = began = time.monotonic()
            if self._linger(fd, began + LINGER):
                self._trust = _TRUST
                return
            self._trust -= 1
        await trio.lowlevel.wait_readable(fd)
        self._turned = time.monotonic()
        if self._turned < began + 2 * LINGER:
            self._trust = min(self._trust + 1, _TRUST)

    def _linger(self, fd: int, until: float) -> bool:
        """Whether a request comes in time. Other threads can go on meanwhile."""
        if fd != self._polled:
            self._poll = select.poll()
            self._poll.register(fd, select.POLLIN)
            self._polled = fd
        poll = self._poll.poll
        while not poll(0):
            if time.monotonic() > until:
                return False
        return True

    def after_task_step(self, task: Task) -> None:
        """Some task waits for something, or ended: should it have been the reader, there must be another one."""
        if not self._taken and self._waiting:
            self._taken = True
            trio.lowlevel.reschedule(self._waiting.popleft())


@contextmanager
def taking_turns(negotiation: Negotiation | None = None) -> Iterator[None]:
    """Have `pyfuse3.main` read requests so, inside of the block. What pyfuse3 uses of trio can be exchanged as a whole;
    that is how its support of asyncio is made.
    """
    turns = Turns(negotiation)
    trio.lowlevel.add_instrument(turns)
    its = vars(pyfuse3)
    lowlevel = types.SimpleNamespace(**{**vars(trio.lowlevel), "wait_readable": turns.wait_readable})
    its["trio"] = types.SimpleNamespace(**{**vars(trio), "Lock": lambda: turns, "lowlevel": lowlevel})
    try:
        yield
    finally:
        its["trio"] = trio
        trio.lowlevel.remove_instrument(turns)
