"""Asking servers about a mutable file: fills a ServerMap (formats.md 6.6).

Servers are asked in permuted order, several at once. Reading ends as soon as enough answered; one that
stalls is not waited for but replaced. With the write cap a server tells everything in one round trip (a
read-test-write that writes nothing); without it the list of shares and the share most likely there are
asked for at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

import trio

from lafsfs.errors import ServerError, ServerRefusedError, ServerTimeoutError
from lafsfs.formats import caps, keys
from lafsfs.formats.mutable import Header
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.servermap import ServerMap, Share

READ_HEAD = 4000
"""Bytes of each share that a survey reads: header, keys, signature, and a whole small share."""
LIGHT_HEAD = 123
"""Bytes of the headers of both layouts: enough to know a version again."""

QUERY_DEADLINE = 20.0
_ADVICE_DEADLINE = 3.0
_ASSUMED_K, _ASSUMED_N = 3, 10
_HEDGE = 0.4  # without news for so long, ask one more server
_READ_GRACE = 0.25  # a readable version is there: wait so long for others to say more
_WRITE_GRACE = 1.5  # a writer wants to know all shares, but not at any price
_IN_FLIGHT = 5  # while nothing readable was found


class Mode(Enum):
    """How much has to be known."""

    READ = "read"
    WRITE = "write"
    ALL = "all"


@dataclass(frozen=True)
class Target:
    """The file that is asked about: its cap, and the write key if we have it."""

    storage_index: bytes
    fingerprint: bytes
    writekey: bytes | None

    @classmethod
    def of(cls, cap: caps.MutableWriteCap | caps.MutableReadCap | caps.MutableVerifyCap) -> Target:
        writekey = cap.writekey if isinstance(cap, caps.MutableWriteCap) else None
        return cls(cap.storage_index, cap.fingerprint, writekey)

    def enabler(self) -> Callable[[bytes], bytes]:
        """Makes the write enabler for a server's seed. Only with the write key."""
        writekey = self.writekey
        assert writekey is not None
        return lambda seed20: keys.write_enabler(writekey, seed20)


async def survey(
    grid: Grid,
    target: Target,
    mode: Mode,
    *,
    head: int = READ_HEAD,
    floor: int = 0,
    known: ServerMap | None = None,
    forgiven: Collection[Header] = (),
) -> ServerMap:
    """A fresh map of the file. Never raises for what the servers say or do not say: look into the map.

    `known` is an earlier map: its verified versions are recognised, its shares asked for first.
    `forgiven` are versions that may be unrecoverable without more servers being asked.
    """
    return await _Survey(grid, target, mode, head, floor, known, forgiven).run()


async def heads_of(
    server: StorageServer, target: Target, size: int, likely: Collection[int]
) -> dict[int, bytes]:
    """The first `size` bytes of every share of the file on a server. ServerError; QUERY_DEADLINE at most."""
    with trio.move_on_after(QUERY_DEADLINE) as scope:
        if target.writekey is not None:
            try:
                vector = [(0, size)]
                _, data = await server.read_test_write(target.storage_index, target.enabler(), {}, vector)
            except ServerRefusedError as error:
                # Shares made under another identity of the server: they can be read, if not written.
                if error.status != 401:
                    raise
            else:
                return {shnum: values[0] for shnum, values in data.items()}
        return await _list_and_read(server, target.storage_index, size, likely)
    assert scope.cancelled_caught
    raise ServerTimeoutError(f"{server.name} did not answer in time")


async def _list_and_read(
    server: StorageServer, storage_index: bytes, size: int, likely: Collection[int]
) -> dict[int, bytes]:
    """The list of shares and the likely ones in one round trip, the others in a second one."""
    heads: dict[int, bytes] = {}
    listed: frozenset[int] = frozenset()
    failures: list[ServerError] = []

    async def read(shnum: int) -> None:
        try:
            heads[shnum] = await server.read_mutable(storage_index, shnum, 0, size)
        except ServerRefusedError as error:
            if error.status != 404:
                failures.append(error)
        except ServerError as error:
            failures.append(error)

    async def list_all() -> None:
        nonlocal listed
        try:
            listed = await server.mutable_shares(storage_index)
        except ServerError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(list_all)
        for shnum in likely:
            nursery.start_soon(read, shnum)
    if not failures:
        async with trio.open_nursery() as nursery:
            for shnum in listed - heads.keys():
                nursery.start_soon(read, shnum)
    if failures:
        raise failures[0]
    return {shnum: data for shnum, data in heads.items() if shnum in listed}


class _Survey:
    """One run: which servers were asked, what is still out, when it is enough."""

    def __init__(
        self,
        grid: Grid,
        target: Target,
        mode: Mode,
        head: int,
        floor: int,
        known: ServerMap | None,
        forgiven: Collection[Header],
    ) -> None:
        self._target, self._mode, self._head, self._floor = target, mode, head, floor
        self._forgiven = forgiven
        self._order = grid.permuted(target.storage_index)
        self._map = ServerMap(target.fingerprint)
        if known is not None:
            self._map.verified = set(known.verified)
        self._known = known
        self._asked = 0
        self._out: set[str] = set()
        self._started = trio.current_time()
        self._readable_since = math.inf
        self._send, self._news = trio.open_memory_channel[None](math.inf)

    async def run(self) -> ServerMap:
        async with trio.open_nursery() as nursery:
            self._ask_more(nursery, self._initial())
            while not self._finished():
                with trio.move_on_after(self._patience()) as scope:
                    await self._news.receive()
                if self._map.best() is None:
                    self._readable_since = math.inf
                elif self._readable_since == math.inf:
                    self._readable_since = trio.current_time()
                if not self._finished():
                    behind = 1 if scope.cancelled_caught else self._wanted() - len(self._out)
                    self._ask_more(nursery, max(0, behind))
            nursery.cancel_scope.cancel()
        for server in self._order[: self._asked]:
            if server.server_id not in self._map.answered:
                self._map.record_failure(server)
        self._map.complete = self._asked >= min(len(self._order), self._needed_for_writing())
        return self._map

    # --- asking --------------------------------------------------------------------------------------

    def _ask_more(self, nursery: trio.Nursery, count: int) -> None:
        for server in self._order[self._asked : self._asked + count]:
            likely = self._likely(server, self._asked)
            self._asked += 1
            self._out.add(server.server_id)
            nursery.start_soon(self._ask, server, likely)

    def _likely(self, server: StorageServer, position: int) -> list[int]:
        known = self._known
        if known is not None and server.server_id in known.answered:
            return [shnum for server_id, shnum in known.shares if server_id == server.server_id]
        return [position]

    async def _ask(self, server: StorageServer, likely: list[int]) -> None:
        corrupt: list[Share] = []
        try:
            heads = await self._ask_twice(server, likely)
        except ServerError:
            self._map.record_failure(server)
        else:
            corrupt = self._map.record(server, heads)
            await self._verify_unknown()
        self._out.discard(server.server_id)
        self._send.send_nowait(None)
        # The servers are told even if the survey has its answer by now.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _ADVICE_DEADLINE):
            for share in corrupt:
                await server.advise_corrupt(
                    "mutable", self._target.storage_index, share.shnum, "header or signature is wrong"
                )

    async def _ask_twice(self, server: StorageServer, likely: list[int]) -> dict[int, bytes]:
        """One failure is forgiven: a share that is not seen is not kept up to date."""
        try:
            return await heads_of(server, self._target, self._head, likely)
        except ServerError as error:
            if isinstance(error, ServerTimeoutError) or server.health.quarantined:
                raise
        return await heads_of(server, self._target, self._head, likely)

    async def _verify_unknown(self) -> None:
        """Fetch the signature of versions of which only the header was read. A server that does not give it counts as
        one that did not answer: that its version is not known must not look like an older one being the newest.
        """
        for header, share in self._map.unverified().items():
            try:
                head = await share.server.read_mutable(self._target.storage_index, share.shnum, 0, READ_HEAD)
            except ServerError:
                self._map.record_failure(share.server)
                continue
            fresh = ServerMap(self._target.fingerprint)
            fresh.record(share.server, {share.shnum: head})
            if header in fresh.verified:
                self._map.verified.add(header)
            else:
                self._map.mark_corrupt(share.server.server_id, share.shnum)

    # --- when it is enough ---------------------------------------------------------------------------

    def _k_and_n(self) -> tuple[int, int]:
        best = self._map.best()
        return (best.k, best.n) if best is not None else (_ASSUMED_K, _ASSUMED_N)

    def _needed_for_writing(self) -> int:
        """Servers to ask so that k in a row without shares follow the last one with shares."""
        k, n = self._k_and_n()
        last = max(
            (i for i, server in enumerate(self._order[: self._asked]) if self._has_shares(server)), default=-1
        )
        return max(n + k, last + 1 + k)

    def _has_shares(self, server: StorageServer) -> bool:
        return any(server_id == server.server_id for server_id, _ in self._map.shares)

    def _initial(self) -> int:
        if self._mode is Mode.ALL:
            return len(self._order)
        known = self._known.best() if self._known is not None else None
        k, n = (known.k, known.n) if known is not None else (_ASSUMED_K, _ASSUMED_N)
        return n + k if self._mode is Mode.WRITE else 2 * k

    def _wanted(self) -> int:
        """How many servers should be at work now."""
        if self._mode is Mode.WRITE and self._asked < self._needed_for_writing():
            return len(self._out) + self._needed_for_writing() - self._asked
        return 0 if self._content() else _IN_FLIGHT

    def _patience(self) -> float:
        """Seconds to wait for news before doing something else."""
        readable = self._readable_since < math.inf
        left = self._readable_since + self._grace() - trio.current_time() if readable else math.inf
        more_to_ask = self._asked < len(self._order) and self._mode is Mode.READ
        waits = [QUERY_DEADLINE, max(0.0, left)] + ([_HEDGE] if more_to_ask else [])
        return min(waits)

    def _grace(self) -> float:
        """Seconds to wait for the others, once a version is readable: longer when that took long."""
        took = self._readable_since - self._started
        if self._mode is Mode.READ:
            return _READ_GRACE + took
        return _WRITE_GRACE + 3 * took if self._mode is Mode.WRITE else QUERY_DEADLINE

    def _content(self) -> bool:
        """Whether a reader can be content with what the map shows."""
        best = self._map.best()
        newer = [header for header in self._map.unrecoverable_newer() if header not in self._forgiven]
        return best is not None and best.seqnum >= self._floor and not newer

    def _finished(self) -> bool:
        everyone = self._asked >= len(self._order)
        if everyone and not self._out:
            return True
        if self._mode is Mode.ALL or not self._content():
            return False
        if self._readable_since < math.inf and trio.current_time() >= self._readable_since + self._grace():
            return True
        if self._mode is Mode.READ:
            return len(self._map.answered) >= 2 * self._k_and_n()[0]
        return not self._out and self._asked >= self._needed_for_writing()
