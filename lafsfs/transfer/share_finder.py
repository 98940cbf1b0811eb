"""Which shares of an immutable file there are, and getting something from enough of them.

A share that fails is replaced by another, one that lags gets a rival (a hedged request), a corrupt one is
reported to its server and not used again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import trio

from lafsfs.errors import (
    FormatError,
    LafsError,
    NotEnoughServersError,
    NotEnoughSharesError,
    ServerError,
    ServerRefusedError,
)
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.share_source import ShareSource

log = logging.getLogger(__name__)

T = TypeVar("T")

_DEADLINE = 90.0
_FIRST_HEDGE, _LAST_HEDGE = 0.5, 4.0
_PATIENCE = 4.0  # times the expected time of a request before a rival is asked
_AT_ONCE = 16
_FIRST_CREDIT, _MOST_CREDIT = 4, 16
_TRY_AGAIN = 50  # files
_GRACE = 0.3  # seconds for the other servers to answer when the shares of some are enough


class Guesses:
    """Whether the shares of small files are where uploads put them when all servers are there."""

    def __init__(self) -> None:
        self._credit = _FIRST_CREDIT
        self._idle = 0

    @property
    def worthwhile(self) -> bool:
        """Whether to guess: not after several were wrong, but now and then for another try."""
        if self._credit > 0:
            return True
        self._idle += 1
        return self._idle % _TRY_AGAIN == 0

    def right(self) -> None:
        """A guess spared a round trip."""
        self._credit = min(_MOST_CREDIT, self._credit + 1)

    def wrong(self) -> None:
        """A guess cost one."""
        self._credit = max(0, self._credit - 2)


_guesses: WeakKeyDictionary[Grid, Guesses] = WeakKeyDictionary()


def guesses_of(grid: Grid) -> Guesses:
    """The experience with a grid."""
    return _guesses.setdefault(grid, Guesses())


class ShareFinder:
    """The shares of one file that are known so far. Servers are asked in permuted order, as needed."""

    def __init__(self, grid: Grid, storage_index: bytes, k: int, n: int, *, guess: bool = False) -> None:
        """With `guess`, shares are tried where uploads put them, before anybody is asked: for small files."""
        self._grid = grid
        self._storage_index = storage_index
        self._guesses = guesses_of(grid) if guess else None
        self._k, self._n = k, n
        self._shares: list[ShareSource] = []
        self._corrupt: set[tuple[StorageServer, int]] = set()
        self._guessed: Guesses | None = None
        self._asked: set[StorageServer] = set()
        self._unsure: set[StorageServer] = set()
        self._locating = trio.Lock()

    async def gather(
        self, need: int, size: int, job: Callable[[ShareSource], Awaitable[T]]
    ) -> dict[ShareSource, T]:
        """What `job` makes of `need` shares of different numbers; each job moves about `size` bytes.

        NotEnoughSharesError when all servers answered and there are too few good shares;
        NotEnoughServersError when servers failed or the deadline passed.
        """
        with trio.move_on_after(_DEADLINE):
            found = await self._from_the_only_one(job) if self._has_no_rivals else None
            if found is None:
                found = await _Gathering(self, need, size, job).run()
            if self._guessed is not None:
                self._guessed.right()
                self._guessed = None
            return found
        raise NotEnoughServersError("the servers did not deliver in time")

    def held(self, need: int, look: Callable[[ShareSource], T | None]) -> dict[ShareSource, T] | None:
        """What `look` finds in `need` shares of different numbers without asking anybody; None if there are fewer."""
        found: dict[ShareSource, T] = {}
        numbers: set[int] = set()
        for share in self._shares:
            value = None if share.shnum in numbers else look(share)
            if value is not None:
                found[share] = value
                numbers.add(share.shnum)
                if len(found) == need:
                    return found
        return None

    @property
    def _has_no_rivals(self) -> bool:
        """Whether there can only be one share, on one server."""
        return self._n == 1 and len(self._grid.servers) == 1

    async def _from_the_only_one(
        self, job: Callable[[ShareSource], Awaitable[T]]
    ) -> dict[ShareSource, T] | None:
        """`gather` where nobody else can be asked when a share lags: that takes no tasks. None if it failed."""
        if not self._shares:
            await self.locate()
        share = self.best(set(), set())
        if share is None:
            return None
        try:
            return {share: await job(share)}
        except (ServerError, FormatError) as error:
            await self.rejected(share, error)
        return None

    def best(self, taken: set[int], busy: set[ShareSource]) -> ShareSource | None:
        """The share to ask next: none of the numbers `taken`, none of the sources `busy`."""
        free = [s for s in self._shares if s.shnum not in taken and s not in busy]
        return min(free, key=_cost, default=None)

    async def locate(self) -> bool:
        """Ask the next servers what they have. False when there is no server left to ask."""
        async with self._locating:
            order = [s for s in self._grid.permuted(self._storage_index) if s not in self._asked]
            if not order:
                return False
            if self._n == 1 and not self._asked:
                # Only share 0 can exist: reading it says as much as asking for it.
                self._found(order[0], frozenset({0}))
                return True
            if self._guess(order):
                return True
            await self._ask_all(order[: max(_AT_ONCE, self._n)])
            return True

    def _guess(self, order: Sequence[StorageServer]) -> bool:
        """Take the first k shares to be on the first k servers, once, if that was mostly right lately."""
        guesses, self._guesses = self._guesses, None
        first = order[: self._k]
        if guesses is None or not guesses.worthwhile or len(first) < self._k:
            return False
        if any(server.health.quarantined for server in self._grid.servers):
            return False  # then all stand elsewhere
        for shnum, server in enumerate(first):
            self._shares.append(ShareSource(server, self._storage_index, shnum))
        self._guessed = guesses
        return True

    async def _ask_all(self, servers: Sequence[StorageServer]) -> None:
        """Ask these servers. Those that keep us waiting when enough is known may be asked again later."""
        answered, answers = trio.open_memory_channel[None](len(servers))
        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(self._ask, server, answered)
            for _ in servers:
                known = len({share.shnum for share in self._shares if share.server in self._asked})
                with trio.move_on_after(_GRACE if known >= self._k else float("inf")) as patience:
                    await answers.receive()
                if patience.cancelled_caught:
                    break
            nursery.cancel_scope.cancel()

    async def _ask(self, server: StorageServer, answered: trio.MemorySendChannel[None]) -> None:
        try:
            self._found(server, await server.immutable_shares(self._storage_index))
        except ServerError as error:
            log.info("no shares from %s: %s", server.name, error)
            self._asked.add(server)
            self._unsure.add(server)
        answered.send_nowait(None)

    def _found(self, server: StorageServer, numbers: frozenset[int]) -> None:
        self._asked.add(server)
        known = {(share.server, share.shnum) for share in self._shares}
        for shnum in sorted(numbers):
            if shnum < self._n and (server, shnum) not in self._corrupt | known:
                self._shares.append(ShareSource(server, self._storage_index, shnum))

    async def rejected(self, share: ShareSource, error: LafsError) -> None:
        """Take a share out: its server failed, or what it gave cannot be part of a share."""
        if isinstance(error, ServerError):
            self.failed(share, error)
        else:
            await self.corrupt(share, str(error))

    def failed(self, share: ShareSource, error: LafsError) -> None:
        """Take a share out because its server failed or does not have it."""
        if share in self._shares:
            self._shares.remove(share)
        if self._guessed is not None:
            self._guessed.wrong()
            self._guessed = None
        if not (isinstance(error, ServerRefusedError) and error.status == 404):
            log.info("%r is of no use: %s", share, error)
            self._unsure.add(share.server)

    async def corrupt(self, share: ShareSource, reason: str) -> None:
        """Take a corrupt share out for good and tell its server."""
        if share in self._shares:
            self._shares.remove(share)
        if (share.server, share.shnum) not in self._corrupt:
            self._corrupt.add((share.server, share.shnum))
            log.warning("share %d on %s is corrupt: %s", share.shnum, share.server.name, reason)
            await share.server.advise_corrupt("immutable", self._storage_index, share.shnum, reason)

    def exhausted(self) -> LafsError:
        """The error for having too few shares. The next attempt asks all servers anew."""
        unsure, self._unsure = self._unsure, set()
        self._asked.clear()
        self._shares.clear()
        if unsure:
            names = ", ".join(sorted(server.name for server in unsure))
            return NotEnoughServersError(f"too few shares without the servers that failed: {names}")
        return NotEnoughSharesError(f"fewer than {self._k} good shares are left")


def _cost(share: ShareSource) -> tuple[bool, int, bool, float]:
    health = share.server.health
    return health.quarantined, share.late, not share.holds_something, health.expected_seconds(1 << 20)


@dataclass
class _Outcome(Generic[T]):
    share: ShareSource
    value: T | None = None
    error: LafsError | None = None


class _Gathering(Generic[T]):
    """One call of `ShareFinder.gather`."""

    def __init__(
        self, finder: ShareFinder, need: int, size: int, job: Callable[[ShareSource], Awaitable[T]]
    ) -> None:
        self._finder, self._need, self._size, self._job = finder, need, size, job
        self._running: dict[ShareSource, float] = {}
        self._lagging: set[ShareSource] = set()
        self._results: dict[ShareSource, T] = {}
        self._send, self._receive = trio.open_memory_channel[_Outcome[T]](1000)

    async def run(self) -> dict[ShareSource, T]:
        failure: LafsError | None = None
        async with trio.open_nursery() as nursery:
            while len(self._results) < self._need:
                self._start(nursery)
                if self._missing():
                    located = await self._finder.locate()
                    if not located and not self._running:
                        failure = self._finder.exhausted()
                        break
                    self._start(nursery)
                if self._running:
                    await self._wait()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return self._results

    def _missing(self) -> int:
        """How many more shares ought to be asked."""
        return self._need - len(self._results) - (len(self._running) - len(self._lagging))

    def _start(self, nursery: trio.Nursery) -> None:
        while self._missing() > 0:
            taken = {share.shnum for share in self._results}
            taken |= {share.shnum for share in self._running if share not in self._lagging}
            share = self._finder.best(taken, set(self._running))
            if share is None:
                return
            self._running[share] = trio.current_time()
            nursery.start_soon(self._run, share)

    async def _run(self, share: ShareSource) -> None:
        try:
            outcome = _Outcome(share, value=await self._job(share))
        except (ServerError, FormatError) as error:
            outcome = _Outcome(share, error=error)
        self._send.send_nowait(outcome)

    async def _wait(self) -> None:
        """Until something ends, or somebody has lagged so long that a rival is due."""
        prompt = [start for share, start in self._running.items() if share not in self._lagging]
        due = min(prompt) + self._hedge_after() if prompt else float("inf")
        outcome: _Outcome[T] | None = None
        with trio.CancelScope(deadline=due):
            outcome = await self._receive.receive()
        if outcome is None:
            self._mark_lagging(due)
            return
        share = outcome.share
        del self._running[share]
        self._lagging.discard(share)
        if outcome.error is None:
            if share.shnum not in {other.shnum for other in self._results}:
                self._results[share] = outcome.value  # type: ignore[assignment]
        else:
            await self._finder.rejected(share, outcome.error)

    def _mark_lagging(self, due: float) -> None:
        for share, start in self._running.items():
            if share not in self._lagging and start + self._hedge_after() <= due + 0.001:
                self._lagging.add(share)
                share.late += 1

    def _hedge_after(self) -> float:
        expected = max(
            (share.server.health.expected_seconds(self._size) for share in self._running), default=0.0
        )
        return min(_LAST_HEDGE, max(_FIRST_HEDGE, _PATIENCE * expected))
