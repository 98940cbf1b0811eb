"""Bytes -> the next version of a mutable file on the servers (formats.md 6.5).

One request per server carries all its shares, each under the condition that the share is what the map
says. The first server in permuted order is the *arbiter*: it is written before the others, which are then
written all at once. Of two writers that start from the same version one fails at the arbiter before it
touched anything else, so they do not tear a version apart between them. A file whose key was just made has
one writer only: all servers are written at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from lafsfs.errors import (
    NotEnoughServersError,
    RollbackError,
    ServerError,
    ServerRefusedError,
    ServerTimeoutError,
    UncoordinatedWriteError,
)
from lafsfs.formats.mutable import Header
from lafsfs.formats.mutable_share import checkstring_at
from lafsfs.gbs.messages import TestWrite
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.encoding import Write
from lafsfs.transfer.servermap import ServerMap
from lafsfs.transfer.survey import Target, heads_of

log = logging.getLogger(__name__)

_CHECKED = 57  # bytes read back of each share: the longer one of the two checkstrings
_MAX_REQUEST = 32 << 20
_LARGE = 2 << 20
_LARGE_AT_ONCE = 2
_PAUSE = 0.03  # before a request is repeated
_ARBITER_PATIENCE = 8.0
_STRAGGLERS = 6.0  # when most servers are done, how much longer the others may take
_ABSENT = 1.0  # how long servers that were not there may take to catch up, when all others are done
_SLOW = 100_000  # bytes per second that every usable server takes

WritesOf = Callable[[int], Sequence[Write]]


@dataclass
class _Outcome:
    """What became of the shares."""

    placed: dict[int, set[str]] = field(default_factory=dict)
    collision: bool = False
    refused: dict[str, str] = field(default_factory=dict)


class Publisher:
    """Writes one encoded version where the map says. Use once.

    `writes_of(shnum)` gives the write vectors of a share, `share_size` their size. `partial` is true when
    they make a share only on top of the version in the map: then shares get no new homes. `unknown`: nobody
    else can know the file yet. Where fewer than `happy` servers can be written to, nothing is.
    """

    def __init__(
        self,
        grid: Grid,
        target: Target,
        servermap: ServerMap,
        header: Header,
        writes_of: WritesOf,
        share_size: int,
        *,
        partial: bool = False,
        unknown: bool = False,
        happy: int = 1,
    ) -> None:
        self._grid, self._target = grid, target
        self._unknown = unknown
        self._happy = happy
        self._before = servermap
        self._after = servermap.copy()
        self._header = header
        self._writes_of = writes_of
        self._seen = {share.checkstring for share in servermap.shares.values()}
        base = servermap.best()
        self._base_seqnum = base.seqnum if base is not None else 0
        newest = self._base_seqnum or servermap.highest_seqnum()
        self._up_to_date = {s.server.server_id for s, header in servermap.good() if header.seqnum >= newest}
        self._share_size = share_size
        self._per_request = max(1, _MAX_REQUEST // max(1, share_size))
        self._partial = partial
        self._outcome = _Outcome()
        self._behind: dict[str, set[int]] = {}
        self._alive = [
            s for s in grid.for_upload(target.storage_index) if s.server_id not in servermap.failed
        ]
        self._servers = {server.server_id: server for server in self._alive}
        self._servers.update({share.server.server_id: share.server for share in servermap.shares.values()})
        at_once = _LARGE_AT_ONCE if share_size > _LARGE else 64
        self._limit = trio.CapacityLimiter(at_once)

    async def run(self) -> ServerMap:
        """Write everything; the map afterwards.

        UncoordinatedWriteError: a server holds a version that the map did not show (others may have been
        written). NotEnoughServersError: fewer than k different shares, or of a new file shares on fewer than
        `happy` servers, could be placed; before anything was written when that many were not there.
        """
        self._check_servers(len(self._servers))
        goal = self._known_places()
        if not self._partial:
            self._find_homes(goal)
        arbiter = None if self._unknown else self._arbiter(goal)
        while arbiter is not None and not self._outcome.placed and not self._outcome.collision:
            # Where there are others, one that stalls is not waited for as long as it may take.
            wait = _ARBITER_PATIENCE + self._share_size / _SLOW if len(self._alive) > 1 else math.inf
            await self._write_round({arbiter.server_id: goal.pop(arbiter.server_id)}, wait)
            arbiter = self._arbiter(goal)
        if self._outcome.placed:
            goal |= self._behind
        absent = [] if self._partial else list(self._before.failed.values())
        while (goal or absent) and not self._outcome.collision:
            await self._write_round(goal, math.inf, absent)
            goal, absent = {}, []
            if not self._partial:
                self._find_homes(goal)
        return self._result()

    def _result(self) -> ServerMap:
        if self._outcome.collision:
            raise UncoordinatedWriteError("somebody else wrote the file at the same time")
        if self._behind and not self._outcome.placed:
            raise RollbackError("the servers hold an older version than the one that was read from them")
        k = self._header.k
        if len(self._outcome.placed) < k:
            raise NotEnoughServersError(
                f"only {len(self._outcome.placed)} of {k} shares needed could be written"
            )
        if self._base_seqnum == 0:
            self._check_servers(len(set().union(*self._outcome.placed.values())))
        return self._after

    def _check_servers(self, have: int) -> None:
        if have < self._happy:
            raise NotEnoughServersError(f"only {have} servers can be written to, {self._happy} are wanted")

    # --- where shares go -----------------------------------------------------------------------------

    def _arbiter(self, goal: Mapping[str, set[int]]) -> StorageServer | None:
        """Who is written first: the same server for all writers, as long as it is there. One that shows an older
        version than others may be one that forgets, and lets everybody through.
        """
        order = [s for s in self._grid.permuted(self._target.storage_index) if s.server_id in goal]
        return next(
            (server for server in order if server.server_id in self._up_to_date), next(iter(order), None)
        )

    def _known_places(self) -> dict[str, set[int]]:
        """Every share that exists, corrupt ones included, is replaced where it is."""
        goal: dict[str, set[int]] = {}
        for server_id, shnum in self._before.shares:
            if shnum < self._header.n:
                goal.setdefault(server_id, set()).add(shnum)
        return goal

    def _find_homes(self, goal: dict[str, set[int]]) -> None:
        """Give every share number without a place the server with the fewest shares, in permuted order."""
        load = {server_id: len(shnums) for server_id, shnums in goal.items()}
        for homes in self._outcome.placed.values():
            for server_id in homes:
                load[server_id] = load.get(server_id, 0) + 1
        usable = [s for s in self._alive if s.server_id not in self._outcome.refused]
        settled = set(self._outcome.placed).union(*goal.values())
        for shnum in range(self._header.n):
            if shnum in settled or not usable:
                continue
            server = min(usable, key=lambda s: load.get(s.server_id, 0))
            load[server.server_id] = load.get(server.server_id, 0) + 1
            goal.setdefault(server.server_id, set()).add(shnum)

    # --- one server ----------------------------------------------------------------------------------

    async def _write_round(
        self, goal: Mapping[str, set[int]], wait: float, absent: Sequence[StorageServer] = ()
    ) -> None:
        """Write to several servers at once, `wait` seconds at most. When half are done the others have
        to hurry.
        """
        if len(goal) == 1 and wait == math.inf and not absent:
            for server_id, shnums in goal.items():
                await self._write_server(self._servers[server_id], shnums)
            return
        started = trio.current_time()
        unfinished = set(goal)

        async def write(server_id: str) -> None:
            await self._write_server(self._servers[server_id], goal[server_id])
            unfinished.discard(server_id)
            took = trio.current_time() - started
            if not unfinished:
                hurry(_ABSENT + took)
            elif len(unfinished) <= len(goal) // 2:
                hurry(_STRAGGLERS + 4 * took)

        def hurry(seconds: float) -> None:
            scope = nursery.cancel_scope
            scope.deadline = min(scope.deadline, trio.current_time() + seconds)

        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = started + (wait if goal else _ABSENT)
            for server_id in goal:
                nursery.start_soon(write, server_id)
            for server in absent:
                nursery.start_soon(self._catch_up, server)
        for server_id in unfinished:
            server = self._servers[server_id]
            self._drop(server, ServerTimeoutError(f"{server.name} did not answer in time"))

    async def _write_server(self, server: StorageServer, shnums: set[int]) -> None:
        ordered = sorted(shnums)
        for at in range(0, len(ordered), self._per_request):
            some = ordered[at : at + self._per_request]
            expected = {shnum: self._expected(server.server_id, shnum) for shnum in some}
            async with self._limit:
                if not await self._write_some(server, expected):
                    return

    async def _catch_up(self, server: StorageServer) -> None:
        """A server that did not answer before: if it does now, its old shares become new ones."""
        if server.health.quarantined:
            return
        try:
            heads = await heads_of(server, self._target, _CHECKED, ())
        except ServerError:
            return
        if self._has_rival(server, heads):
            self._outcome.collision = True
            return
        old = {n: checkstring_at(head) for n, head in heads.items() if head and n < self._header.n}
        if old:
            self._servers[server.server_id] = server
            async with self._limit:
                await self._write_some(server, old)

    async def _write_some(self, server: StorageServer, expected: Mapping[int, bytes]) -> bool:
        """One request, repeated when its answer was lost; whether to go on with this server.

        `expected` are the checkstrings to test for, empty for a share that is not there.
        """
        for last_try in (False, False, True):
            try:
                success, heads = await self._request(server, expected)
            except ServerError as error:
                hopeless = isinstance(error, ServerTimeoutError) or server.health.quarantined
                refused = isinstance(error, ServerRefusedError) and error.status < 500
                if last_try or hopeless or refused:
                    self._drop(server, error)
                    return False
                await trio.sleep(_PAUSE)
                continue
            if self._has_rival(server, heads):
                self._outcome.collision = True
                return False
            # After a lost answer the tests of the repetition fail because the first request was carried out.
            if success or all(self._is_ours(heads.get(shnum, b"")) for shnum in expected):
                self._record(server, expected)
                return await self._replace_leftovers(server, heads, expected)
            # It holds something older than what we saw. That is replaced, but only next to servers that do
            # hold what we saw: when all of them are behind, nothing is written.
            if not self._outcome.placed:
                self._behind[server.server_id] = set(expected)
                return False
            expected = {shnum: checkstring_at(heads.get(shnum, b"")) for shnum in expected}
        self._drop(server, ServerError("it says one thing when reading and another when writing"))
        return False

    async def _replace_leftovers(
        self, server: StorageServer, heads: Mapping[int, bytes], written: Mapping[int, bytes]
    ) -> bool:
        """Old shares that we had not seen get the new version too."""
        known = {shnum for server_id, shnum in self._before.shares if server_id == server.server_id}
        left = {
            shnum: checkstring_at(head)
            for shnum, head in heads.items()
            if head and shnum not in known and shnum not in written and not self._is_ours(head)
        }
        if self._partial or not left or max(left) >= self._header.n:
            return True
        return await self._write_some(server, left)

    def _record(self, server: StorageServer, shnums: Iterable[int]) -> None:
        for shnum in shnums:
            self._after.record_written(server, shnum, self._header)
            self._outcome.placed.setdefault(shnum, set()).add(server.server_id)
        self._after.answered[server.server_id] = server
        self._after.failed.pop(server.server_id, None)

    async def _request(
        self, server: StorageServer, expected: Mapping[int, bytes]
    ) -> tuple[bool, dict[int, bytes]]:
        """Success, and what all shares of the server began with before."""
        vectors = {
            shnum: TestWrite(tests=[(0, len(was) or 1, was)], writes=self._writes_of(shnum), new_length=None)
            for shnum, was in expected.items()
        }
        success, data = await server.read_test_write(
            self._target.storage_index, self._target.enabler(), vectors, [(0, _CHECKED)]
        )
        return success, {shnum: values[0] for shnum, values in data.items()}

    def _expected(self, server_id: str, shnum: int) -> bytes:
        share = self._before.shares.get((server_id, shnum))
        return b"" if share is None else share.checkstring

    def _is_ours(self, head: bytes) -> bool:
        return checkstring_at(head) == self._header.checkstring

    def _has_rival(self, server: StorageServer, heads: Mapping[int, bytes]) -> bool:
        """Whether a server holds a version that may be what somebody else is writing right now.

        That is one newer than the base where we did not see it, even if we saw it elsewhere, and one as
        old as the base that we saw nowhere.
        """
        for shnum, head in heads.items():
            now = checkstring_at(head)
            if not head or self._is_ours(head) or now == self._expected(server.server_id, shnum):
                continue
            seqnum = int.from_bytes(now[1:9], "big")
            if seqnum > self._base_seqnum or (seqnum == self._base_seqnum and now not in self._seen):
                return True
        return False

    def _drop(self, server: StorageServer, error: ServerError) -> None:
        log.info("a new version does not go to %s: %s", server.name, error)
        self._outcome.refused[server.server_id] = str(error)
        for place in [place for place in self._after.shares if place[0] == server.server_id]:
            del self._after.shares[place]
        for shnum, homes in list(self._outcome.placed.items()):
            homes.discard(server.server_id)
            if not homes:
                del self._outcome.placed[shnum]
        self._after.record_failure(server)
