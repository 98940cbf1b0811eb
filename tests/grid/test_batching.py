"""Which requests travel together, and what becomes of each when something happens on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from lafsfs.errors import BadAnswerError, ServerError, ServerTimeoutError
from lafsfs.gbs import batch, routes
from lafsfs.gbs.batch import Outcome
from lafsfs.grid.batching import Batcher
from lafsfs.grid.exchange import Reply, Request, Timeouts
from lafsfs.grid.transport import Payload

PATIENCE = 0.01


def _request(number: int, size: int = 10) -> Request:
    body = b"%d" % number
    return Request("PUT", f"/{number}", (), Payload(body.ljust(size)), 100, True, Timeouts())


class Server:
    """Takes a second for each exchange, and answers with what it was sent."""

    def __init__(self) -> None:
        self.trips: list[list[str]] = []
        self.error: Exception | None = None
        self.status = 200
        self.answers: Callable[[list[Outcome]], list[Outcome]] = list

    async def send(self, request: Request) -> Reply:
        body = b"".join(request.body.pieces)
        if request.path != routes.BATCH:
            self.trips.append([request.path])
            await trio.sleep(1)
            return Reply(201, {"name": request.path}, body)
        parts = batch.decode_parts(body)
        self.trips.append([part.path for part in parts])
        await trio.sleep(1)
        if self.error is not None:
            raise self.error
        outcomes = [Outcome(201, [("Name", part.path)], part.body) for part in parts]
        return Reply(self.status, {}, batch.encode_outcomes(self.answers(outcomes)))

    def paths(self) -> list[list[str]]:
        return [sorted(trip) for trip in self.trips]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def batcher(server: Server) -> Batcher:
    batcher = Batcher(server.send, PATIENCE)
    batcher.limit = batch.MAX_BODY
    return batcher


async def _ask(batcher: Batcher, number: int, size: int = 10) -> None:
    reply = await batcher.send(_request(number, size))
    assert (reply.status, reply.headers["name"]) == (201, f"/{number}")
    assert reply.body == (b"%d" % number).ljust(size)


async def _ask_all(batcher: Batcher, numbers: range, size: int = 10) -> None:
    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(_ask, batcher, number, size)


async def test_one_alone(batcher: Batcher, server: Server, autojump_clock: trio.testing.MockClock) -> None:
    await _ask(batcher, 1)
    await _ask(batcher, 2)
    assert server.paths() == [["/1"], ["/2"]]
    assert trio.current_time() == pytest.approx(2)


async def test_several(batcher: Batcher, server: Server, autojump_clock: trio.testing.MockClock) -> None:
    """The first goes at once, the others a moment later, whatever becomes of the first."""
    began = trio.current_time()
    await _ask_all(batcher, range(6))
    assert trio.current_time() - began == pytest.approx(1 + PATIENCE)
    assert sorted(map(len, server.trips)) == [1, 5]


async def test_an_answer_ends_the_waiting(server: Server, autojump_clock: trio.testing.MockClock) -> None:
    patient = Batcher(server.send, 5.0)
    patient.limit = batch.MAX_BODY
    began = trio.current_time()
    await _ask_all(patient, range(4))
    assert trio.current_time() - began == pytest.approx(2)


async def test_nothing_is_waited_for_where_batches_are_unknown(
    server: Server, autojump_clock: trio.testing.MockClock
) -> None:
    await _ask_all(Batcher(server.send, PATIENCE), range(5))
    assert len(server.trips) == 5
    assert trio.current_time() == pytest.approx(1)


async def test_limits(batcher: Batcher, server: Server, autojump_clock: trio.testing.MockClock) -> None:
    await _ask_all(batcher, range(2 * batch.MAX_PARTS + 10))
    assert max(map(len, server.trips)) == batch.MAX_PARTS
    server.trips.clear()
    batcher.limit = 3 * (5000 + batch.PART_OVERHEAD)
    await _ask_all(batcher, range(10), 5000)
    assert max(map(len, server.trips)) == 3
    assert sorted(path for trip in server.trips for path in trip) == [f"/{number}" for number in range(10)]


async def test_a_server_that_forgot_what_batches_are(
    batcher: Batcher, server: Server, autojump_clock: trio.testing.MockClock
) -> None:
    server.status = 404
    await _ask_all(batcher, range(4))
    assert batcher.limit == 0
    assert sorted(server.trips[2:]) == sorted([path] for path in server.trips[1])


async def test_an_answer_too_large_for_a_batch(
    batcher: Batcher, server: Server, autojump_clock: trio.testing.MockClock
) -> None:
    server.answers = lambda outcomes: [Outcome(413, [], b""), *outcomes[1:]]
    await _ask_all(batcher, range(4))
    assert sorted(map(len, server.trips)) == [1, 1, 3]


@pytest.mark.parametrize(
    ("error", "status", "answers", "kind"),
    [
        (ServerTimeoutError("late"), 200, list, ServerTimeoutError),
        (RuntimeError("a bug"), 200, list, RuntimeError),
        (None, 500, list, BadAnswerError),
        (None, 200, lambda outcomes: outcomes[1:], BadAnswerError),
    ],
)
async def test_what_fails_fails_for_all_of_a_batch_and_for_nobody_else(
    batcher: Batcher,
    server: Server,
    autojump_clock: trio.testing.MockClock,
    error: Exception | None,
    status: int,
    answers: Callable[[list[Outcome]], list[Outcome]],
    kind: type[Exception],
) -> None:
    server.error, server.status, server.answers = error, status, answers
    errors: list[Exception] = []

    async def ask(number: int) -> None:
        try:
            await batcher.send(_request(number))
        except (ServerError, RuntimeError) as problem:
            errors.append(problem)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
    assert [type(problem) for problem in errors] == [kind] * 4
    assert len(set(map(id, errors))) == 4
    server.error, server.status, server.answers = None, 200, list
    await _ask_all(batcher, range(5))


async def test_who_gives_up_harms_nobody(
    batcher: Batcher, server: Server, autojump_clock: trio.testing.MockClock
) -> None:
    async def give_up(number: int, after: float) -> None:
        with trio.move_on_after(after) as patience:
            await batcher.send(_request(number))
        assert patience.cancelled_caught

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up, 0, 0.5)  # the one that went alone
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(give_up, 1, PATIENCE / 2)  # while it waits
        nursery.start_soon(give_up, 2, 0.5)  # on the way
        nursery.start_soon(_ask, batcher, 3)
        nursery.start_soon(_ask, batcher, 4)
    assert server.paths() == [["/0"], ["/2", "/3", "/4"]]
    await _ask(batcher, 5)
    assert server.paths()[-1] == ["/5"]
