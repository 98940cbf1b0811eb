"""What every storage server must do, asked through our client: `lafs-storage` and a Tahoe 1.20 node alike."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator

import pytest
import trio

from lafsfs.config import ServerEntry
from lafsfs.errors import ServerRefusedError
from lafsfs.formats.keys import LeaseSecrets
from lafsfs.gbs.messages import TestWrite
from lafsfs.grid.server import StorageServer
from tests.support.storage import storage_servers
from tests.support.tahoe import tahoe_storage


@pytest.fixture(scope="module", params=["lafs-storage", pytest.param("tahoe", marks=[pytest.mark.tahoe])])
def entry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerEntry]:
    directory = tmp_path_factory.mktemp(request.param)
    if request.param == "tahoe":
        with tahoe_storage(directory / "node") as node:
            yield ServerEntry(node.server_id, (node.nurl,), node.furl)
    else:
        with storage_servers(directory) as (server,):
            yield ServerEntry(server.server_id, (server.nurl,), server.furl)


@pytest.fixture
async def server(entry: ServerEntry) -> StorageServer:
    return StorageServer(entry, LeaseSecrets(b"lease secret"))


@pytest.fixture
def si() -> bytes:
    return os.urandom(16)


SECRET = b"upload secret"


def _enabler(seed20: bytes) -> bytes:
    return hashlib.sha256(b"enabler" + seed20).digest()


async def _store(server: StorageServer, si: bytes, shnum: int, data: bytes) -> None:
    allocated = await server.allocate(si, [shnum], len(data), SECRET)
    assert shnum in allocated.allocated
    assert (await server.write_share(si, shnum, SECRET, 0, data, len(data))).finished


async def _status_of(call: object) -> int:
    with pytest.raises(ServerRefusedError) as caught:
        await call  # type: ignore[misc]
    return caught.value.status


async def test_version(server: StorageServer) -> None:
    version = await server.version()
    assert version.available > 1 << 20
    assert version.max_immutable > 1 << 20
    assert version.max_mutable > 1 << 20
    assert server.known_version == await server.version(max_age=60)


async def test_the_certificate_tells_the_tub_id(entry: ServerEntry) -> None:
    nameless = StorageServer(ServerEntry(entry.server_id, entry.nurls), LeaseSecrets(b"x"))
    assert await nameless.learn_seed20() == entry.seed20
    await nameless.aclose()


async def test_uploading_in_pieces_of_any_order(server: StorageServer, si: bytes) -> None:
    data = os.urandom(2_500_001)
    answer = await server.allocate(si, range(5), len(data), SECRET)
    assert (answer.already_have, answer.allocated) == (frozenset(), frozenset(range(5)))
    first = await server.write_share(si, 2, SECRET, 0, data[:1000], len(data))
    assert (first.finished, first.missing) == (False, ((1000, len(data)),))
    last = await server.write_share(si, 2, SECRET, 2_000_000, bytearray(data[2_000_000:]), len(data))
    assert (last.finished, last.missing) == (False, ((1000, 2_000_000),))
    assert await server.immutable_shares(si) == frozenset()
    assert await _status_of(server.read_immutable(si, 2, 0, 10)) == 404
    middle = memoryview(data)[1000:2_000_000]
    assert (await server.write_share(si, 2, SECRET, 1000, middle, len(data))).finished
    assert await server.immutable_shares(si) == {2}
    assert await server.read_immutable(si, 2, 0, len(data)) == data
    for shnum in (0, 1, 3, 4):
        await server.abort(si, shnum, SECRET)
    again = await server.allocate(si, [2, 7], len(data), SECRET)
    assert (again.already_have, again.allocated) == (frozenset({2}), frozenset({7}))
    await server.abort(si, 7, SECRET)


async def test_whole_shares(server: StorageServer, si: bytes) -> None:
    """Only ours takes them; of a Tahoe node the client can tell beforehand, and from the answer, that it does not."""
    assert bool((await server.version()).application.startswith(b"lafs-storage")) is bool(server.takes_whole)
    shares = {0: os.urandom(2000), 4: os.urandom(2000)}
    answer = await server.put_shares(si, shares)
    if server.takes_whole:
        assert answer is not None
        assert (answer.already_have, answer.allocated) == (frozenset({0, 4}), frozenset())
        assert await server.immutable_shares(si) == {0, 4}
        assert await server.read_immutable(si, 4, 0, 3000) == shares[4]
        assert await server.put_shares(si, shares) == answer
    else:
        assert answer is None
        assert await server.immutable_shares(si) == frozenset()


async def test_many_small_requests_at_once(server: StorageServer) -> None:
    """Where the server takes batches they travel together, and each gets its own answer."""
    await server.version()
    shares = {os.urandom(16): os.urandom(100 + number) for number in range(40)}

    async def there_and_back(si: bytes, data: bytes) -> None:
        await _store(server, si, 1, data)
        assert await server.immutable_shares(si) == {1}
        assert await server.read_immutable(si, 1, 7, 5000) == data[7:]
        assert await _status_of(server.read_immutable(si, 2, 0, 10)) == 404
        vector = {0: TestWrite(tests=[(0, 1, b"")], writes=[(0, data)])}
        assert await server.read_test_write(si[::-1], _enabler, vector, []) == (True, {})
        assert await server.read_test_write(si[::-1], _enabler, {}, [(3, 9)]) == (True, {0: [data[3:12]]})

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for si, data in shares.items():
                nursery.start_soon(there_and_back, si, data)


async def test_reading_ranges(server: StorageServer, si: bytes) -> None:
    data = os.urandom(100_000)
    await _store(server, si, 3, data)
    for offset, size in [(0, 1), (0, 100_000), (99_999, 1), (5, 70_000), (99_990, 50), (0, 10**9)]:
        assert await server.read_immutable(si, 3, offset, size) == data[offset : offset + size]
    assert await server.read_immutable(si, 3, 100_000, 10) == b""
    assert await server.read_immutable(si, 3, 10**12, 10) == b""
    assert await server.read_immutable(si, 3, 7, 0) == b""
    assert await _status_of(server.read_immutable(si, 4, 0, 10)) == 404
    assert await _status_of(server.read_immutable(os.urandom(16), 3, 0, 10)) == 404


async def test_refused_writes(server: StorageServer, si: bytes) -> None:
    await server.allocate(si, [0], 100, SECRET)
    assert await _status_of(server.write_share(si, 0, b"another", 0, bytes(50), 100)) == 401
    assert await _status_of(server.write_share(si, 1, SECRET, 0, bytes(50), 100)) == 404
    assert not (await server.write_share(si, 0, SECRET, 0, bytes(50), 100)).finished
    assert not (await server.write_share(si, 0, SECRET, 0, bytes(50), 100)).finished
    assert await _status_of(server.write_share(si, 0, SECRET, 40, b"x" * 20, 100)) == 409
    assert (await server.write_share(si, 0, SECRET, 50, bytes(50), 100)).finished
    assert await _status_of(server.write_share(si, 0, SECRET, 0, bytes(50), 100)) == 404


async def test_aborting(server: StorageServer, si: bytes) -> None:
    await server.allocate(si, [0], 100, SECRET)
    assert await _status_of(server.abort(si, 0, b"another")) == 401
    await server.abort(si, 0, SECRET)
    await server.abort(si, 0, SECRET)
    assert (await server.allocate(si, [0], 200, SECRET)).allocated == {0}
    await server.abort(si, 0, SECRET)
    await _store(server, si, 1, b"data")
    await server.abort(si, 1, SECRET)
    assert await server.read_immutable(si, 1, 0, 4) == b"data"


async def test_a_wrong_swissnum_is_refused(entry: ServerEntry, si: bytes) -> None:
    nurl = dataclasses.replace(entry.nurls[0], swissnum="a" * 32)
    stranger = StorageServer(dataclasses.replace(entry, nurls=(nurl,)), LeaseSecrets(b"x"))
    assert await _status_of(stranger.version()) == 401
    assert await _status_of(stranger.immutable_shares(si)) == 401
    await stranger.aclose()


async def test_leases(server: StorageServer, si: bytes) -> None:
    assert not await server.add_lease(si)
    await _store(server, si, 0, b"data")
    assert await server.add_lease(si)
    assert await server.add_lease(si)


async def test_advisories_never_fail(server: StorageServer, si: bytes) -> None:
    await server.advise_corrupt("immutable", si, 0, "there is no such share")
    await _store(server, si, 0, b"data")
    await server.advise_corrupt("immutable", si, 0, "block hash, segment 3")
    await server.advise_corrupt("mutable", si, 9, "ü" * 100_000)
    assert server.health.failures == 0


async def test_mutable_slots(server: StorageServer, si: bytes) -> None:
    empty = [(0, 1, b"")]
    create = {0: TestWrite(empty, [(0, b"hello world")]), 5: TestWrite(empty, [(3, memoryview(b"gap"))])}
    assert await server.read_test_write(si, _enabler, create, [(0, 5)]) == (True, {})
    assert await server.mutable_shares(si) == {0, 5}
    assert await server.read_mutable(si, 0, 6, 100) == b"world"
    assert await server.read_mutable(si, 5, 0, 100) == b"\0\0\0gap"
    values = {0: [b"hello", b"d", b""], 5: [b"\0\0\0ga", b"", b""]}
    assert await server.read_test_write(si, _enabler, {}, [(0, 5), (10, 9), (50, 1)]) == (True, values)

    clash = {0: TestWrite([(0, 5, b"HELLO")], [(0, b"lost")])}
    done, seen = await server.read_test_write(si, _enabler, clash, [(0, 4)])
    assert (done, seen) == (False, {0: [b"hell"], 5: [b"\0\0\0g"]})
    shorten = {0: TestWrite([(0, 5, b"hello")], [(0, b"HE")], 4), 5: TestWrite(new_length=0)}
    assert (await server.read_test_write(si, _enabler, shorten, []))[0]
    assert await server.read_mutable(si, 0, 0, 100) == b"HEll"
    assert await server.mutable_shares(si) == {0}
    assert await _status_of(server.read_mutable(si, 5, 0, 1)) == 404


async def test_a_foreign_write_enabler_is_refused(server: StorageServer, si: bytes) -> None:
    await server.read_test_write(si, _enabler, {0: TestWrite(writes=[(0, b"mine")])}, [])
    assert await _status_of(server.read_test_write(si, lambda _: b"z" * 32, {}, [(0, 4)])) == 401
    write = {0: TestWrite(writes=[(0, b"your")])}
    assert await _status_of(server.read_test_write(si, lambda _: b"z" * 32, write, [])) == 401
    assert await server.read_mutable(si, 0, 0, 4) == b"mine"


async def test_large_mutable_shares(server: StorageServer, si: bytes) -> None:
    data = os.urandom(3_000_000)
    assert (await server.read_test_write(si, _enabler, {0: TestWrite(writes=[(0, data)])}, []))[0]
    assert await server.read_mutable(si, 0, 0, len(data)) == data
    assert (await server.read_test_write(si, _enabler, {}, [(0, len(data))]))[1] == {0: [data]}


async def test_many_requests_at_once(server: StorageServer) -> None:
    async def one(number: int) -> None:
        si = os.urandom(16)
        data = os.urandom(1000 * number + 1)
        await _store(server, si, number, data)
        assert await server.read_immutable(si, number, 0, 10**6) == data

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(one, number)


async def test_cancelled_requests_leave_the_server_usable(server: StorageServer, si: bytes) -> None:
    data = os.urandom(2_000_000)
    await _store(server, si, 0, data)
    for delay in (0.0, 0.001, 0.003, 0.01):
        with trio.move_on_after(delay):
            await server.read_immutable(si, 0, 0, len(data))
    assert await server.read_immutable(si, 0, 0, len(data)) == data
    assert server.health.failures == 0
