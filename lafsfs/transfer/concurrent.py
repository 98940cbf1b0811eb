"""Several things at once, with plain exceptions; CPU work in threads."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import trio

log = logging.getLogger(__name__)

T = TypeVar("T")

INLINE = 32 << 10
"""Bytes; work over fewer is done at once, as a thread would take longer."""

_CORES = os.cpu_count() or 1
_cpu = trio.CapacityLimiter(_CORES)


async def together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run all calls side by side and return their results in order.

    The first one that raises ends the others, and its exception is raised as it is, not in a group.
    """
    results: list[Any] = [None] * len(calls)
    failures: list[Exception] = []

    async def run(i: int) -> None:
        try:
            results[i] = await calls[i]()
        except Exception as error:
            failures.append(error)
            nursery.cancel_scope.cancel()

    if len(calls) == 1:
        return [await calls[0]()]
    async with trio.open_nursery() as nursery:
        for i in range(len(calls)):
            nursery.start_soon(run, i)
    if failures:
        raise failures[0]
    return results


class Budget:
    """So many bytes of memory, or of anything, for those that share them; first come, first served."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._turn = trio.Lock()
        self._more = trio.Event()

    @asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Have `size` of it; who wants more than there is has all of it."""
        size = min(size, self._size)
        async with self._turn:
            while self._free < size:
                self._more = trio.Event()
                await self._more.wait()
            self._free -= size
        try:
            yield
        finally:
            self._free += size
            self._more.set()


async def compute(size: int, call: Callable[[], T]) -> T:
    """Work over `size` bytes: in a thread, of which there are as many as cores, if that is worth it."""
    if size <= INLINE:
        return call()
    return await trio.to_thread.run_sync(call, limiter=_cpu)


async def compute_all(size: int, calls: Sequence[Callable[[], T]]) -> list[T]:
    """All of these, spread over the cores; `size` bytes are worked on in all. The first exception ends it."""
    if size <= INLINE:
        return [call() for call in calls]
    batch = _Batch(calls)
    await together(*[partial(trio.to_thread.run_sync, batch.work, limiter=_cpu)] * min(_CORES, len(calls)))
    return batch.results


class _Batch(Generic[T]):
    """Calls for several threads, each of which takes the next one: a visit to a thread costs more than a small call."""

    def __init__(self, calls: Sequence[Callable[[], T]]) -> None:
        self.results: list[Any] = [None] * len(calls)
        self._waiting = deque(enumerate(calls))

    def work(self) -> None:
        """What one thread does."""
        try:
            while (task := self._next()) is not None:
                number, call = task
                self.results[number] = call()
        except BaseException:
            self._waiting.clear()
            raise

    def _next(self) -> tuple[int, Callable[[], T]] | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None


def quiet_threads(count: int, name: str, niceness: int) -> ThreadPoolExecutor:
    """Threads that let others go first. Of their own, for without privilege a thread cannot take its niceness back."""

    def lower() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        except OSError as error:
            log.info("%s works at ordinary priority: %s", name, error)

    return ThreadPoolExecutor(count, name, lower)
