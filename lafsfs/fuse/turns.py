"""Which of pyfuse3's tasks reads the next request.

pyfuse3 has its tasks take turns with a `trio.Lock`: whoever has read a request hands the lock on, so every request
makes two tasks run, and the loop ask the system for news twice. That is a third of what a small request costs. Here a
task that answered without waiting for anything reads the next request, too; another one takes over only when it does
wait.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import pyfuse3
import trio
from trio.lowlevel import Abort, RaiseCancelT, Task


class Turns(trio.abc.Instrument):
    """What pyfuse3 uses as its lock: held while waiting for a request and taking it. Used in one trio loop."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: deque[Task] = deque()

    async def __aenter__(self) -> None:
        if not self._taken:
            self._taken = True
            return
        task = trio.lowlevel.current_task()

        def abort(_: RaiseCancelT) -> Abort:
            self._waiting.remove(task)
            return Abort.SUCCEEDED

        self._waiting.append(task)
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def __aexit__(self, *_: object) -> None:
        self._taken = False

    def after_task_step(self, task: Task) -> None:
        """Some task waits for something, or ended: should it have been the reader, there must be another one."""
        if not self._taken and self._waiting:
            self._taken = True
            trio.lowlevel.reschedule(self._waiting.popleft())


@contextmanager
def taking_turns() -> Iterator[None]:
    """Have `pyfuse3.main` read requests so, inside of the block. What pyfuse3 uses of trio can be exchanged as a whole;
    that is how its support of asyncio is made.
    """
    turns = Turns()
    trio.lowlevel.add_instrument(turns)
    its = vars(pyfuse3)
    its["trio"] = types.SimpleNamespace(**{**vars(trio), "Lock": lambda: turns})
    try:
        yield
    finally:
        its["trio"] = trio
        trio.lowlevel.remove_instrument(turns)
