"""Uploading immutable files to real servers: placement, requests, failures, going on after a crash."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.errors import NotEnoughServersError
from lafsfs.formats import caps, keys
from lafsfs.gbs import routes
from lafsfs.grid.transport import Payload
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.encoding import BytesContents
from tests.support.grids import QUICK, SECRETS, client, share_files
from tests.support.storage import StorageServer

ONE = Encoding(1, 1, 1)
MANY = Encoding(3, 7, 10, max_segment_size=100_000)


def data_of(size: int, seed: str) -> bytes:
    return random.Random(seed).randbytes(size)


def shares_on(ten: list[StorageServer], cap: caps.ChkCap) -> dict[str, set[int]]:
    """Complete shares by server."""
    found = {server.directory.name: set(share_files(server, cap.storage_index)) for server in ten}
    return {name: shares for name, shares in found.items() if shares}


async def put(maker: NodeMaker, data: bytes, **options: Any) -> caps.ChkCap:
    cap = await maker.upload(BytesContents(data), **options)
    assert isinstance(cap, caps.ChkCap)
    return cap


@contextmanager
def requests_of(maker: NodeMaker) -> Iterator[Counter[str]]:
    """Counts the requests that really go to the servers, by method."""
    counted: Counter[str] = Counter()
    originals = [(server, server._connection.request) for server in maker._grid.servers]

    def watched(original: Any) -> Any:
        async def request(method: str, path: str, *rest: Any, **named: Any) -> Any:
            counted[method if path != "/storage/v1/version" else "version"] += 1
            body = named.get("body", b"")
            counted["bytes"] += Payload.of(body).size
            return await original(method, path, *rest, **named)

        return request

    for server, original in originals:
        server._connection.request = watched(original)  # type: ignore[method-assign]
    try:
        yield counted
    finally:
        for server, original in originals:
            server._connection.request = original  # type: ignore[method-assign]


@pytest.mark.parametrize("size", [0, 1, 55])
async def test_small_data_needs_no_server(size: int) -> None:
    async with client([], ONE) as maker:
        data = data_of(size, "literal")
        cap = await maker.upload(BytesContents(data))
        assert cap == caps.LiteralCap(data)
        assert await maker.file(cap).read(0, 100) == data


@pytest.mark.parametrize("size", [56, 1000, 99_999, 100_000, 100_001, 5_000_000])
@pytest.mark.parametrize("encoding", [ONE, MANY, Encoding(7, 1, 11, max_segment_size=65_537)], ids=str)
async def test_what_was_uploaded_is_read(size: int, encoding: Encoding, ten: list[StorageServer]) -> None:
    data = data_of(size, f"round trip {size}")
    told: list[int] = []
    async with client(ten, encoding) as maker:
        cap = await put(maker, data, progress=told.append)
        assert told[-1] == size
        assert told == sorted(told)
    found = shares_on(ten, cap)
    assert set().union(*found.values()) == set(range(encoding.n))
    assert sum(map(len, found.values())) == encoding.n
    async with client(ten, encoding) as maker:
        node = maker.file(cap)
        assert node.size == size
        assert await node.read(0, size + 5) == data
        assert await node.read(size - 3, 10) == data[-3:]
        assert await node.read(size, 10) == b""


async def told_what_they_take(maker: NodeMaker) -> None:
    for server in maker._grid.servers:
        await server.version()


async def test_a_small_file_costs_one_request_and_one_to_read(ten: list[StorageServer]) -> None:
    data = data_of(5000, "one request")
    async with client(ten[:1], ONE) as maker:
        await told_what_they_take(maker)
        with requests_of(maker) as counted:
            cap = await put(maker, data)
        assert (counted["PUT"], counted["POST"], counted["PATCH"], counted["GET"]) == (1, 0, 0, 0)
        with requests_of(maker) as counted:
            assert await maker.file(cap).read(0, 5000) == data
        assert (counted["PUT"], counted["GET"]) == (0, 1)
        with requests_of(
            maker
        ) as counted:  # again: the answer tells that it is there, and its lease is renewed
            assert await put(maker, data) == cap
        assert (counted["PUT"], counted["POST"], counted["PATCH"]) == (1, 0, 0)


async def test_where_whole_shares_are_not_taken_a_small_file_costs_two_requests(
    ten: list[StorageServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_unknown(*_: object) -> None:
        """What `put_shares` gives when the server does not know how any more."""

    data = data_of(5000, "two requests")
    async with client(ten[:1], ONE) as maker:
        await told_what_they_take(maker)
        (server,) = maker._grid.servers
        with monkeypatch.context() as patch:
            patch.setattr(routes, "allocate", lambda _: routes.PREFIX + "/elsewhere")
            assert await server.put_shares(bytes(16), {0: b"x"}) is None
        monkeypatch.setattr(server, "put_shares", is_unknown)
        with requests_of(maker) as counted:
            cap = await put(maker, data)
        assert (counted["PUT"], counted["POST"], counted["PATCH"]) == (0, 1, 1)
        assert await maker.file(cap).read(0, 5000) == data


@pytest.mark.parametrize("count", [1, 4, 10])
async def test_whole_shares_are_spread_like_others(count: int, ten: list[StorageServer]) -> None:
    """Few servers take several each, as far as they fit into one request."""
    data = data_of(60_000 + count, "spread whole")  # shares of 20 kB, of which a server takes six at once
    async with client(ten[:count], Encoding(3, min(7, count), 10)) as maker:
        await told_what_they_take(maker)
        with requests_of(maker) as counted:
            cap = await put(maker, data)
        assert (counted["PUT"], counted["PATCH"]) == ((0, 10) if count == 1 else (count, 0))
    async with client(ten[:count], Encoding(3, min(7, count), 10)) as maker:
        assert await maker.file(cap).read(0, len(data)) == data
    found = shares_on(ten[:count], cap)
    assert set().union(*found.values()) == set(range(10))
    assert sum(map(len, found.values())) == 10


async def test_nothing_that_exists_is_sent_again(ten: list[StorageServer]) -> None:
    data = data_of(300_000, "again")
    async with client(ten, MANY) as maker:
        cap = await put(maker, data)
        before = shares_on(ten, cap)
        with requests_of(maker) as counted:
            assert await put(maker, data) == cap
        assert "PATCH" not in counted
        assert shares_on(ten, cap) == before
        # With some of them gone, only what is missing is sent.
        victim = next(server for server in ten if share_files(server, cap.storage_index))
        (path,) = share_files(victim, cap.storage_index).values()
        path.unlink()
        assert await put(maker, data) == cap
        assert sum(map(len, shares_on(ten, cap).values())) == 10


async def test_shares_elsewhere_count(ten: list[StorageServer]) -> None:
    """Shares on servers that would not be the first choice are found and not uploaded twice."""
    two = Encoding(1, 2, 2)
    data = data_of(5000, "elsewhere")
    async with client(ten, two) as maker:
        index = (await put(maker, data)).storage_index
        order = [server.name for server in maker._grid.permuted(index)]
    first, third = (next(s for s in ten if s.directory.name == order[i]) for i in (0, 2))
    (path,) = share_files(first, index).values()
    target = third.storage_dir / path.relative_to(first.storage_dir)
    target.parent.mkdir(parents=True)
    path.rename(target)
    async with client(ten, two) as maker:
        cap = await put(maker, data)
    assert sorted(map(sorted, shares_on(ten, cap).values())) == [[0], [1]]
    assert third.directory.name in shares_on(ten, cap)


async def test_the_same_contents_at_the_same_time(ten: list[StorageServer]) -> None:
    data = data_of(400_000, "at once")
    found: list[caps.ChkCap] = []
    async with client(ten, MANY) as maker:

        async def one() -> None:
            found.append(await put(maker, data))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one)
    assert len(set(found)) == 1
    assert len(found) == 5
    assert sum(map(len, shares_on(ten, found[0]).values())) == 10


async def test_dead_servers_are_passed_over_until_there_are_too_few(ten: list[StorageServer]) -> None:
    for server in ten[:3]:
        server.kill()
    async with client(ten, MANY, timeouts=QUICK) as maker:
        found = shares_on(ten, await put(maker, data_of(250_000, "three dead")))
        assert len(found) == 7
        assert set().union(*found.values()) == set(range(10))
        ten[3].kill()
        with pytest.raises(NotEnoughServersError):
            await put(maker, data_of(250_000, "four dead"))
    assert_nothing_in_progress(ten)
    async with client([], MANY) as maker:
        with pytest.raises(NotEnoughServersError):
            await put(maker, data_of(250_000, "no servers"))


def assert_nothing_in_progress(ten: list[StorageServer]) -> None:
    for server in ten:
        incoming = server.storage_dir / "shares" / "incoming"
        if server.process is not None:
            assert [path for path in incoming.rglob("*") if path.is_file()] == []


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files in several batches, as large ones are in ordinary ones."""
    monkeypatch.setattr("lafsfs.transfer.upload._BATCH", 410_000)


class Interrupted(BytesContents):
    """Contents at whose offset something happens, in the second pass over them."""

    def __init__(self, data: bytes, offset: int, what: Any) -> None:
        super().__init__(data)
        self._at, self._what, self._passes = offset, what, 0

    async def read_into(self, offset: int, buf: memoryview) -> None:
        if offset <= self._at < offset + len(buf):
            self._passes += 1
            if self._passes == 2:
                await self._what()
        await super().read_into(offset, buf)


async def test_servers_that_die_midway_are_dropped(ten: list[StorageServer], batches: None) -> None:
    data = data_of(900_000, "die midway")

    async def kill() -> None:
        for server in ten[5:7]:
            server.kill()

    async with client(ten, MANY, timeouts=QUICK) as maker:
        cap = await maker.upload(Interrupted(data, 850_000, kill))
        assert isinstance(cap, caps.ChkCap)
        assert len(shares_on(ten, cap)) == 8
        assert await maker.file(cap).read(0, len(data)) == data


async def test_stalled_servers_are_dropped_until_too_few(ten: list[StorageServer], batches: None) -> None:
    data = data_of(900_000, "stall midway")

    async def stall() -> None:
        for server in ten[:4]:
            server.pause()

    async with client(ten, MANY, timeouts=QUICK) as maker:
        with trio.fail_after(60), pytest.raises(NotEnoughServersError):
            await maker.upload(Interrupted(data, 850_000, stall))
    for server in ten[:4]:
        server.resume()


class MemoryLedger:
    def __init__(self) -> None:
        self.state: bytes | None = None
        self.saved = 0

    def load(self) -> bytes | None:
        return self.state

    def save(self, state: bytes) -> None:
        self.state = state
        self.saved += 1


@asynccontextmanager
async def interrupted_upload(
    ten: list[StorageServer], data: bytes, ledger: MemoryLedger
) -> AsyncIterator[NodeMaker]:
    """A client whose upload of `data` was cancelled in the middle, as by a crash."""
    async with client(ten, MANY) as maker:
        with trio.CancelScope() as scope:

            async def cancel() -> None:
                scope.cancel()
                await trio.lowlevel.checkpoint()

            await maker.upload(Interrupted(data, len(data) - 1, cancel), ledger=ledger)
        assert scope.cancelled_caught
        yield maker


async def test_an_interrupted_upload_goes_on_where_it_was(ten: list[StorageServer], batches: None) -> None:
    data = data_of(1_200_000, "resume")
    ledger = MemoryLedger()
    async with interrupted_upload(ten, data, ledger):
        assert ledger.saved == 1
        assert ledger.state is not None
    async with client(ten, MANY) as maker:
        with requests_of(maker) as counted:
            cap = await put(maker, data, ledger=ledger)
        assert await maker.file(cap).read(0, len(data)) == data
        # Of three parts of each share at least one was there.
        assert counted["bytes"] < len(data) * 10 / 3 * 0.75
    assert sum(map(len, shares_on(ten, cap).values())) == 10


async def test_a_ledger_of_something_else_is_not_used(ten: list[StorageServer]) -> None:
    data = data_of(100_000, "ledger")
    for state in (b"", b"nonsense", b"[]", b'{"key": 1}', b'{"key": "00", "secret": "00", "placement": {}}'):
        ledger = MemoryLedger()
        ledger.state = state
        async with client(ten, MANY) as maker:
            cap = await put(maker, data + state, ledger=ledger)
            assert await maker.file(cap).read(0, 1 << 20) == data + state


async def test_the_convergence_secret_matters(ten: list[StorageServer]) -> None:
    data = data_of(100, "convergence")
    async with client(ten[:1], ONE) as maker:
        cap = await put(maker, data)
    hasher = keys.convergence_hasher(SECRETS.convergence, 1, 1, 100)
    hasher.update(data)
    assert cap.key == hasher.digest()


# --- what was hashed before --------------------------------------------------------------------------


class Counting(BytesContents):
    """Counts what is read of it."""

    count = 0

    async def read_into(self, offset: int, buf: memoryview) -> None:
        self.count += len(buf)
        await super().read_into(offset, buf)


@pytest.mark.parametrize("part", [0, 1, 99_999, 5_000_000, 9_000_000])
async def test_what_is_known_is_not_hashed_again(ten: list[StorageServer], part: int) -> None:
    data = data_of(9_000_000, f"known {part}")
    async with client(ten, MANY) as maker:
        source = Counting(data)
        cap = await maker.upload(source, known=maker.beginning().extended(data[:part]))
        assert cap == await put(maker, data)
        assert source.count <= 2 * len(data) - part


async def test_the_beginning_of_a_file_that_is_encoded_in_another_way(ten: list[StorageServer]) -> None:
    data = data_of(300_000, "other")
    async with client(ten, MANY) as maker:
        cap = await put(maker, data)
        small = await put(maker, data[:50_000])
        async with client(ten, Encoding(2, 7, 10, max_segment_size=100_000)) as other:
            known = other.beginning().extended(data)
        assert await put(maker, data, known=known) == cap
        assert await put(maker, data[:50_000], known=maker.beginning().extended(data[:50_000])) == small
