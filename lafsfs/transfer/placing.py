"""Finding homes for the shares of a new immutable file (formats.md 8.3, 8.4).

Few requests: the first n servers are asked at once to allocate one share each, and their answers tell what
they hold; only the other candidates are asked what they have. On a healthy grid that is one round trip. Small shares
travel with the question to servers that take them so, and are at home with the answer.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

import trio

from lafsfs.errors import NotEnoughServersError, ServerError
from lafsfs.formats.hashing import Buffer
from lafsfs.gbs.messages import Allocated
from lafsfs.grid.placement import happiness_by_server, plan
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.concurrent import together

log = logging.getLogger(__name__)

_ABORT_SECONDS = 5.0
_LOOK_SECONDS = 2.0

Missing = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class NewFile:
    """What servers are told of a file before its shares come. `header` is how every share of it begins.

    `whole` are its shares, by number, if they are so small that they may be sent without asking first.
    """

    storage_index: bytes = field(repr=False)
    n: int
    share_size: int
    upload_secret: bytes = field(repr=False)
    header: bytes = field(repr=False)
    whole: Mapping[int, Buffer] = field(default_factory=dict, repr=False)


@dataclass
class Homes:
    """Who holds what. `open` are the shares to be written, with the ranges of them that are missing."""

    held: dict[StorageServer, set[int]] = field(default_factory=dict)
    open: dict[StorageServer, dict[int, Missing]] = field(default_factory=dict)

    def holdings(self) -> dict[StorageServer, set[int]]:
        """Shares by server, those to be written included."""
        servers = [*self.held, *(server for server in self.open if server not in self.held)]
        return {server: self.held.get(server, set()) | set(self.open.get(server, ())) for server in servers}

    def happiness(self) -> int:
        """Servers-of-happiness when all that is open will have been written."""
        return happiness_by_server(self.holdings())

    def shares(self) -> set[int]:
        """All share numbers that are held or to be written."""
        return set().union(*self.holdings().values())


async def find_homes(
    grid: Grid,
    file: NewFile,
    happy: int,
    preferred: Mapping[str, Iterable[int]] | None = None,
    *,
    resumable: bool = False,
) -> Homes:
    """Allocate shares so that `happy` can be reached. `preferred` is an earlier placement by server id.

    NotEnoughServersError when it cannot; nothing is left allocated then, unless it is `resumable`.
    """
    placing = _Placing(grid, file)
    try:
        await placing.run(preferred or {}, happy)
        found = placing.homes.happiness()
        if found < happy or not placing.homes.shares():
            raise NotEnoughServersError(
                f"shares could be placed on {found} servers only, {happy} are wanted{placing.reasons()}"
            )
    except BaseException:
        if not resumable:
            await give_up(placing.homes, file)
        raise
    await _drop_spare(placing.homes, file)
    return placing.homes


async def give_up(homes: Homes, file: NewFile) -> None:
    """Abort whatever is open, even when cancelled; servers that do not listen forget it by themselves."""
    pairs = [(server, shnum) for server, shares in homes.open.items() for shnum in shares]
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _ABORT_SECONDS):
        async with trio.open_nursery() as nursery:
            for server, shnum in pairs:
                nursery.start_soon(_abort, server, file, shnum)


async def _abort(server: StorageServer, file: NewFile, shnum: int) -> None:
    try:
        await server.abort(file.storage_index, shnum, file.upload_secret)
    except ServerError as error:
        log.info("an upload could not be given up: %s", error)


async def _drop_spare(homes: Homes, file: NewFile) -> None:
    """Abort shares that turned out to exist elsewhere and add nothing to happiness."""
    spare = Homes()
    wanted = homes.happiness()
    for server, shares in list(homes.open.items()):
        for shnum in sorted(shares):
            elsewhere = any(shnum in held for other, held in homes.holdings().items() if other is not server)
            if not elsewhere:
                continue
            missing = shares.pop(shnum)
            if homes.happiness() < wanted:
                shares[shnum] = missing
            else:
                spare.open.setdefault(server, {})[shnum] = missing
        if not shares:
            del homes.open[server]
    if spare.open:
        await give_up(spare, file)


class _Placing:
    """The state of one search for homes."""

    def __init__(self, grid: Grid, file: NewFile) -> None:
        self.homes = Homes()
        self._file = file
        self._candidates = grid.for_upload(file.storage_index)[: 2 * file.n]
        self._full: set[StorageServer] = {s for s in self._candidates if _too_small(s, file.share_size)}
        self._asked: set[StorageServer] = set()
        self._leased: set[StorageServer] = set()
        self._failures: list[str] = []
        self._resuming = False

    def reasons(self) -> str:
        """What went wrong with servers, for people."""
        return "".join(f"; {text}" for text in self._failures[:3])

    async def run(self, preferred: Mapping[str, Iterable[int]], happy: int) -> None:
        """Allocate, and plan again while servers refuse and others may take their part."""
        requests = self._resumed(preferred)
        self._resuming = bool(requests)
        requests = requests or self._planned()
        best = -1
        while requests:
            allocating = [partial(self._allocate, server, shares) for server, shares in requests.items()]
            others = [s for s in self._candidates if s not in requests and s not in self._asked]
            if others:
                async with trio.open_nursery() as looking:
                    for server in others:
                        if not server.health.quarantined:
                            looking.start_soon(self._look, server)
                    await together(*allocating)
                    # What others hold only saves work: it is not worth waiting for a server that is slow.
                    looking.cancel_scope.deadline = trio.current_time() + _LOOK_SECONDS
            else:
                await together(*allocating)
            reached = self.homes.happiness()
            complete = len(self.homes.shares()) == self._file.n
            if complete and (reached >= happy or reached <= best):
                break
            best = max(best, reached)
            self._resuming = False
            requests = self._planned()
        await self._renew()

    def _writable(self) -> list[StorageServer]:
        return [s for s in self._candidates if s not in self._full]

    def _planned(self) -> dict[StorageServer, frozenset[int]]:
        """What to allocate beside what is held and allocated already."""
        return dict(plan(self._file.n, self._writable(), self.homes.holdings()).uploads)

    def _resumed(self, preferred: Mapping[str, Iterable[int]]) -> dict[StorageServer, frozenset[int]]:
        servers = {server.server_id: server for server in self._writable()}
        return {
            servers[server_id]: frozenset(shares)
            for server_id, shares in preferred.items()
            if server_id in servers and shares
        }

    async def _allocate(self, server: StorageServer, shares: frozenset[int]) -> None:
        file = self._file
        self._asked.add(server)
        try:
            answer = await self._put(server, shares) or await server.allocate(
                file.storage_index, shares, file.share_size, file.upload_secret
            )
            self._leased.add(server)
            self._holds(server, answer.already_have)
            fresh = frozenset() if self._resuming else answer.allocated & shares
            self._opens(server, dict.fromkeys(fresh, ((0, file.share_size),)))
            for shnum in sorted(shares - answer.already_have - fresh):
                await self._join(server, shnum)
        except ServerError as error:
            self._failed(server, error)

    async def _put(self, server: StorageServer, shares: frozenset[int]) -> Allocated | None:
        """Send whole shares instead of allocating them; None if they are too large, or too many, for the server."""
        file = self._file
        if not file.whole or len(shares) * file.share_size > server.takes_whole:
            return None
        whole = {shnum: file.whole[shnum] for shnum in shares}
        return await server.put_shares(file.storage_index, whole)

    async def _join(self, server: StorageServer, shnum: int) -> None:
        """Find out what is missing of a share that is in progress, if it is our own upload.

        Our upload secret for a file is always the same, so that this also works after a crash.
        """
        file = self._file
        try:
            progress = await server.write_share(
                file.storage_index, shnum, file.upload_secret, 0, file.header, file.share_size
            )
        except ServerError as error:
            log.debug("%s refuses share %d: %s", server.name, shnum, error)
            self._full.add(server)
        else:
            self._opens(server, {shnum: progress.missing})

    async def _look(self, server: StorageServer) -> None:
        self._asked.add(server)
        try:
            self._holds(server, await server.immutable_shares(self._file.storage_index))
        except ServerError as error:
            self._failed(server, error)

    def _holds(self, server: StorageServer, shares: Iterable[int]) -> None:
        found = {shnum for shnum in shares if shnum < self._file.n}
        if found:
            self.homes.held.setdefault(server, set()).update(found)

    def _opens(self, server: StorageServer, shares: Mapping[int, Missing]) -> None:
        if shares:
            self.homes.open.setdefault(server, {}).update(shares)

    def _failed(self, server: StorageServer, error: Exception) -> None:
        log.info("no shares go to %s: %s", server.name, error)
        self._failures.append(str(error))
        self._full.add(server)
        self._candidates.remove(server)
        self.homes.held.pop(server, None)
        self.homes.open.pop(server, None)

    async def _renew(self) -> None:
        """Leases on shares that were found without allocating anything there."""
        index = self._file.storage_index
        found = [server for server in self.homes.held if server not in self._leased]
        if found:
            await together(*(partial(_renew, server, index) for server in found))


async def _renew(server: StorageServer, storage_index: bytes) -> None:
    try:
        await server.add_lease(storage_index)
    except ServerError as error:
        log.info("a lease was not renewed: %s", error)


def _too_small(server: StorageServer, share_size: int) -> bool:
    """Whether the server says that it takes no share of this size (read-only servers say 0)."""
    version = server.known_version
    return version is not None and version.max_immutable < share_size
