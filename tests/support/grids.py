"""Grids of real `lafs-storage` processes, as a client sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from lafsfs.cache.segments import SegmentCache
from lafsfs.config import ClientSecrets, Encoding, GridProfile, ServerEntry
from lafsfs.errors import ServerRefusedError, ServerUnreachableError
from lafsfs.formats import base32
from lafsfs.grid.exchange import Timeouts
from lafsfs.grid.servers import Grid
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.keypool import KeyPool
from tests.support.keys import PairedKeys
from tests.support.storage import StorageServer

SECRETS = ClientSecrets(convergence=bytes(range(32)), lease=bytes(range(32, 64)))
QUICK = Timeouts(connect=2, progress=2, commit=2, pool=4, request=4)


def entry_of(server: StorageServer) -> ServerEntry:
    """The server as configuration names it."""
    return ServerEntry(
        server.server_id, (server.nurl,), server.furl, server.permutation_seed, server.directory.name
    )


@asynccontextmanager
async def client(
    servers: Sequence[StorageServer],
    encoding: Encoding,
    *,
    cache: Path | None = None,
    keypool: KeyPool | None = None,
    timeouts: Timeouts | None = None,
) -> AsyncIterator[NodeMaker]:
    """A client of these servers, with nothing remembered from before."""
    profile = GridProfile(servers=tuple(map(entry_of, servers)), encoding=encoding)
    segments = SegmentCache(cache, 64 << 20) if cache is not None else None
    async with Grid(profile, SECRETS, timeouts=timeouts) as grid:
        yield NodeMaker(grid, segments, keypool or PairedKeys())


@dataclass
class Traffic:
    """What a client asked of the servers while `counting` it: calls by server and verb, bytes both ways."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def verbs(self) -> Counter[str]:
        """Calls by verb."""
        total: Counter[str] = Counter()
        for (_, verb), count in self.calls.items():
            total[verb] += count
        return total


@asynccontextmanager
async def counting(grid: Grid) -> AsyncIterator[Traffic]:
    """Watch the calls to the servers of a grid. The calls themselves are the real ones."""
    traffic = Traffic()
    verbs = ("mutable_shares", "read_mutable", "read_test_write")
    for server in grid.servers:
        for verb in verbs:
            setattr(server, verb, _watched(traffic, server.name, verb, getattr(server, verb)))
    try:
        yield traffic
    finally:
        for server in grid.servers:
            for verb in verbs:
                delattr(server, verb)


def _watched(
    traffic: Traffic, name: str, verb: str, call: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    async def watched(*arguments: Any) -> Any:
        traffic.calls[name, verb] += 1
        if verb == "read_test_write":
            traffic.sent += sum(len(data) for v in arguments[2].values() for _, data in v.writes)
        answer = await call(*arguments)
        if verb == "read_mutable":
            traffic.received[name] += len(answer)
        elif verb == "read_test_write":
            traffic.received[name] += sum(len(value) for values in answer[1].values() for value in values)
        return answer

    return watched


@asynccontextmanager
async def failing(grid: Grid, share: float, randomness: Random) -> AsyncIterator[None]:
    """Let a share of the calls to the servers fail, before they are sent or after they were answered."""
    verbs = (
        *("mutable_shares", "read_mutable", "read_test_write"),
        *("allocate", "write_share", "immutable_shares", "read_immutable"),
    )
    for server in grid.servers:
        for verb in verbs:
            setattr(server, verb, _unreliable(getattr(server, verb), share, randomness))
    try:
        yield
    finally:
        for server in grid.servers:
            for verb in verbs:
                delattr(server, verb)


def _unreliable(
    call: Callable[..., Awaitable[Any]], share: float, randomness: Random
) -> Callable[..., Awaitable[Any]]:
    async def unreliable(*arguments: Any, **options: Any) -> Any:
        if randomness.random() < share / 2:
            raise ServerUnreachableError("the request was dropped")
        answer = await call(*arguments, **options)
        if randomness.random() < share / 2:
            raise ServerRefusedError("the answer was lost", 502)
        return answer

    return unreliable


def share_files(server: StorageServer, storage_index: bytes) -> dict[int, Path]:
    """The containers of a storage index on a server's disk."""
    name = base32.encode(storage_index)
    directory = server.storage_dir / "shares" / name[:2] / name
    return {int(path.name): path for path in directory.iterdir()} if directory.is_dir() else {}


MUTABLE_DATA = 468
"""Where the share begins in a mutable container."""


def flip(path: Path, offset: int, mask: int = 1) -> None:
    """Damage one byte of a mutable share, in place."""
    with path.open("r+b") as file:
        file.seek(MUTABLE_DATA + offset)
        (byte,) = file.read(1)
        file.seek(MUTABLE_DATA + offset)
        file.write(bytes([byte ^ mask]))
