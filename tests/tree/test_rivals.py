"""Two versions of a directory that have one number, and can both be recovered."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lafsfs.config import Encoding
from lafsfs.errors import PendingError, UncoordinatedWriteError
from lafsfs.transfer.publish import Publisher
from lafsfs.transfer.servermap import ServerMap
from tests.support.grids import client, share_files
from tests.support.pairs import NEVER, agree
from tests.support.storage import StorageServer
from tests.support.trees import Files, new_root, opened

ONE_OF_TWO = Encoding(1, 1, 2)


async def test_the_one_who_failed_goes_on_from_both_and_others_wait(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, run = three[:2], Publisher.run
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(client(few, ONE_OF_TWO)) for _ in range(3)]
        root = await new_root(nodes[0])
        mounts = [
            await stack.enter_async_context(opened(one, root, tmp_path / str(number), NEVER))
            for number, one in enumerate(nodes)
        ]
        failing, winning, third = mounts
        shares = [path for server in few for path in share_files(server, root.storage_index).values()]
        before = {path: path.read_bytes() for path in shares}
        await winning.write("winning", b"w")
        await winning.drain()
        won = shares[0].read_bytes()
        for path, data in before.items():
            path.write_bytes(data)

        async def fails(self: Publisher) -> ServerMap:
            monkeypatch.setattr(Publisher, "run", run)
            await run(self)
            shares[0].write_bytes(won)
            await is_left_to_them(third)
            raise UncoordinatedWriteError("somebody else wrote the file at the same time")

        await failing.write("failing", b"f")
        monkeypatch.setattr(Publisher, "run", fails)
        await failing.drain()
        assert await agree(*mounts) == {b"winning", b"failing", b"third"}


async def is_left_to_them(third: Files) -> None:
    await third.names()
    await third.write("third", b"t")
    with pytest.raises(PendingError):
        await third.tree.drain(2.0)


async def test_rivals_of_which_nobody_knows_are_waited_for_only_so_long(
    three: list[StorageServer], tmp_path: Path
) -> None:
    few = three[:2]
    async with (
        client(few, ONE_OF_TWO) as nodes,
        client(few, ONE_OF_TWO) as others,
        client(few, ONE_OF_TWO) as fresh,
    ):
        root = await new_root(nodes)
        shares = [path for server in few for path in share_files(server, root.storage_index).values()]
        before = {path: path.read_bytes() for path in shares}
        async with opened(nodes, root, tmp_path / "one", NEVER) as fs:
            await fs.write("one", b"1")
            await fs.drain()
        one = shares[0].read_bytes()
        for path, data in before.items():
            path.write_bytes(data)
        async with opened(others, root, tmp_path / "other", NEVER) as fs:
            await fs.write("other", b"2")
            await fs.drain()
        shares[0].write_bytes(one)
        async with opened(fresh, root, tmp_path / "fresh", NEVER) as fs:
            await fs.write("new", b"3")
            await fs.drain()
            assert b"new" in await fs.names()
