"""Bytes -> the next version of a mutable file on the servers (formats.md 6.5).

One request per server carries all its shares, each under the condition that the share is what the map
says. The first server in permuted order is the *arbiter*: it is written before the others, which are then
written all at once. Of two writers that start from the same version one fails at the arbiter before it
touched anything else, so they do not tear a version apart between them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from lafsfs.errors import NotEnoughServersError, ServerError, ServerRefusedError, UncoordinatedWriteError
from lafsfs.formats import mutable_share
from lafsfs.formats.mutable import Header
from lafsfs.gbs.messages import TestWrite
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.encoding import Write
from lafsfs.transfer.servermap import ServerMap
from lafsfs.transfer.survey import Target

log = logging.getLogger(__name__)

_CHECKED = 57  # bytes read back of each share: the longer one of the two checkstrings
_MAX_REQUEST = 32 << 20
_LARGE = 2 << 20
_LARGE_AT_ONCE = 2

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
    they make a share only on top of the version in the map: then shares get no new homes.
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
    ) -> None:
        self._grid, self._target = grid, target
        self._before = servermap
        self._after = servermap.copy()
        self._header = header
        self._writes_of = writes_of
        self._per_request = max(1, _MAX_REQUEST // max(1, share_size))
        self._partial = partial
        self._outcome = _Outcome()
        self._alive = [
            s for s in grid.for_upload(target.storage_index) if s.server_id not in servermap.failed
        ]
        self._servers = {server.server_id: server for server in self._alive}
        self._servers.update({share.server.server_id: share.server for share in servermap.shares.values()})
        at_once = _LARGE_AT_ONCE if share_size > _LARGE else 64
        self._limit = trio.CapacityLimiter(at_once)

    async def run(self) -> ServerMap:
        """Write everything; the map afterwards.

        UncoordinatedWriteError: a server holds something that the map did not say (others may have been
        written). NotEnoughServersError: fewer than k different shares could be placed.
        """
        goal = self._known_places()
        if not self._partial:
            self._find_homes(goal)
        arbiter = next((s for s in self._arbiters() if s.server_id in goal), None)
        while arbiter is not None and not self._outcome.placed and not self._outcome.collision:
            await self._write_server(arbiter, goal.pop(arbiter.server_id))
            arbiter = next((s for s in self._arbiters() if s.server_id in goal), None)
        while goal and not self._outcome.collision:
            async with trio.open_nursery() as nursery:
                for server_id, shnums in goal.items():
                    nursery.start_soon(self._write_server, self._servers[server_id], shnums)
            goal = {}
            if not self._partial:
                self._find_homes(goal)
        return self._result()

    def _result(self) -> ServerMap:
        if self._outcome.collision:
            raise UncoordinatedWriteError("somebody else wrote the file at the same time")
        k = self._header.k
        if len(self._outcome.placed) < k:
            raise NotEnoughServersError(
                f"only {len(self._outcome.placed)} of {k} shares needed could be written"
            )
        return self._after

    # --- where shares go -----------------------------------------------------------------------------

    def _arbiters(self) -> list[StorageServer]:
        """Candidates for the first write, in an order that all writers agree on."""
        order = [s for s in self._grid.permuted(self._target.storage_index) if s.server_id in self._servers]
        return [s for s in order if s.server_id not in self._outcome.refused]

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

    async def _write_server(self, server: StorageServer, shnums: set[int]) -> None:
        ordered = sorted(shnums)
        for at in range(0, len(ordered), self._per_request):
            async with self._limit:
                if not await self._write_some(server, ordered[at : at + self._per_request]):
                    return

    async def _write_some(self, server: StorageServer, shnums: Sequence[int]) -> bool:
        """One request, repeated once when its answer was lost; whether to go on with this server."""
        vectors = {shnum: self._vector(server.server_id, shnum) for shnum in shnums}
        for last_try in (False, True):
            try:
                success, data = await self._request(server, vectors)
                break
            except ServerError as error:
                refused = isinstance(error, ServerRefusedError) and error.status < 500
                if last_try or refused or server.health.quarantined:
                    self._drop(server, error)
                    return False
        heads = {shnum: values[0] for shnum, values in data.items()}
        ours = self._header.checkstring
        mine = {shnum: heads.get(shnum, b"")[: len(ours)] == ours for shnum in shnums}
        # After a lost answer the tests of the repetition fail because the first request was carried out.
        if not success and not all(mine.values()):
            self._outcome.collision = True
            return False
        if self._surprises(server, heads, set(shnums)):
            self._outcome.collision = True
            return False
        for shnum in shnums:
            self._after.record_written(server, shnum, self._header)
            self._outcome.placed.setdefault(shnum, set()).add(server.server_id)
        self._after.answered[server.server_id] = server
        return True

    async def _request(
        self, server: StorageServer, vectors: Mapping[int, TestWrite]
    ) -> tuple[bool, dict[int, list[bytes]]]:
        return await server.read_test_write(
            self._target.storage_index, self._target.enabler(), vectors, [(0, _CHECKED)]
        )

    def _vector(self, server_id: str, shnum: int) -> TestWrite:
        share = self._before.shares.get((server_id, shnum))
        if share is None:
            test = (0, 1, b"")
        else:
            test = (0, len(share.checkstring), share.checkstring)
        return TestWrite(tests=[test], writes=self._writes_of(shnum), new_length=None)

    def _surprises(self, server: StorageServer, heads: Mapping[int, bytes], written: set[int]) -> bool:
        """Whether the server holds a share that we neither knew nor wrote and that is not of our version."""
        for shnum, head in heads.items():
            if shnum in written or not head:
                continue
            known = self._before.shares.get((server.server_id, shnum))
            now = mutable_share.checkstring_at(head)
            if now != self._header.checkstring and (known is None or known.checkstring != now):
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
