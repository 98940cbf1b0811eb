"""Mutable files on a real grid: every size, few round trips, partial writes against a model."""

from __future__ import annotations

import random

import pytest

from lafsfs.config import Encoding
from lafsfs.errors import ReadOnlyError, UncoordinatedWriteError
from lafsfs.formats import caps
from lafsfs.nodes.maker import NodeMaker
from lafsfs.nodes.mutable import MutableFile
from tests.support.grids import client, counting
from tests.support.storage import StorageServer

ONE, MANY = Encoding(1, 1, 1), Encoding(3, 7, 10)
SIZES = [0, 1, 1000, 4001, 131_073, 400_000]


def servers_for(encoding: Encoding, ten: list[StorageServer]) -> list[StorageServer]:
    return ten if encoding.n > 1 else ten[:1]


def read_only(maker: NodeMaker, node: MutableFile) -> MutableFile:
    cap = node.cap.read_cap()
    assert isinstance(cap, caps.MutableReadCap)
    return maker.mutable_file(cap)


@pytest.mark.parametrize("encoding", [ONE, MANY], ids=["1of1", "3of10"])
@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_all_sizes_are_written_and_read(
    encoding: Encoding, mdmf: bool, ten: list[StorageServer]
) -> None:
    servers = servers_for(encoding, ten)
    async with client(servers, encoding) as writer, client(servers, encoding) as other:
        node = None
        for seqnum, size in enumerate([*SIZES, 20], 1):
            data = random.Random(size).randbytes(size)
            if node is None:
                node = await writer.create_mutable(data, mdmf)
                version = node.pinned
            else:
                version = await node.overwrite(data, node.pinned)
            assert version is not None
            assert (version.seqnum, version.size) == (seqnum, size)
            reader = read_only(other, node)
            assert await reader.read(0, size + 5) == data == await node.read(0, size)
            assert await reader.read(size // 2, 10) == data[size // 2 :][:10]
            assert await reader.read(size, 10) == b""
            assert (reader.size, reader.pinned) == (size, version)
            assert await reader.newest() == version


async def test_an_open_version_stays_what_it_was(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        node = await maker.create_mutable(b"a" * 9000, False)
        reader = read_only(maker, node)
        assert (await reader.latest()).seqnum == 1
        await node.overwrite(b"b", node.pinned)
        assert reader.size == 9000
        assert (await reader.latest()).seqnum == 2
        assert await reader.read(0, 10) == b"b"


async def test_a_small_file_is_read_and_written_in_one_round_trip(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker, client(ten, MANY) as other:
        node = await maker.create_mutable(b"small", False)
        async with counting(maker._grid) as traffic:
            await node.overwrite(b"smaller", node.pinned)
        assert traffic.verbs() == {"read_test_write": 10}
        assert set(traffic.calls.values()) == {1}
        fresh = other.mutable_file(node.cap)
        async with counting(other._grid) as traffic:
            assert await fresh.read(0, 100) == b"smaller"
        assert set(traffic.verbs()) == {"read_test_write"}
        assert set(traffic.calls.values()) == {1}
        reader = read_only(other, node)
        async with counting(other._grid) as traffic:
            assert await reader.read(0, 100) == b"smaller"
        # One list and one guess each, at the same time.
        assert set(traffic.calls.values()) == {1}


async def test_a_read_cap_does_not_write(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        node = await maker.create_mutable(b"x", True)
        reader = read_only(maker, node)
        with pytest.raises(ReadOnlyError):
            await reader.overwrite(b"y", None)
        with pytest.raises(ReadOnlyError):
            await reader.update(0, b"y", None)


async def test_the_encoding_of_a_file_stays(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker, client(ten, Encoding(1, 1, 2)) as other:
        node = await maker.create_mutable(b"first", False)
        second = other.mutable_file(node.cap)
        await second.overwrite(b"second", None)
        pinned = second._pinned
        assert pinned is not None
        assert (pinned.header.k, pinned.header.n) == (3, 10)
        assert len(pinned.servermap.shares_of(pinned.header)) == 10
        assert await read_only(maker, node).read(0, 10) == b"second"


async def test_writing_against_another_version_is_refused(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        first = await maker.create_mutable(b"a" * 1000, True)
        base = first.pinned
        second = maker.mutable_file(first.cap)
        await second.overwrite(b"b" * 1000, None)
        for write in (first.overwrite(b"c", base), first.update(1, b"c", base)):
            with pytest.raises(UncoordinatedWriteError):
                await write
        assert (await first.latest()).seqnum == 2
        assert await first.read(0, 3) == b"bbb"


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
@pytest.mark.parametrize("encoding", [ONE, MANY], ids=["1of1", "3of10"])
async def test_partial_writes_follow_a_model(
    encoding: Encoding, mdmf: bool, ten: list[StorageServer]
) -> None:
    randomness = random.Random(f"{encoding.n}{mdmf}")
    servers = servers_for(encoding, ten)
    async with client(servers, encoding) as maker, client(servers, encoding) as other:
        model = bytearray(randomness.randbytes(300_000))
        node = await maker.create_mutable(bytes(model), mdmf)
        for _ in range(16):
            offset = randomness.choice(
                [0, 5, 131_070, len(model), len(model) + 10, randomness.randrange(500_000)]
            )
            data = randomness.randbytes(randomness.choice([0, 1, 100, 131_073, 200_000]))
            new_size = randomness.choice([None, None, 0, 131_073, len(model) // 2, len(model) + 140_000])
            await node.update(offset, data, node.pinned, new_size)
            if data and (new_size is None or offset < new_size):
                model.extend(bytes(max(0, offset - len(model))))
                model[offset : offset + len(data)] = data
            if new_size is not None:
                model = model[:new_size] + bytes(max(0, new_size - len(model)))
            reader = read_only(other, node)
            assert await reader.read(0, len(model) + 1) == model


async def test_only_touched_segments_travel(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        data = bytes(5_000_000)
        node = await maker.create_mutable(data, True)
        fresh = maker.mutable_file(node.cap)
        base = await fresh.latest()
        async with counting(maker._grid) as traffic:
            await fresh.update(2_000_000, b"x" * 4096, base)
        assert traffic.sent < 10 * (60_000 + 8_000)
        assert sum(traffic.received.values()) < 400_000
        reader = read_only(maker, node)
        assert await reader.read(1_999_999, 4098) == b"\0" + b"x" * 4096 + b"\0"
        assert await reader.read(0, 5_000_000) == data[:2_000_000] + b"x" * 4096 + data[2_004_096:]


async def test_a_large_file_goes_through(ten: list[StorageServer]) -> None:
    data = random.Random(1).randbytes(12_000_000)
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(data, True)
        reader = read_only(maker, node)
        assert await reader.read(0, len(data)) == data
