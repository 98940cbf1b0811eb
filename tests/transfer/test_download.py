"""Reading immutable files from servers that are dead, stalled, slow or hold damaged shares."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.errors import FormatError, LafsError, NotEnoughServersError, NotEnoughSharesError
from lafsfs.formats import base32, caps, chk
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.encoding import BytesContents
from tests.support.grids import QUICK, client, share_files
from tests.support.storage import StorageServer

ONE = Encoding(1, 1, 1, max_segment_size=1000)
MANY = Encoding(3, 7, 10, max_segment_size=1002)
DEFAULT = Encoding(3, 7, 10)
CONTAINER = 12


async def put(maker: NodeMaker, size: int, seed: str) -> tuple[caps.ChkCap, bytes]:
    data = random.Random(seed).randbytes(size)
    cap = await maker.upload(BytesContents(data))
    assert isinstance(cap, caps.ChkCap)
    return cap, data


def shares_of(ten: list[StorageServer], cap: caps.ChkCap) -> dict[int, tuple[StorageServer, Path]]:
    return {
        shnum: (server, path)
        for server in ten
        for shnum, path in share_files(server, cap.storage_index).items()
    }


def advisories(ten: list[StorageServer], cap: caps.ChkCap) -> set[int]:
    """Numbers of the shares that clients complained of."""
    name = base32.encode(cap.storage_index)
    found = [p for s in ten for p in (s.storage_dir / "corruption-advisories").glob(f"*--{name}-*")]
    return {int(path.name.rsplit("-", 1)[1]) for path in found}


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(CONTAINER + offset)
        (byte,) = file.read(1)
        file.seek(CONTAINER + offset)
        file.write(bytes([byte ^ 0x10]))


def regions(path: Path, params: chk.Params) -> dict[str, int]:
    """An offset in every region of a share that matters to readers."""
    layout = chk.ShareLayout.parse(path.read_bytes()[CONTAINER:])
    tree = params.tree_size
    return {
        "version": 3,
        "offset of the data": 0x0F,
        "offset of the ciphertext tree": 0x17,
        "offset of the UEB": 0x23,
        "first block": layout.data,
        "last block": layout.data + params.share_data_size - 1,
        "last leaf of the ciphertext tree": layout.crypttext_tree + tree // 2 + 32 * params.num_segments - 1,
        "length of the UEB": layout.ueb + 3,
        "UEB": layout.ueb + 40,
    }


REGIONS = [
    "version",
    "offset of the data",
    "offset of the ciphertext tree",
    "offset of the UEB",
    "first block",
    "last block",
    "last leaf of the ciphertext tree",
    "length of the UEB",
    "UEB",
]


@pytest.mark.parametrize("region", REGIONS)
async def test_a_flipped_bit_in_the_only_share(region: str, ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        cap, data = await put(maker, 4500, f"only share {region}")
        ((_, path),) = shares_of(ten, cap).values()
        offset = regions(path, chk.params_for(4500, 1, 1, 1000))[region]
        flip(path, offset)
        with pytest.raises(NotEnoughSharesError):
            await maker.file(cap).read(0, 4500)
        assert advisories(ten, cap) == {0}
        flip(
            path, regions(path, chk.params_for(4500, 1, 1, 1000))[region]
        ) if region == "first block" else None
        if region == "first block":
            assert await maker.file(cap).read(0, 4500) == data


@pytest.mark.parametrize("region", REGIONS)
async def test_flipped_bits_in_all_but_three_shares(region: str, ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        cap, data = await put(maker, 5000, f"seven of ten {region}")
        shares = shares_of(ten, cap)
        assert len(shares) == 10
        offset = regions(shares[0][1], chk.params_for(5000, 3, 10, 1002))[region]
        for shnum in random.Random(region).sample(range(10), 7):
            flip(shares[shnum][1], offset)
        assert await maker.file(cap).read(0, 5000) == data
        assert await maker.file(cap).read(4990, 50) == data[4990:]


async def test_any_flipped_bit_is_survived(ten: list[StorageServer]) -> None:
    """With one good share beside it, a share may be wrong anywhere; and data never is."""
    two = Encoding(1, 1, 2, max_segment_size=500)
    async with client(ten[:2], two) as maker:
        cap, data = await put(maker, 1400, "anywhere")
        (path, _) = (p for _, p in shares_of(ten, cap).values())
        length = len(path.read_bytes()) - CONTAINER - 72
        for offset in random.Random(1).sample(range(length), 120):
            flip(path, offset)
            assert await maker.file(cap).read(0, 2000) == data, offset
            maker._grid.servers[0].health.failures = 0
            _forget(maker)
            flip(path, offset)


def _forget(maker: NodeMaker) -> None:
    """Let the next read go to the servers."""
    from lafsfs.transfer.segment_memory import SegmentMemory, _memories

    _memories[maker._grid] = SegmentMemory()


@pytest.mark.parametrize("kept", [0, 3, 40, 68, 100, 1500, -1])
async def test_truncated_shares(kept: int, ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        cap, data = await put(maker, 5000, f"truncated {kept}")
        shares = shares_of(ten, cap)
        for shnum in range(7):
            path = shares[shnum][1]
            whole = path.read_bytes()
            share, lease = whole[CONTAINER:-72], whole[-72:]
            path.write_bytes(whole[:CONTAINER] + share[:kept] + lease)
        assert await maker.file(cap).read(0, 5000) == data
        path = shares[8][1]
        path.write_bytes(path.read_bytes()[:CONTAINER])
        _forget(maker)
        with pytest.raises(LafsError):
            await maker.file(cap).read(0, 5000)


async def test_shares_of_another_file(ten: list[StorageServer]) -> None:
    """Everything in such a share is consistent; only it is not what the cap names."""
    async with client(ten, MANY) as maker:
        cap, data = await put(maker, 5000, "the right one")
        wrong, _ = await put(maker, 5000, "the wrong one")
        mine, others = shares_of(ten, cap), shares_of(ten, wrong)
        for shnum in range(7):
            mine[shnum][1].write_bytes(others[shnum][1].read_bytes())
        assert await maker.file(cap).read(0, 5000) == data
        mine[9][1].write_bytes(others[9][1].read_bytes())
        _forget(maker)
        with pytest.raises(NotEnoughSharesError):
            await maker.file(cap).read(0, 5000)


async def test_servers_die_and_stall_while_a_file_is_read(ten: list[StorageServer]) -> None:
    many = Encoding(3, 7, 10, max_segment_size=99_999)
    async with client(ten, many, timeouts=QUICK) as maker:
        cap, data = await put(maker, 3_000_000, "die")
        _forget(maker)
        node = maker.file(cap)
        got = bytearray()
        while len(got) < len(data):
            got += await node.read(len(got), 70_000)
            if 700_000 <= len(got) < 770_000:
                for server in ten[:2]:
                    server.kill()
                for server in ten[2:7]:
                    server.pause()
        assert bytes(got) == data


async def test_a_server_that_lags_gets_a_rival(ten: list[StorageServer]) -> None:
    """Long before its own deadline is over: with these timeouts a request may take fifteen seconds."""
    async with client(ten, MANY) as maker:
        cap, data = await put(maker, 5000, "lag")
        shares = shares_of(ten, cap)
        node = maker.file(cap)
        assert await node.read(0, 10) == data[:10]
        _forget(maker)
        for shnum in (0, 4, 8):
            shares[shnum][0].pause()
        with trio.fail_after(12):
            assert await maker.file(cap).read(0, 5000) == data
            _forget(maker)
            assert await node.read(0, 5000) == data


async def test_too_few_servers_answer(ten: list[StorageServer]) -> None:
    async with client(ten, MANY, timeouts=QUICK) as maker:
        cap, data = await put(maker, 5000, "eight dead")
        _forget(maker)
        node = maker.file(cap)
        ten[0].kill()
        for server in ten[1:8]:
            server.pause()
        with trio.fail_after(60), pytest.raises(NotEnoughServersError):
            await node.read(0, 5000)
        ten[5].resume()
        with trio.fail_after(60):
            assert await node.read(0, 5000) == data


async def test_shares_that_are_gone(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        cap, data = await put(maker, 5000, "gone")
        shares = shares_of(ten, cap)
        for shnum in range(7):
            shares[shnum][1].unlink()
        _forget(maker)
        assert await maker.file(cap).read(0, 5000) == data
        shares[7][1].unlink()
        _forget(maker)
        with pytest.raises(NotEnoughSharesError):
            await maker.file(cap).read(0, 5000)


async def test_a_single_share_on_an_unlikely_server(ten: list[StorageServer]) -> None:
    async with client(ten[9:], ONE) as maker:
        cap, data = await put(maker, 5000, "unlikely")
    async with client(ten, ONE) as maker:
        assert await maker.file(cap).read(0, 5000) == data


async def test_caps_that_no_file_can_have() -> None:
    async with client([], ONE) as maker:
        for k, n, size in ((3, 2, 100), (0, 0, 100), (1, 300, 100)):
            cap = caps.ChkCap(bytes(16), bytes(32), k, n, size)
            with pytest.raises(FormatError):
                await maker.file(cap).read(0, 10)


async def test_readers_of_one_file_share_what_is_fetched(ten: list[StorageServer]) -> None:
    big = Encoding(1, 1, 1, max_segment_size=100_000)
    async with client(ten[:1], big) as maker:
        cap, data = await put(maker, 1_000_000, "shared")
        _forget(maker)
        (server,) = maker._grid.servers
        fetched: list[int] = []
        original = server.read_immutable

        async def watched(si: bytes, shnum: int, offset: int, size: int) -> bytes:
            answer = await original(si, shnum, offset, size)
            fetched.append(len(answer))
            return answer

        server.read_immutable = watched  # type: ignore[method-assign]
        node, source = maker.file(cap), random.Random(5)

        async def read_some() -> None:
            for _ in range(20):
                offset = source.randrange(len(data))
                size = source.randrange(1, 200_000)
                assert await node.read(offset, size) == data[offset : offset + size]

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read_some)
        assert sum(fetched) < len(data) + 10_000


async def test_the_disk_cache_serves_and_is_checked(ten: list[StorageServer], tmp_path: Path) -> None:
    many = Encoding(2, 1, 3, max_segment_size=100_000)
    async with client(ten[:3], many, cache=tmp_path) as maker:
        cap, data = await put(maker, 950_000, "disk cache")
        assert await maker.file(cap).read(0, 950_000) == data
        await _written(tmp_path, 11)
    async with client([], many, cache=tmp_path) as maker:
        assert await maker.file(cap).read(0, 950_000) == data
        assert await maker.file(cap).read(500_001, 7) == data[500_001:500_008]
    contents = [path.read_bytes() for path in _entries(tmp_path)]
    assert not any(data[i : i + 16] in content for content in contents for i in (0, 500_000, 949_000))
    for path in _entries(tmp_path):
        damaged = bytearray(path.read_bytes())
        damaged[random.Random(path.name).randrange(len(damaged))] ^= 1
        path.write_bytes(damaged)
    async with client(ten[:3], many, cache=tmp_path) as maker:
        assert await maker.file(cap).read(0, 950_000) == data


async def _written(directory: Path, count: int) -> None:
    """Wait until that many parts are in the cache: they are written after the reader has its data."""
    for _ in range(1000):
        if len(_entries(directory)) == count:
            return
        await trio.sleep(0.01)
    raise AssertionError(f"only {len(_entries(directory))} of {count} parts were kept")


def _entries(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.parent != directory)


async def test_a_small_file_costs_one_request_for_each_share_that_is_needed(ten: list[StorageServer]) -> None:
    async with client(ten, DEFAULT) as maker:
        cap, data = await put(maker, 5000, "one round trip")
    async with client(ten, DEFAULT) as maker:
        asked: list[str] = []
        for server in maker._grid.servers:
            for verb in ("immutable_shares", "read_immutable"):
                setattr(server, verb, _noted(asked, verb, getattr(server, verb)))
        assert await maker.file(cap).read(0, 5000) == data
    assert asked == ["read_immutable"] * DEFAULT.k


def _noted(asked: list[str], verb: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def noted(*arguments: Any) -> Any:
        asked.append(verb)
        return await call(*arguments)

    return noted


async def test_shares_that_are_not_where_uploads_put_them_are_found(ten: list[StorageServer]) -> None:
    """A client that knows fewer servers, in whose order the shares stand elsewhere."""
    async with client(ten, MANY) as maker:
        files = [await put(maker, 1000 + number, f"elsewhere {number}") for number in range(12)]
    async with client(ten[2:], MANY) as maker:
        for cap, data in files:
            assert await maker.file(cap).read(0, 5000) == data
