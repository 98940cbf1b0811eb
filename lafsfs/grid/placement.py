"""Who gets which share: servers-of-happiness and the upload plan (formats.md 8.3 and 8.4). Pure.

A layout is a bipartite graph between servers and share numbers. Its happiness is the size of a maximum
matching: how many servers can each be counted on for a share of their own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True)
class Plan(Generic[S]):
    """A placement of the shares 0 … n−1.

    `servers` names for every share number the server that holds it or is to receive it; a share that nobody
    can take is absent. `uploads` are the shares to be sent, by server; servers that receive none are absent.
    `happiness` is that of the existing shares and the uploads together, the highest that can be reached.
    """

    servers: Mapping[int, S]
    uploads: Mapping[S, frozenset[int]]
    happiness: int


class _Matching(Generic[S]):
    """A matching of servers with shares that only ever grows: a matched server or share stays matched."""

    def __init__(self) -> None:
        self.share_of: dict[S, int] = {}
        self.server_of: dict[int, S] = {}

    def augment(self, server: S, edges: Mapping[S, Collection[int]]) -> bool:
        """Match the unmatched `server`, moving others along an augmenting path (breadth first) if needed."""
        came_from: dict[int, S] = {}
        queue = deque([server])
        while queue:
            current = queue.popleft()
            for share in edges.get(current, ()):
                if share in came_from:
                    continue
                came_from[share] = current
                holder = self.server_of.get(share)
                if holder is None:
                    self._flip(share, came_from)
                    return True
                queue.append(holder)
        return False

    def _flip(self, share: int, came_from: Mapping[int, S]) -> None:
        while True:
            server = came_from[share]
            previous = self.share_of.get(server)
            self.share_of[server] = share
            self.server_of[share] = server
            if previous is None:
                return
            share = previous

    def extend(self, servers: Iterable[S], edges: Mapping[S, Collection[int]]) -> None:
        """Augment with every still unmatched one of `servers`, in their order."""
        for server in servers:
            if server not in self.share_of:
                self.augment(server, edges)


def happiness(layout: Mapping[int, Collection[S]]) -> int:
    """Servers-of-happiness of {share number: servers that hold it}."""
    edges: dict[S, list[int]] = {}
    for share, servers in layout.items():
        for server in servers:
            edges.setdefault(server, []).append(share)
    matching: _Matching[S] = _Matching()
    matching.extend(edges, edges)
    return len(matching.share_of)


def happiness_by_server(holdings: Mapping[S, Collection[int]]) -> int:
    """Servers-of-happiness of {server: shares it holds}."""
    matching: _Matching[S] = _Matching()
    matching.extend(holdings, holdings)
    return len(matching.share_of)


def plan(
    n: int,
    writable: Sequence[S],
    existing: Mapping[S, Collection[int]],
    *,
    shares: Iterable[int] | None = None,
) -> Plan[S]:
    """Place the shares 0 … n−1, or only `shares`, with the highest possible happiness and few uploads.

    `writable` are the servers that may receive shares, best first; `existing` tells what any server, writable
    or not, holds already. Servers that hold shares but are not in `writable` receive nothing.

    The matching starts with read-only servers (they cannot be given anything else), then writable ones with
    what they hold, and then lets any writable server take any share. As augmenting never unmatches anybody,
    the result is a maximum matching of all that is possible. The shares left over stay where they are, or go
    to the writable server with the fewest shares.
    """
    wanted = list(range(n)) if shares is None else sorted(set(shares))
    chosen = set(wanted)
    held = {server: sorted(chosen.intersection(have)) for server, have in existing.items()}
    can_write = set(writable)
    # What a server holds comes first among its edges, so that augmenting prefers it to an upload.
    possible: dict[S, list[int]] = {}
    for server in writable:
        have = held.get(server, [])
        possible[server] = [*have, *sorted(chosen.difference(have))]
    possible.update({server: have for server, have in held.items() if server not in can_write})
    matching: _Matching[S] = _Matching()
    matching.extend((server for server in held if server not in can_write), held)
    matching.extend((server for server in writable if server in held), held)
    matching.extend(writable, possible)
    servers = dict(matching.server_of)
    _place_leftovers(servers, wanted, writable, held)
    uploads: dict[S, set[int]] = {}
    for share, server in servers.items():
        if share not in held.get(server, ()):
            uploads.setdefault(server, set()).add(share)
    return Plan(
        dict(sorted(servers.items())),
        {server: frozenset(numbers) for server, numbers in uploads.items()},
        len(matching.share_of),
    )


def _place_leftovers(
    servers: dict[int, S], wanted: Iterable[int], writable: Sequence[S], held: Mapping[S, Collection[int]]
) -> None:
    load = {server: len(held.get(server, ())) for server in writable}
    for share, server in servers.items():
        if server in load and share not in held.get(server, ()):
            load[server] += 1
    for share in wanted:
        if share in servers:
            continue
        holder = next((server for server, have in held.items() if share in have), None)
        if holder is None and load:
            holder = min(load, key=load.__getitem__)
            load[holder] += 1
        if holder is not None:
            servers[share] = holder
