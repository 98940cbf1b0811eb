"""Several things at once, with plain exceptions; CPU work in threads."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import trio

T = TypeVar("T")

INLINE = 32 << 10
"""Bytes; work over fewer is done at once, as a thread would take longer."""

_cpu = trio.CapacityLimiter(os.cpu_count() or 1)


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


async def compute(size: int, call: Callable[[], T]) -> T:
    """Work over `size` bytes: in a thread, of which there are as many as cores, if that is worth it."""
    if size <= INLINE:
        return call()
    return await trio.to_thread.run_sync(call, limiter=_cpu)


async def compute_all(size: int, calls: Sequence[Callable[[], T]]) -> list[T]:
    """All of these, spread over the cores; `size` bytes are worked on in all."""
    if size <= INLINE:
        return [call() for call in calls]
    return await together(*(partial(compute, size, call) for call in calls))
