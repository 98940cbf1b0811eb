"""Leases of everything that can be reached are renewed, whatever interrupts it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lafsfs.errors import NotEnoughServersError
from lafsfs.formats import base32
from lafsfs.formats.caps import DirCap, UnknownCap, parse
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.leases import RenewResult
from lafsfs.tree import leases
from lafsfs.tree.attaching import attach, caps_to_attach
from lafsfs.tree.leases import LeaseStatus, Round
from tests.support.storage import StorageServer
from tests.support.trees import IDLE, Files, new_root, opened

QUICK = replace(IDLE, lease_interval=0.2, lease_rate=1e6)
"""Renewed at once, again and again."""
LONG = replace(QUICK, lease_interval=86400.0)
OLD = 1000
"""When the leases run out that are to be renewed, in Unix seconds."""


async def fill(fs: Files, nodes: NodeMaker) -> None:
    """Objects of every kind, also such that only another directory holds."""
    for name in ("a", "a/b", "empty"):
        await fs.mkdir(name)
    for name in ("one", "a/two", "a/b/three", "a/b/four"):
        await fs.write(name, name.encode() * 100)
    await fs.write("a/literal", b"x")
    theirs = await new_root(nodes)
    mutable = await nodes.create_mutable(b"mutable", mdmf=True)
    for name, cap in (("a/theirs", theirs.read_cap().to_bytes()), ("mutable", mutable.cap.to_bytes())):
        parent, last = await fs._above(name)
        await attach(fs.tree, parent.ino, last, caps_to_attach(cap))
    parent, last = await fs._above("future")
    await attach(fs.tree, parent.ino, last, caps_to_attach(b"ro.future:1"))
    await fs.drain()


async def storage_indexes(nodes: NodeMaker, cap: DirCap) -> set[bytes]:
    """Of everything that can be reached."""
    assert cap.storage_index is not None
    found = {cap.storage_index}
    packed = (await nodes.directory(cap).read()).packed
    for name in packed.names():
        entry = packed.get(name)
        assert entry is not None
        child = parse(entry.ro_uri)
        if isinstance(child, DirCap):
            found |= await storage_indexes(nodes, child)
        elif not isinstance(child, UnknownCap) and child.storage_index is not None:
            found.add(child.storage_index)
    return found


def _expiration(path: Path) -> tuple[int, int]:
    """(where it stands, when the first lease of a share runs out)."""
    data = path.read_bytes()
    where = 104 if data.startswith(b"Tahoe mutable container") else len(data) - 4
    return where, int.from_bytes(data[where : where + 4], "big")


def shares_of(server: StorageServer, storage_index: bytes) -> list[Path]:
    name = base32.encode(storage_index)
    return list((server.storage_dir / "shares" / name[:2] / name).iterdir())


def expirations(server: StorageServer, indexes: Iterable[bytes]) -> set[bytes]:
    """The storage indexes that have a share whose lease is old."""
    return {
        index for index in indexes if any(_expiration(path)[1] == OLD for path in shares_of(server, index))
    }


def grow_old(server: StorageServer, indexes: Iterable[bytes]) -> None:
    """Let all leases run out; the server is restarted for it."""
    server.stop()
    for index in indexes:
        for path in shares_of(server, index):
            where, _ = _expiration(path)
            with path.open("r+b") as file:
                file.seek(where)
                file.write(OLD.to_bytes(4, "big"))
    server.start()


async def until(condition: Callable[[], object], deadline: float = 60.0) -> None:
    """Return when the condition is true."""
    with trio.fail_after(deadline):
        while True:
            if condition():
                return
            await trio.sleep(0.02)


async def until_done(fs: Files) -> LeaseStatus:
    """The status after the first whole walk."""
    await until(lambda: fs.tree.leases.status().finished is not None)
    return fs.tree.leases.status()


async def test_everything_is_renewed(nodes: NodeMaker, three: list[StorageServer], tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fill(fs, nodes)
        assert fs.tree.leases.status().finished is None
    indexes = await storage_indexes(nodes, root)
    assert len(indexes) == 10
    grow_old(three[0], indexes)
    assert expirations(three[0], indexes) == indexes
    async with opened(nodes, root, tmp_path / "one", QUICK) as fs:
        done = await until_done(fs)
        assert done.last == Round(renewed=10)
        assert done.finished is not None
        assert abs(done.finished - time.time()) < 3600
    three[0].stop()  # which brings what it journalled to the shares
    assert expirations(three[0], indexes) == set()
    three[0].start()
    async with opened(nodes, root, tmp_path / "one", LONG) as fs:
        again = fs.tree.leases.status()
        assert (again.state, again.last) == ("waiting", done.last)
        assert again.finished is not None
        assert again.next == pytest.approx(again.finished + 86400)


@pytest.mark.parametrize("stop", [1, 4, 7, 9])
async def test_an_interrupted_walk_goes_on(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Wherever it stopped, nothing is left out, and little is done twice."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fill(fs, nodes)
    monkeypatch.setattr(leases, "AT_ONCE", 1)
    monkeypatch.setattr(leases, "SETTLE", 0.0)
    monkeypatch.setattr(leases, "FIRST", 0.0)
    everything = await storage_indexes(nodes, root)
    renew = nodes.renew_leases
    before: list[bytes] = []
    after: list[bytes] = []

    async def until_then(indexes: Iterable[bytes]) -> RenewResult:
        wanted = set(indexes)
        if len(before) == stop:
            raise NotEnoughServersError("the cable is out")
        before.extend(wanted)
        return await renew(wanted)

    async def from_then(indexes: Iterable[bytes]) -> RenewResult:
        wanted = set(indexes)
        after.extend(wanted)
        return await renew(wanted)

    monkeypatch.setattr(nodes, "renew_leases", until_then)
    async with opened(nodes, root, tmp_path / "one", LONG) as fs:
        await until(lambda: fs.tree.leases.status().state == "unreachable")
    monkeypatch.setattr(nodes, "renew_leases", from_then)
    async with opened(nodes, root, tmp_path / "one", LONG) as fs:
        done = await until_done(fs)
    assert {*before, *after} == everything
    assert len(after) == len({*after})
    assert len({*before} & {*after}) <= 4  # the last one, and the directories that lead there
    assert done.last == Round(renewed=len(before) + len(after))


async def test_servers_that_do_not_answer(
    nodes: NodeMaker, three: list[StorageServer], tmp_path: Path
) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fill(fs, nodes)
    three[0].stop()
    async with opened(nodes, root, tmp_path / "one", QUICK) as fs:
        await until(lambda: fs.tree.leases.status().state == "unreachable")
        assert fs.tree.leases.status().finished is None
        three[0].start()
        assert (await until_done(fs)).last == Round(renewed=10)


async def test_what_is_lost_is_counted(nodes: NodeMaker, three: list[StorageServer], tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fill(fs, nodes)
        gone = [parse((await fs.tree.caps_at(name))[1]) for name in (b"one", b"a/b")]
    three[0].stop()
    for cap in gone:
        assert not isinstance(cap, UnknownCap)
        assert cap.storage_index is not None
        for path in shares_of(three[0], cap.storage_index):
            path.unlink()
    three[0].start()
    async with opened(nodes, root, tmp_path / "two", QUICK) as fs:
        done = await until_done(fs)
        # The file, the directory, and what is in the directory, of which nobody knows.
        assert done.last == Round(renewed=6, lost=2, missed=1)
        assert fs.tree.status().leases is not None
    async with opened(nodes, root, tmp_path / "two", LONG) as fs:
        status = fs.tree.leases.status()
        assert status.finished is not None
        assert status.next == pytest.approx(status.finished + 86400)


async def test_directories_inside_themselves(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        for name in ("a", "b"):
            await fs.mkdir(name)
        await fs.drain()
        for above, name in (("a", "b"), ("b", "a")):
            parent = await fs.find(above)
            await attach(fs.tree, parent.ino, name.encode(), await fs.tree.caps_at(name.encode()))
        await fs.drain()
    async with opened(nodes, root, tmp_path / "one", QUICK) as fs:
        assert (await until_done(fs)).last.missed == 0


async def test_it_can_be_switched_off(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one", replace(IDLE, lease_interval=None)) as fs:
        status = fs.tree.leases.status()
        assert (status.state, status.next, status.finished) == ("off", None, None)
