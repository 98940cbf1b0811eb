"""Directories on a real grid: create, read, publish against a base, several writers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.errors import (
    FormatError,
    LafsError,
    NotEnoughServersError,
    NotEnoughSharesError,
    ReadOnlyError,
    UncoordinatedWriteError,
)
from lafsfs.formats import caps, dirnode
from lafsfs.nodes.directory import Directory, Snapshot
from lafsfs.nodes.maker import NodeMaker
from tests.support.grids import client, counting, flip, share_files
from tests.support.storage import StorageServer

ONE, MANY = Encoding(1, 1, 1), Encoding(3, 7, 10)
LIT = b"URI:LIT:me"


def filled(*names: str) -> Callable[[bytes], dirnode.Packed]:
    """Makes directory contents with an entry for each name."""

    def make(writekey: bytes) -> dirnode.Packed:
        entries = {name: dirnode.make_entry(name, LIT, b"", b"{}", writekey) for name in names}
        return dirnode.Packed().with_changes(entries)

    return make


def with_entry(directory: Directory, snapshot: Snapshot, name: str) -> dirnode.Packed:
    return snapshot.packed.with_changes({name: dirnode.make_entry(name, LIT, b"", b"{}", directory.writekey)})


def names(snapshot: Snapshot) -> set[str]:
    return set(snapshot.packed.names())


@pytest.mark.parametrize("encoding", [ONE, MANY], ids=["1of1", "3of10"])
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_a_directory_is_created_changed_and_read(
    encoding: Encoding, mdmf: bool, ten: list[StorageServer]
) -> None:
    servers = ten if encoding.n > 1 else ten[:1]
    async with client(servers, encoding) as maker, client(servers, encoding) as other:
        directory, snapshot = await maker.create_directory(filled("a"), mdmf)
        assert directory.cap == caps.parse(directory.cap.to_string())
        assert directory.writable
        assert not directory.deep_immutable
        assert snapshot.version.seqnum == 1
        snapshot = await directory.publish(snapshot, with_entry(directory, snapshot, "b"))
        assert snapshot.version.seqnum == 2
        assert snapshot.settled
        for cap in (directory.cap, directory.cap.read_cap()):
            seen = other.directory(cap)
            found = await seen.read()
            assert (names(found), found.version) == ({"a", "b"}, snapshot.version)
            assert await seen.version() == snapshot.version
        reader = other.directory(directory.cap.read_cap())
        assert not reader.writable
        with pytest.raises(ReadOnlyError):
            await reader.publish(await reader.read(), dirnode.Packed())


async def test_an_empty_directory(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        directory, snapshot = await maker.create_directory(filled())
        assert len((await directory.read()).packed) == 0
        snapshot = await directory.publish(snapshot, with_entry(directory, snapshot, "x"))
        snapshot = await directory.publish(snapshot, dirnode.Packed())
        assert len((await maker.directory(directory.cap).read()).packed) == 0


async def test_publishing_takes_one_request_for_each_server(ten: list[StorageServer]) -> None:
    """Also right after reading by a client that has never seen the directory."""
    async with client(ten, MANY) as maker, client(ten, MANY) as other:
        made, _ = await maker.create_directory(filled(*(f"name {i}" for i in range(200))))
        directory = other.directory(made.cap)
        snapshot = await directory.read()
        async with counting(other._grid) as traffic:
            snapshot = await directory.publish(snapshot, with_entry(directory, snapshot, "new"))
            snapshot = await directory.publish(snapshot, with_entry(directory, snapshot, "newer"))
        assert traffic.verbs() == {"read_test_write": 20}
        assert set(traffic.calls.values()) == {2}


async def test_revalidation_is_one_small_read(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker, client(ten, MANY) as other:
        made, _ = await maker.create_directory(filled(*(f"name {i}" for i in range(10_000))))
        for cap in (made.cap, made.cap.read_cap()):
            directory = other.directory(cap)
            snapshot = await directory.read()
            async with counting(other._grid) as traffic:
                assert await directory.version() == snapshot.version
            assert traffic.calls
            assert set(traffic.calls.values()) == {1}
            assert max(traffic.received.values()) < 10_000


async def test_a_version_that_was_never_seen_is_not_overwritten(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker, client(ten, MANY) as other:
        directory, first = await maker.create_directory(filled("a"))
        elsewhere = other.directory(directory.cap)
        snapshot = await elsewhere.read()
        await elsewhere.publish(snapshot, with_entry(elsewhere, snapshot, "theirs"))
        with pytest.raises(UncoordinatedWriteError):
            await directory.publish(first, with_entry(directory, first, "ours"))
        newest = await directory.read()
        assert names(newest) == {"a", "theirs"}
        newest = await directory.publish(newest, with_entry(directory, newest, "ours"))
        assert names(await elsewhere.read()) == {"a", "theirs", "ours"}
        with pytest.raises(UncoordinatedWriteError):
            await directory.publish(None, newest.packed)


async def add(maker: NodeMaker, cap: caps.DirCap, name: str) -> None:
    """Add an entry, whatever others do meanwhile."""
    directory = maker.directory(cap)
    wait = 0.01
    while True:
        try:
            snapshot = await directory.read()
            await directory.publish(snapshot, with_entry(directory, snapshot, name))
        except (UncoordinatedWriteError, NotEnoughSharesError, NotEnoughServersError):
            # Another writer is at work: its version may be incomplete when we look.
            await trio.sleep(wait * (1 + hash(name) % 7))
            wait = min(1.0, wait * 2)
        else:
            return


@pytest.mark.parametrize("encoding", [ONE, MANY], ids=["1of1", "3of10"])
async def test_many_writers_lose_nothing(encoding: Encoding, ten: list[StorageServer]) -> None:
    servers = ten if encoding.n > 1 else ten[:1]
    async with (
        client(servers, encoding) as a,
        client(servers, encoding) as b,
        client(servers, encoding) as c,
        client(servers, encoding) as d,
    ):
        directory, _ = await a.create_directory(filled())
        expected = set()
        with trio.fail_after(60):
            for round_number in range(4):
                async with trio.open_nursery() as nursery:
                    for who, maker in enumerate((a, b, c, d)):
                        expected.add(f"{who}-{round_number}")
                        nursery.start_soon(add, maker, directory.cap, f"{who}-{round_number}")
        found = await directory.read()
        assert names(found) == expected
        assert found.version.seqnum >= 17


async def test_immutable_directories(ten: list[StorageServer]) -> None:
    packed = dirnode.Packed().with_changes({"x": dirnode.make_entry("x", LIT, b"", b"{}", None)})
    async with client(ten[:1], ONE) as maker:
        directory = maker.directory(caps.DirCap(caps.LiteralCap(packed.pack())))
        assert directory.deep_immutable
        assert directory.writekey is None
        snapshot = await directory.read()
        assert names(snapshot) == {"x"}
        assert await directory.version() == snapshot.version
        with pytest.raises(ReadOnlyError):
            await directory.publish(snapshot, packed)


async def test_contents_that_are_no_directory(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        node = await maker.create_mutable(b"no directory at all", False)
        with pytest.raises(FormatError):
            await maker.directory(caps.DirCap(node.cap)).read()


async def test_a_directory_that_is_not_there(ten: list[StorageServer]) -> None:
    async with client(ten[:2], ONE) as maker:
        cap = caps.DirCap(caps.MutableWriteCap(bytes(16), bytes(32), False))
        for attempt in (maker.directory(cap).read, maker.directory(cap).version):
            with pytest.raises(LafsError) as caught:
                await attempt()
            assert isinstance(caught.value, NotEnoughSharesError)


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_a_reader_among_writers_sees_one_version_or_another(
    mdmf: bool, ten: list[StorageServer]
) -> None:
    """Contents too large for the first look, so that writers come between a reader's requests."""
    many = [f"{number} {'x' * 200}" for number in range(500)]
    async with client(ten[:1], ONE) as writer, client(ten[:1], ONE) as reader:
        directory, snapshot = await writer.create_directory(filled(*many), mdmf)
        seen: list[int] = []

        async def read_on() -> None:
            while True:
                found = await reader.directory(directory.cap).read()
                assert len(found.packed) == len(many) + found.version.seqnum - 1
                seen.append(found.version.seqnum)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_on)
                while len(seen) < 20 or snapshot.version.seqnum < 20:
                    added = with_entry(directory, snapshot, f"new {snapshot.version.seqnum}")
                    snapshot = await directory.publish(snapshot, added)
                nursery.cancel_scope.cancel()
        assert seen == sorted(seen)


async def test_damaged_contents_are_told_by_their_own_error(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker, client(ten[:1], ONE) as other:
        directory, _ = await maker.create_directory(filled(*(f"{n} {'x' * 200}" for n in range(500))))
        assert isinstance(directory.cap, caps.DirCap)
        ((_, path),) = share_files(ten[0], directory.cap.storage_index or b"").items()
        flip(path, path.stat().st_size // 2)
        with pytest.raises(NotEnoughSharesError):
            await other.directory(directory.cap).read()
