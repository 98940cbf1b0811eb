"""Check, verify, repair and leases of mutable files on real servers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lafsfs.config import Encoding
from lafsfs.errors import BadCapError
from lafsfs.formats import caps
from lafsfs.nodes.mutable import MutableFile
from lafsfs.transfer.check import check
from lafsfs.transfer.leases import renew
from lafsfs.transfer.repair import repair
from tests.support.grids import client, flip, share_files
from tests.support.storage import StorageServer

MANY = Encoding(3, 7, 10)
DATA = bytes(range(256)) * 1500


def containers(ten: list[StorageServer], node: MutableFile) -> dict[int, Path]:
    index = node.cap.storage_index
    return {shnum: path for server in ten for shnum, path in share_files(server, index).items()}


def write_cap(node: MutableFile) -> caps.MutableWriteCap:
    assert isinstance(node.cap, caps.MutableWriteCap)
    return node.cap


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_a_healthy_file(mdmf: bool, ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(DATA, mdmf)
        cap = write_cap(node)
        for verify in (False, True):
            for weaker in (cap, cap.read_cap(), cap.verify_cap()):
                found = await check(maker._grid, weaker, verify=verify)
                assert found.healthy
                assert found.recoverable
                assert found.summary == "Healthy"
                results = found.results()
                assert results["count-happiness"] == results["count-good-share-hosts"] == 10
                assert results["count-shares-good"] == len(results["servers-responding"]) == 10
                assert (results["count-shares-needed"], results["count-shares-expected"]) == (3, 10)
                assert results["list-corrupt-shares"] == []
                assert all(share.startswith("seq1-") for share in results["sharemap"])
        outcome = await repair(maker._grid, cap)
        assert (outcome.attempted, outcome.successful) == (False, True)


async def test_verify_finds_what_check_does_not_and_repair_mends_it(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(DATA, True)
        cap, grid = write_cap(node), maker._grid
        pinned = node._pinned
        assert pinned is not None
        at = pinned.header.sections
        damaged = containers(ten, node)
        flip(damaged[2], at.data.end - 1)
        flip(damaged[4], at.encprivkey.start + 9)
        flip(damaged[6], at.signature.start + 9)
        damaged[8].unlink()
        # One signature is checked for all equal headers: the bad one is only noticed if it came first.
        summary = (await check(grid, cap.verify_cap())).summary
        assert summary in {f"Unhealthy: {count} shares (enc 3-of-10)" for count in (8, 9)}
        without_key = await check(grid, cap.read_cap(), verify=True)
        assert {shnum for _, shnum in without_key.corrupt} == {2, 6}
        found = await check(grid, cap, verify=True)
        assert {shnum for _, shnum in found.corrupt} == {2, 4, 6}
        assert not found.healthy
        assert found.recoverable
        refused = await repair(grid, cap.read_cap(), verify=True)
        assert (refused.attempted, refused.successful) == (False, False)
        outcome = await repair(grid, cap, verify=True)
        assert outcome.attempted
        assert outcome.successful
        assert outcome.after.healthy
        assert await maker.mutable_file(cap.read_cap()).read(0, len(DATA)) == DATA


async def test_too_few_shares(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(DATA, False)
        for shnum, path in containers(ten, node).items():
            if shnum > 1:
                path.unlink()
        found = await check(maker._grid, write_cap(node))
        assert not found.recoverable
        assert (found.recoverable_versions, found.unrecoverable_versions) == (0, 1)
        outcome = await repair(maker._grid, write_cap(node))
        assert (outcome.attempted, outcome.successful) == (False, False)


async def test_a_lost_newer_version_is_not_repaired_away(ten: list[StorageServer], tmp_path: Path) -> None:
    few = ten[:3]
    async with client(few, Encoding(2, 1, 3)) as maker:
        node = await maker.create_mutable(b"old", False)
        for shnum, path in containers(few, node).items():
            shutil.copy(path, tmp_path / str(shnum))
        await node.overwrite(b"new", node.pinned)
    for server in few:
        server.stop()
    for shnum, path in containers(few, node).items():
        if shnum:
            shutil.copy(tmp_path / str(shnum), path)
    for server in few:
        server.start()
    async with client(few, Encoding(2, 1, 3)) as maker:
        found = await check(maker._grid, write_cap(node))
        assert (found.recoverable_versions, found.unrecoverable_versions, found.other) == (1, 1, 1)
        assert not found.healthy
        assert not (await repair(maker._grid, write_cap(node))).attempted
        assert (await repair(maker._grid, write_cap(node), force=True)).successful
        assert await maker.mutable_file(node.cap).read(0, 10) == b"old"


async def test_leases_are_renewed(ten: list[StorageServer]) -> None:
    async with client(ten[:3], Encoding(1, 1, 2)) as maker:
        nodes = [await maker.create_mutable(bytes([i]), False) for i in range(4)]
        indexes = {node.cap.storage_index for node in nodes}
        done = await renew(maker._grid, [*indexes, bytes(16)])
        assert (done.renewed, done.lost, done.unknown, done.failures) == (indexes, {bytes(16)}, set(), {})
        ten[0].kill()
        done = await renew(maker._grid, [bytes(16)])
        assert (done.renewed, done.lost, done.unknown) == (set(), set(), {bytes(16)})
        assert list(done.failures) == ["s0"]


async def test_literals_cannot_be_checked(ten: list[StorageServer]) -> None:
    async with client(ten[:1], MANY) as maker:
        with pytest.raises(BadCapError):
            await check(maker._grid, caps.LiteralCap(b"x"))  # type: ignore[arg-type]
