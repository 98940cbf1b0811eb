"""Sharing memory and cores between several uploads."""

from __future__ import annotations

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

from lafsfs.transfer.concurrent import INLINE, Budget, compute_all


async def _holds(budget: Budget, name: str, size: int, held: dict[str, trio.Event]) -> None:
    async with budget.hold(size):
        held[name] = trio.Event()
        await held[name].wait()
    del held[name]


async def test_a_budget_is_given_out_in_order() -> None:
    budget = Budget(100)
    held: dict[str, trio.Event] = {}
    async with trio.open_nursery() as nursery:
        for name, size in [("a", 60), ("b", 30), ("c", 50), ("d", 1)]:
            nursery.start_soon(_holds, budget, name, size, held)
            await wait_all_tasks_blocked()
        assert set(held) == {"a", "b"}  # there would be room for d, but c was first
        held["b"].set()
        await wait_all_tasks_blocked()
        assert set(held) == {"a"}
        held["a"].set()
        await wait_all_tasks_blocked()
        assert set(held) == {"c", "d"}
        held["c"].set()
        held["d"].set()


async def test_who_wants_more_than_there_is_has_all() -> None:
    budget = Budget(100)
    held: dict[str, trio.Event] = {}
    async with trio.open_nursery() as nursery:
        for name, size in [("small", 1), ("huge", 1000), ("next", 1)]:
            nursery.start_soon(_holds, budget, name, size, held)
            await wait_all_tasks_blocked()
        for alone in ("small", "huge", "next"):
            assert set(held) == {alone}
            held[alone].set()
            await wait_all_tasks_blocked()


async def test_who_gives_up_waiting_keeps_nothing() -> None:
    budget = Budget(10)
    async with budget.hold(10):
        with trio.move_on_after(0) as patience:
            async with budget.hold(5):
                raise AssertionError("there is none left")
        assert patience.cancelled_caught
    async with budget.hold(10):
        pass


def _divide(done: list[int], divisor: int) -> None:
    done.append(10 // divisor)


async def test_calls_are_spread_and_the_first_failure_ends_them() -> None:
    for size in (1, INLINE + 1):
        assert await compute_all(size, [lambda i=i: i * i for i in range(50)]) == [i * i for i in range(50)]
        done: list[int] = []
        calls = [partial(_divide, done, 5 - i) for i in range(1000)]
        try:
            await compute_all(size, calls)
        except ZeroDivisionError:
            assert 5 <= len(done) < 1000
        else:
            raise AssertionError("a failure was lost")
