"""Small requests to one server share the way: those that wait while others are under way go out as one.

A request that finds none under way goes by itself and at once, in the task of who sends it. Others wait until an answer
comes, but no longer than their lane says, and then travel together in a task of their own: whoever waits for one of
them may be cancelled without harm to the others. See adr/batches.md.

No locks: all of it runs in one trio thread, and between two awaits nobody else does.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from lafsfs.errors import BadAnswerError, FormatError, ServerUnreachableError
from lafsfs.gbs import batch, routes
from lafsfs.grid.exchange import CBOR_REQUEST, Reply, Request
from lafsfs.grid.transport import Payload

SMALL: Final = 64 << 10
"""Bytes of a body, and of its answer, that may travel with others."""
_UNKNOWN: Final = (404, 405)
_TOO_LARGE: Final = 413

Send = Callable[[Request], Awaitable[Reply]]


class _Passenger:
    """A request that travels with others, or waits for that."""

    __slots__ = ("arrived", "outcome", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.arrived = trio.Event()
        self.outcome: Reply | Exception | None = None  # None: it has to go by itself

    @property
    def size(self) -> int:
        return self.request.body.size + batch.PART_OVERHEAD


class Batcher:
    """The small requests to one server in one lane."""

    def __init__(self, send: Send, patience: float) -> None:
        """`send` makes one exchange; it raises ServerError only."""
        self._send, self._patience = send, patience
        self._under_way = 0
        self._waiting: deque[_Passenger] = deque()
        self._departure: trio.Event | None = None
        self.limit = 0
        """Bytes of a batch that the server takes; 0: none, all go alone."""

    async def send(self, request: Request) -> Reply:
        """One exchange, with others or alone. ServerError."""
        if not self.limit:
            return await self._send(request)
        if not self._under_way:
            return await self._alone(request)
        passenger = _Passenger(request)
        self._board(passenger)
        try:
            await passenger.arrived.wait()
        finally:
            if passenger in self._waiting:
                self._waiting.remove(passenger)
        if passenger.outcome is None:
            return await self._send(request)
        if isinstance(passenger.outcome, Exception):
            raise copy.copy(passenger.outcome)
        return passenger.outcome

    async def _alone(self, request: Request) -> Reply:
        self._under_way += 1
        try:
            return await self._send(request)
        finally:
            self._returned()

    def _returned(self) -> None:
        self._under_way -= 1
        if self._departure is not None:
            self._departure.set()

    def _board(self, passenger: _Passenger) -> None:
        self._waiting.append(passenger)
        if self._departure is None:
            self._departure = trio.Event()
            trio.lowlevel.spawn_system_task(self._depart, self._departure)
        if len(self._waiting) >= batch.MAX_PARTS:
            self._departure.set()

    async def _depart(self, departure: trio.Event) -> None:
        with trio.move_on_after(self._patience):
            await departure.wait()
        self._departure = None
        self._under_way += 1
        try:
            while passengers := self._next():
                await self._carry(passengers)
        finally:
            self._returned()

    def _next(self) -> list[_Passenger]:
        """Who has waited longest, as many as fit."""
        passengers: list[_Passenger] = []
        size = 0
        while self._waiting and len(passengers) < batch.MAX_PARTS:
            size += self._waiting[0].size
            if passengers and size > self.limit:
                break
            passengers.append(self._waiting.popleft())
        return passengers

    async def _carry(self, passengers: Sequence[_Passenger]) -> None:
        """One exchange for all of them. Whatever happens, all arrive."""
        try:
            if len(passengers) == 1:
                passengers[0].outcome = await self._send(passengers[0].request)
            else:
                await self._together(passengers)
        except Exception as error:  # what leaves a system task ends the process
            for passenger in passengers:
                passenger.outcome = error
        except trio.Cancelled:
            for passenger in passengers:
                passenger.outcome = ServerUnreachableError("the process is ending")
            raise
        finally:
            for passenger in passengers:
                passenger.arrived.set()

    async def _together(self, passengers: Sequence[_Passenger]) -> None:
        requests = [passenger.request for passenger in passengers]
        reply = await self._send(_combined(requests))
        if reply.status in _UNKNOWN:
            self.limit = 0
            return
        if reply.status != 200:
            raise BadAnswerError(f"a batch was answered with status {reply.status}")
        try:
            outcomes = batch.decode_outcomes(reply.body, len(requests))
        except FormatError as error:
            raise BadAnswerError(str(error)) from error
        for passenger, outcome in zip(passengers, outcomes, strict=True):
            if outcome.status != _TOO_LARGE:
                headers = {name.lower(): value for name, value in outcome.headers}
                passenger.outcome = Reply(outcome.status, headers, outcome.body)


def _combined(requests: Sequence[Request]) -> Request:
    parts = [batch.Part(r.method, r.path, list(r.headers), b"".join(r.body.pieces)) for r in requests]
    return Request(
        "POST",
        routes.BATCH,
        CBOR_REQUEST,
        Payload(batch.encode_parts(parts)),
        sum(request.max_body + batch.PART_OVERHEAD for request in requests),
        all(request.idempotent for request in requests),
        requests[0].timeouts,
    )
