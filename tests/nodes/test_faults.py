"""Servers that are dead, stalled, damaged or behind, while mutable files are read and written."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.errors import (
    LafsError,
    NotEnoughServersError,
    NotEnoughSharesError,
    OutdatedServersError,
    RollbackError,
    ServerUnreachableError,
    UncoordinatedWriteError,
)
from lafsfs.formats import base32, caps
from lafsfs.nodes import slot
from lafsfs.nodes.maker import NodeMaker
from lafsfs.nodes.mutable import MutableFile
from lafsfs.transfer.check import check
from lafsfs.transfer.publish import Publisher
from lafsfs.transfer.servermap import ServerMap
from tests.support.grids import QUICK, client, failing, flip, share_files
from tests.support.many import start_all
from tests.support.storage import StorageServer

MANY = Encoding(3, 3, 10)
CAREFUL = Encoding(3, 7, 10)
DATA = bytes(range(256)) * 100


def reader_of(maker: NodeMaker, node: MutableFile) -> MutableFile:
    cap = node.cap.read_cap()
    assert isinstance(cap, caps.MutableReadCap)
    return maker.mutable_file(cap)


def write_cap(node: MutableFile) -> caps.MutableWriteCap:
    assert isinstance(node.cap, caps.MutableWriteCap)
    return node.cap


def index_of(node: MutableFile) -> bytes:
    return node.cap.storage_index


def holders(ten: list[StorageServer], node: MutableFile) -> dict[int, tuple[StorageServer, Path]]:
    """Where each share is."""
    return {
        shnum: (server, path) for server in ten for shnum, path in share_files(server, index_of(node)).items()
    }


async def answering(maker: NodeMaker, servers: list[StorageServer]) -> None:
    """The client has seen that these servers answer."""
    ids = {server.server_id for server in servers}
    with trio.fail_after(30):
        for server in maker._grid.servers:
            while server.server_id in ids and not await server.probe():  # noqa: ASYNC110
                await trio.sleep(0.1)


async def test_any_seven_of_ten_servers_may_be_dead(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(DATA, True)
        for server in ten[:7]:
            server.kill()
        async with client(ten, MANY) as other:
            assert await reader_of(other, node).read(0, 10**6) == DATA
            again = other.mutable_file(node.cap)
            await again.overwrite(b"again", None)
            pinned = again._pinned
            assert pinned is not None
            assert {share.shnum for share in pinned.servermap.shares_of(pinned.header)} == set(range(10))
            assert await reader_of(other, node).read(0, 10) == b"again"
        # Those with the old version come back: the newest still counts, and is written everywhere next time.
        start_all(ten[:7])
        async with client(ten, MANY) as other:
            again = other.mutable_file(node.cap)
            assert (await again.latest()).seqnum == 2
            assert (await again.overwrite(b"third", again.pinned)).seqnum == 3
            pinned = again._pinned
            assert pinned is not None
            assert all(share.header == pinned.header for share in pinned.servermap.shares.values())
            assert {share.server.server_id for share in pinned.servermap.shares.values()} == {
                server.server_id for server in ten
            }


async def test_too_few_servers(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(DATA, False)
    for server in ten[:8]:
        server.kill()
    async with client(ten, MANY) as other:
        for attempt in (reader_of(other, node).latest, reader_of(other, node).newest):
            with pytest.raises(NotEnoughServersError):
                await attempt()
        with pytest.raises(NotEnoughServersError):
            await other.mutable_file(node.cap).overwrite(b"x", None)


async def test_nothing_is_written_where_too_few_servers_would_have_it(ten: list[StorageServer]) -> None:
    async with client(ten, CAREFUL) as maker:
        node = await maker.create_mutable(DATA, False)
        for server in ten[:4]:
            server.kill()
        async with client(ten, CAREFUL) as other:
            with pytest.raises(NotEnoughServersError, match="6 servers"):
                await other.mutable_file(node.cap).overwrite(b"x", None)
            with pytest.raises(NotEnoughServersError, match="6 servers"):
                await other.create_mutable(b"new", False)
        start_all(ten[:4])
        async with client(ten, CAREFUL) as other:
            assert await reader_of(other, node).read(0, 10**6) == DATA
            await other.mutable_file(node.cap).overwrite(b"x", None)
        assert await reader_of(maker, node).read(0, 10) == b"x"


async def test_servers_that_did_not_answer_a_reader_are_asked_again_by_a_writer(
    ten: list[StorageServer],
) -> None:
    async with client(ten, CAREFUL) as maker:
        node = await maker.create_mutable(DATA, False)
        for server in ten[:4]:
            server.kill()
        async with client(ten, CAREFUL) as other:
            again = other.mutable_file(node.cap)
            await again.latest()
            with pytest.raises(NotEnoughServersError, match="6 servers"):
                await again.overwrite(b"x", again.pinned)
            start_all(ten[:4])
            await answering(other, ten[:4])
            await again.overwrite(b"x", again.pinned)
        assert await reader_of(maker, node).read(0, 10) == b"x"


async def test_stalled_servers_are_not_waited_for(ten: list[StorageServer]) -> None:
    async with client(ten, MANY, timeouts=QUICK) as maker:
        node = await maker.create_mutable(DATA, True)
        base = node.pinned
        for server in ten[3:7]:
            server.pause()
        # A client that knows nothing of it yet.
        async with client(ten, MANY) as other:
            with trio.fail_after(15):
                assert await reader_of(other, node).read(0, 10**6) == DATA
                fresh = other.mutable_file(node.cap)
                assert (await fresh.latest()).seqnum == 1
        # One that just published to them: its requests have a deadline, and the shares get other homes.
        with trio.fail_after(60):
            assert (await node.overwrite(b"new", base)).seqnum == 2
        for server in ten[3:7]:
            server.resume()
        assert await reader_of(maker, node).read(0, 10) == b"new"


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_damaged_shares_are_read_around_reported_and_replaced(
    mdmf: bool, ten: list[StorageServer]
) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(DATA, mdmf)
        pinned = node._pinned
        assert pinned is not None
        header = pinned.header
        at = header.sections
        places = [5, at.signature.start + 3, at.chain.start + 5, at.block_tree.start + 1, at.data.start + 20]
        damaged, index = holders(ten, node), base32.encode(index_of(node))
        for shnum, place in enumerate(places):
            flip(damaged[shnum][1], place)
        async with client(ten, MANY) as other:
            assert await reader_of(other, node).read(0, 10**6) == DATA
            again = other.mutable_file(node.cap)
            assert await again.read(0, 10**6) == DATA
            assert (await again.overwrite(DATA + b"!", again.pinned)).seqnum == 2
            # A wrong signature beside a right one of the same header does no harm and need not be noticed.
            assert list((damaged[0][0].storage_dir / "corruption-advisories").glob(f"*{index}-0"))
        async with client(ten, MANY) as other:
            last = other.mutable_file(node.cap)
            await last.latest()
            found = last._pinned
            assert found is not None
            assert found.header.seqnum == 2
            numbers = {share.shnum for share in found.servermap.shares_of(found.header)}
            assert numbers == set(range(10))


async def test_too_many_damaged_shares(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(DATA, True)
        pinned = node._pinned
        assert pinned is not None
        for _, path in list(holders(ten, node).values())[:8]:
            flip(path, pinned.header.sections.data.start + 30)
        async with client(ten, MANY) as other:
            with pytest.raises(NotEnoughSharesError):
                await reader_of(other, node).read(0, 10)


def save(ten: list[StorageServer], node: MutableFile, into: Path) -> None:
    for server in ten:
        for shnum, path in share_files(server, index_of(node)).items():
            shutil.copy(path, into / f"{server.directory.name}-{shnum}")


def roll_back(servers: list[StorageServer], node: MutableFile, saved: Path) -> None:
    """Put the saved containers back while their server is down."""
    for server in servers:
        server.stop()
        for shnum, path in share_files(server, index_of(node)).items():
            shutil.copy(saved / f"{server.directory.name}-{shnum}", path)
    start_all(servers)


async def test_a_few_old_servers_do_not_matter(ten: list[StorageServer], tmp_path: Path) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(b"old", False)
        save(ten, node, tmp_path)
        await node.overwrite(b"new", node.pinned)
        behind = [server for shnum, (server, _) in holders(ten, node).items() if shnum < 4]
        roll_back(behind, node, tmp_path)
        async with client(ten, MANY) as other:
            assert await reader_of(other, node).read(0, 10) == b"new"
            again = other.mutable_file(node.cap)
            await again.overwrite(b"newer", None)
            assert (await again.latest()).seqnum == 3


async def test_an_old_server_does_not_let_everybody_through(ten: list[StorageServer], tmp_path: Path) -> None:
    """The server that all writers ask first is one that holds the newest version."""
    three = ten[:3]
    async with client(three, Encoding(2, 1, 3)) as maker, client(three, Encoding(2, 1, 3)) as other:
        node = await maker.create_mutable(b"old", False)
        first = maker._grid.permuted(index_of(node))[0]
        forgetful = [server for server in three if server.server_id == first.server_id]
        save(forgetful, node, tmp_path)
        await node.overwrite(b"new", node.pinned)
        roll_back(forgetful, node, tmp_path)
        await answering(other, forgetful)
        late = other.mutable_file(node.cap)
        await late.latest()
        base = late.pinned
        await answering(maker, forgetful)
        await node.latest()
        await node.overwrite(b"newer", node.pinned)
        roll_back(forgetful, node, tmp_path)
        await answering(other, forgetful)
        (path,) = share_files(forgetful[0], index_of(node)).values()
        before = path.read_bytes()
        with pytest.raises(UncoordinatedWriteError):
            await late.overwrite(b"too late", base)
        assert path.read_bytes() == before


async def test_old_servers_prove_nothing_while_others_do_not_answer(
    ten: list[StorageServer], tmp_path: Path
) -> None:
    few = ten[:2]
    async with client(few, Encoding(1, 1, 2), timeouts=QUICK) as maker:
        node = await maker.create_mutable(b"old", False)
        save(few, node, tmp_path)
        await node.overwrite(b"new", node.pinned)
        roll_back(few[1:], node, tmp_path)
        few[0].stop()
        for attempt in (node.latest, node.newest):
            with pytest.raises(OutdatedServersError):
                await attempt()
        few[0].start()
        await answering(maker, few)
        assert (await node.latest()).seqnum == 2


async def test_a_version_that_cannot_be_confirmed_makes_no_older_one_the_newest(
    ten: list[StorageServer], tmp_path: Path
) -> None:
    """Its server shows the header, and then does not give the signature."""
    few = ten[:2]
    encoding = Encoding(1, 1, 2)
    async with client(few, encoding) as maker, client(few, encoding) as other:
        node = await maker.create_mutable(b"old", False)
        save(few, node, tmp_path)
        await node.overwrite(b"new", node.pinned)
        roll_back(few[1:], node, tmp_path)
        other.floors.update(maker.floors)
        (newest,) = [one for one in other._grid.servers if one.server_id == few[0].server_id]

        async def broken(*_: object) -> bytes:
            raise ServerUnreachableError("the connection broke")

        newest.read_mutable = broken  # type: ignore[method-assign]
        with pytest.raises(OutdatedServersError):
            await other.mutable_file(write_cap(node)).newest()
        del newest.read_mutable
        assert (await other.mutable_file(write_cap(node)).newest()).seqnum == 2


async def test_who_failed_to_write_goes_on_from_what_somebody_else_wrote_instead(
    ten: list[StorageServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both versions have the same number and can be recovered; who wrote the other one believes that it is there."""
    few, run = ten[:2], Publisher.run
    async with client(few, Encoding(1, 1, 2)) as ours, client(few, Encoding(1, 1, 2)) as theirs:
        for _ in range(6):  # one of the two root hashes is the larger one
            node = await ours.create_mutable(b"base", False)
            other = theirs.mutable_file(write_cap(node))
            before = {
                path: path.read_bytes()
                for server in few
                for path in share_files(server, index_of(node)).values()
            }
            assert (await other.latest()).seqnum == 1
            winner = await other.overwrite(b"theirs", other.pinned)
            after = {path: path.read_bytes() for path in before}
            for path, data in before.items():
                path.write_bytes(data)

            async def fails(self: Publisher) -> ServerMap:
                await run(self)
                raise UncoordinatedWriteError("somebody else wrote the file at the same time")

            monkeypatch.setattr(Publisher, "run", fails)
            with pytest.raises(UncoordinatedWriteError):
                await node.overwrite(b"ours", node.pinned)
            monkeypatch.setattr(Publisher, "run", run)
            (theirs_there,) = share_files(few[0], index_of(node)).values()
            theirs_there.write_bytes(after[theirs_there])
            assert await node.latest() == winner
            assert await node.read(0, 10) == b"theirs"
            assert (await node.overwrite(b"both", node.pinned)).seqnum == 3
            assert await other.latest() == node.pinned


async def test_what_is_published_while_somebody_reads_is_no_roll_back(
    ten: list[StorageServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that has two names is read by one of them while it is published by the other."""
    survey, left = slot.survey, [True]
    async with client(ten[:2], Encoding(1, 1, 2)) as maker:
        node = await maker.create_mutable(b"old", False)
        other = maker.mutable_file(write_cap(node))

        async def held(*args: Any, **options: Any) -> ServerMap:
            found = await survey(*args, **options)
            if left:
                left.clear()
                await node.overwrite(b"new", node.pinned)
            return found

        monkeypatch.setattr(slot, "survey", held)
        for read in (other.newest, other.latest):
            seen = await read()
            assert seen.seqnum + 1 == (await read()).seqnum == maker.floors[index_of(node)]
            left.append(True)


async def test_a_roll_back_of_everything_is_noticed(ten: list[StorageServer], tmp_path: Path) -> None:
    few = ten[:2]
    encoding = Encoding(1, 1, 2)
    async with client(few, encoding, timeouts=QUICK) as maker:
        node = await maker.create_mutable(b"old", False)
        save(few, node, tmp_path)
        await node.overwrite(b"new", node.pinned)
        base = node.pinned
        roll_back(few, node, tmp_path)
        for attempt in (node.latest, node.newest, reader_of(maker, node).latest):
            with pytest.raises(RollbackError):
                await attempt()
        with pytest.raises(RollbackError):
            await node.overwrite(b"x", base)
        # Who remembers the number of the newest version notices also after a restart.
        async with client(few, encoding) as other:
            other.floors.update(maker.floors)
            with pytest.raises(RollbackError):
                await reader_of(other, node).latest()


async def test_a_newest_version_that_cannot_be_recovered(ten: list[StorageServer], tmp_path: Path) -> None:
    three = ten[:3]
    encoding = Encoding(2, 1, 3)
    async with client(three, encoding) as maker:
        node = await maker.create_mutable(b"old", False)
        save(three, node, tmp_path)
        await node.overwrite(b"new", node.pinned)
        roll_back(three[:2], node, tmp_path)
    async with client(three, encoding) as other:
        again = other.mutable_file(node.cap)
        with pytest.raises(NotEnoughSharesError):
            await again.latest()
        with pytest.raises(NotEnoughSharesError):
            await again.overwrite(b"x", None)
        # Who insists gets the older one, and can go on from there.
        version = await again.latest(older_ok=True)
        assert (version.seqnum, await again.read(0, 9)) == (1, b"old")
        assert (await again.overwrite(b"rescued", version)).seqnum == 3
        assert await reader_of(other, node).read(0, 10) == b"rescued"


async def test_a_server_that_comes_back_catches_up(ten: list[StorageServer]) -> None:
    async with client(ten, MANY) as maker:
        node = await maker.create_mutable(b"first", False)
        late, path = holders(ten, node)[4]
        before = path.read_bytes()
        late.stop()
        async with client(ten, MANY) as other:
            again = other.mutable_file(node.cap)
            await again.latest()
            late.start()
            await answering(other, [late])
            await again.overwrite(b"second", again.pinned)
            assert path.read_bytes() != before
            found = await check(other._grid, write_cap(node), verify=True)
            assert found.unrecoverable_versions == 0
            assert found.other == 0


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_writers_on_servers_that_fail_one_request_in_ten(mdmf: bool, ten: list[StorageServer]) -> None:
    """Real requests, of which one in ten is not sent, or its answer lost."""
    randomness = random.Random(3)
    async with client(ten, MANY) as a, client(ten, MANY) as b, client(ten, MANY) as c:
        node = await a.create_mutable(b"", mdmf)
        with trio.fail_after(100):
            async with (
                failing(a._grid, 0.1, randomness),
                failing(b._grid, 0.1, randomness),
                failing(c._grid, 0.1, randomness),
                trio.open_nursery() as nursery,
            ):
                for who, maker in (("a", a), ("b", b), ("c", c)):
                    nursery.start_soon(append_lines, maker, node, who, 8)
        last = a.mutable_file(node.cap)
        await last.latest()
        lines = (await last.read(0, 10**6)).split()
        assert sorted(lines) == sorted(b"%s%d" % (who, i) for who in (b"a", b"b", b"c") for i in range(8))
        # One more write without failures leaves nothing behind.
        await last.overwrite(b"done", last.pinned)
        found = await check(a._grid, write_cap(node), verify=True)
        assert found.healthy


async def append_lines(maker: NodeMaker, node: MutableFile, who: str, count: int) -> None:
    """Append `count` lines, each until it is there, whatever others do meanwhile."""
    mine = maker.mutable_file(node.cap)
    for number in range(count):
        line = f"{who}{number}".encode()
        while True:
            try:
                version = await mine.latest(older_ok=True)
                content = await mine.read(0, version.size)
                # To see the line after a failed write is not enough: that version may still lose.
                added = b"" if line in content.split() else b" " + line
                await mine.overwrite(content + added, version)
            except LafsError:
                await trio.sleep(random.random() * 0.2)
            else:
                break
