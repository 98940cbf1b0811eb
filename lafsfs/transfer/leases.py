"""Keeping what we need alive: leases last 31 days, and servers may delete what nobody leases
(formats.md 5.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import trio

from lafsfs.errors import ServerError
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid

_AT_ONCE = 8


@dataclass(frozen=True)
class RenewResult:
    """What a renewal did. `renewed`: storage indexes with a fresh lease on at least one server.

    `lost`: all servers answered and none has a share. `unknown`: no server that answered has a share, but
    some did not answer. `failures`: requests that failed, by server name.
    """

    renewed: frozenset[bytes]
    lost: frozenset[bytes]
    unknown: frozenset[bytes]
    failures: dict[str, int]


async def renew(grid: Grid, storage_indexes: Iterable[bytes]) -> RenewResult:
    """Renew, or add, our lease on every share of the given storage indexes, on every server.

    A server that failed three times in a row is left out of the rest. Never raises for what servers do.
    """
    wanted = frozenset(storage_indexes)
    holders: dict[bytes, int] = dict.fromkeys(wanted, 0)
    silent: dict[bytes, int] = dict.fromkeys(wanted, 0)
    failures: dict[str, int] = {}

    async def renew_on(server: StorageServer) -> None:
        in_a_row = 0
        for storage_index in sorted(wanted):
            if in_a_row >= 3:
                silent[storage_index] += 1
                continue
            try:
                has_shares = await server.add_lease(storage_index)
                holders[storage_index] += has_shares
                in_a_row = 0
            except ServerError:
                silent[storage_index] += 1
                failures[server.name] = failures.get(server.name, 0) + 1
                in_a_row += 1

    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def limited(server: StorageServer) -> None:
        async with limiter:
            await renew_on(server)

    async with trio.open_nursery() as nursery:
        for server in grid.servers:
            nursery.start_soon(limited, server)
    without = {storage_index for storage_index, count in holders.items() if not count}
    unknown = frozenset(storage_index for storage_index in without if silent[storage_index])
    return RenewResult(wanted - without, frozenset(without) - unknown, unknown, failures)
