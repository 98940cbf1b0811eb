"""Check, verify and repair of immutable files on real servers."""

from __future__ import annotations

import random
from pathlib import Path

from lafsfs.config import Encoding
from lafsfs.formats import caps
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.check import check
from lafsfs.transfer.encoding import BytesContents
from lafsfs.transfer.repair import repair
from tests.support.grids import client, share_files
from tests.support.storage import StorageServer

MANY = Encoding(3, 7, 10, max_segment_size=100_000)
DATA = random.Random(3).randbytes(350_001)
CONTAINER_HEADER = 12


async def uploaded(maker: NodeMaker, data: bytes) -> caps.ChkCap:
    cap = await maker.upload(BytesContents(data))
    assert isinstance(cap, caps.ChkCap)
    return cap


def containers(ten: list[StorageServer], cap: caps.ChkCap) -> dict[int, Path]:
    return {shnum: path for server in ten for shnum, path in share_files(server, cap.storage_index).items()}


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[CONTAINER_HEADER + offset] ^= 4
    path.write_bytes(data)


async def test_a_healthy_file(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        cap = await uploaded(maker, DATA)
        for verify in (False, True):
            found = await check(maker._grid, cap.verify_cap(), verify=verify)
            assert found.healthy
            assert found.summary == "Healthy"
            results = found.results()
            assert results["count-happiness"] == results["count-shares-good"] == 10
            assert results["count-recoverable-versions"] == 1
            assert sorted(map(int, results["sharemap"])) == list(range(10))
        assert not (await repair(maker._grid, cap)).attempted


async def test_lost_and_damaged_shares_are_made_again(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        cap = await uploaded(maker, DATA + b"x")
        shares = containers(ten, cap)
        originals = {shnum: path.read_bytes() for shnum, path in shares.items()}
        for shnum in (0, 4, 7):
            shares[shnum].unlink()
        flip(shares[2], 0x24 + 50_000)
        flip(shares[5], len(originals[5]) - CONTAINER_HEADER - 72 - 3)
        assert (await check(maker._grid, cap)).summary == "Not Healthy: 7 shares (enc 3-of-10)"
        found = await check(maker._grid, cap, verify=True)
        assert {shnum for _, shnum in found.corrupt} == {2, 5}
        assert len(found.good) == 5
        assert found.recoverable
        outcome = await repair(maker._grid, cap.verify_cap(), verify=True)
        assert outcome.attempted
        assert len(outcome.after.good) == 10
        assert outcome.successful
        lease = 72
        for shnum in (0, 4, 7):
            rebuilt = containers(ten, cap)[shnum].read_bytes()
            assert rebuilt[CONTAINER_HEADER:-lease] == originals[shnum][CONTAINER_HEADER:-lease]
        assert await maker.file(cap).read(0, len(DATA) + 1) == DATA + b"x"


async def test_too_few_shares_are_left(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        cap = await uploaded(maker, DATA + b"yz")
        for shnum, path in containers(ten, cap).items():
            if shnum >= 2:
                path.unlink()
        found = await check(maker._grid, cap)
        assert (found.recoverable, found.healthy, found.unrecoverable_versions) == (False, False, 1)
        outcome = await repair(maker._grid, cap)
        assert (outcome.attempted, outcome.successful) == (False, False)
