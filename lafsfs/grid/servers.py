"""The servers of a grid: which there are, in what order, how they do (formats.md 8.1, 8.2, 10.5)."""

from __future__ import annotations

import datetime
import functools
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import trio

from lafsfs.config import ClientSecrets, Encoding, GridProfile
from lafsfs.errors import NotEnoughServersError
from lafsfs.formats.keys import LeaseSecrets
from lafsfs.grid.exchange import Timeouts
from lafsfs.grid.managers import may_receive_shares
from lafsfs.grid.server import StorageServer

log = logging.getLogger(__name__)

_PARALLEL_PROBES: Final = 16


@dataclass(frozen=True)
class ServerStatus:
    """A server as people see it. Times in seconds, `quarantined_until` as time of day, `space` in bytes free.

    `reachable` is None for a server that was never tried.
    """

    name: str
    server_id: str
    address: str
    reachable: bool | None
    latency: float | None
    throughput: float | None
    failures: int
    quarantined_until: float | None
    space: int | None
    last_error: str


class Grid:
    """All servers of a profile. To be entered (`async with`) before use; closes every connection on leaving.

    Asks all servers for their version at once when entered, in the background, so that dead ones are known
    before they are needed; asks quarantined ones again until they answer.
    """

    def __init__(
        self, profile: GridProfile, secrets: ClientSecrets, *, timeouts: Timeouts | None = None
    ) -> None:
        self.profile = profile
        self.secrets = secrets
        self.encoding: Encoding = profile.encoding
        leases = LeaseSecrets(secrets.lease)
        self.servers = tuple(StorageServer(entry, leases, timeouts) for entry in profile.servers)
        self._preferred = frozenset(profile.preferred)
        self._probes = trio.CapacityLimiter(_PARALLEL_PROBES)
        self._reviving: set[StorageServer] = set()
        self._manager = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        self._nursery = await self._manager.__aenter__()
        for server in self.servers:
            server.health.on_quarantine = functools.partial(self._start_reviving, server)
            self._nursery.start_soon(self._probe, server)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._nursery is not None
        nursery, self._nursery = self._nursery, None
        nursery.cancel_scope.cancel()
        try:
            # The body's exception is not the nursery's affair: it goes on as it is, not in a group.
            await self._manager.__aexit__(None, None, None)
        finally:
            for server in self.servers:
                await server.aclose()

    # --- order ---------------------------------------------------------------------------------------

    def permuted(self, storage_index: bytes) -> list[StorageServer]:
        """All servers in the order in which they are asked about a storage index, quarantined ones last."""

        def position(server: StorageServer) -> tuple[bool, bool, bytes]:
            seed = server.entry.permutation_seed
            preferred = server.server_id in self._preferred
            return server.health.quarantined, not preferred, permuted_position(storage_index, seed)

        return sorted(self.servers, key=position)

    def for_upload(self, storage_index: bytes) -> list[StorageServer]:
        """`permuted` without the servers that the grid managers do not allow to receive shares."""
        keys = self.profile.grid_manager_keys
        now = datetime.datetime.now(datetime.UTC)
        return [s for s in self.permuted(storage_index) if may_receive_shares(s.entry, keys, now)]

    def start_soon(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run something in the background, until it ends or the grid is closed. It may raise nothing."""
        if self._nursery is None:
            raise NotEnoughServersError("the grid is closed")
        self._nursery.start_soon(work, *arguments)

    # --- health --------------------------------------------------------------------------------------

    async def _probe(self, server: StorageServer) -> None:
        async with self._probes:
            await server.probe()

    def _start_reviving(self, server: StorageServer) -> None:
        if self._nursery is not None and server not in self._reviving:
            log.warning("%s is put aside: %s", server.name, server.health.last_error)
            self._reviving.add(server)
            self._nursery.start_soon(self._revive, server)

    async def _revive(self, server: StorageServer) -> None:
        """Ask a quarantined server again, at ever longer intervals, until it answers."""
        while (until := server.health.quarantined_until) is not None:
            await trio.sleep_until(until)
            if server.health.quarantined:
                await self._probe(server)
        self._reviving.remove(server)
        log.warning("%s answers again", server.name)

    async def poll(self) -> None:
        """Ask all servers for their version, so that `status` is fresh: a few seconds at most."""
        async with trio.open_nursery() as nursery:
            for server in self.servers:
                nursery.start_soon(self._probe, server)

    def status(self) -> list[ServerStatus]:
        """What is known now of every server, in the order of the profile. Never waits."""
        return [_status_of(server) for server in self.servers]


def permuted_position(storage_index: bytes, permutation_seed: bytes) -> bytes:
    """Where a server stands for a storage index: ascending positions are the order (formats.md section 2)."""
    return hashlib.sha1(storage_index + permutation_seed).digest()


def _status_of(server: StorageServer) -> ServerStatus:
    health = server.health
    tried = health.answered or health.total_failures
    until = health.quarantined_until
    nurl = server.entry.nurls[0]
    return ServerStatus(
        server.name,
        server.server_id,
        f"{nurl.host}:{nurl.port}",
        (health.answered and not health.quarantined) if tried else None,
        health.latency,
        health.throughput,
        health.failures,
        None if until is None else time.time() + until - trio.current_time(),
        server.known_version.available if server.known_version else None,
        health.last_error,
    )
