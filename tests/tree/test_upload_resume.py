"""An upload that a crash interrupts goes on where the servers say; what they hold is never sent again."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.errors import ServerUnreachableError
from lafsfs.grid.server import StorageServer as Client
from lafsfs.grid.server import WriteProgress
from lafsfs.grid.transport import Payload
from tests.support.grids import client
from tests.support.storage import StorageServer
from tests.support.trees import EAGER, IDLE, new_root, opened

SIZE = 20 << 20
TWO_OF_THREE = Encoding(2, 2, 3)


class Watch:
    """Counts the bytes of shares that servers take; `stop_after` of them, the network is gone for good."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.taken: dict[tuple[str, int], set[tuple[int, int]]] = defaultdict(set)
        self.bytes = 0
        self.stopped = trio.Event()
        original = Client.write_share

        async def watched(
            server: Client, si: bytes, shnum: int, secret: bytes, offset: int, data: Any, total: int
        ) -> WriteProgress:
            if stop_after is not None and self.bytes >= stop_after:
                self.stopped.set()
                raise ServerUnreachableError("the network is gone")
            progress = await original(server, si, shnum, secret, offset, data, total)
            size = Payload.of(data).size
            self.taken[server.server_id, shnum].add((offset, offset + size))
            self.bytes += size
            return progress

        monkeypatch.setattr(Client, "write_share", watched)
        monkeypatch.setattr(Client, "abort", _lost)


async def _lost(*_: Any) -> None:
    raise ServerUnreachableError("the network is gone")


async def test_no_byte_that_a_server_holds_is_sent_again(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(SIZE)
    with monkeypatch.context() as patch:
        async with client(three, TWO_OF_THREE) as nodes:
            root = await new_root(nodes)
            first = Watch(patch, stop_after=SIZE // 2)
            async with opened(nodes, root, tmp_path, EAGER) as fs:
                await fs.write("big", data)
                with trio.fail_after(60):
                    await first.stopped.wait()
    with monkeypatch.context() as patch:
        second = Watch(patch)
        async with client(three, TWO_OF_THREE) as nodes, opened(nodes, root, tmp_path) as fs:
            await fs.drain()
    assert first.bytes + second.bytes < SIZE * 3 // 2 + (64 << 10)
    for share, ranges in second.taken.items():
        before = first.taken[share]
        again = [(a, b) for a, b in ranges for c, d in before if a < d and c < b]
        assert all(b - a < 4096 for a, b in again), "more than a share's header was sent again"
    async with client(three, TWO_OF_THREE) as nodes, opened(nodes, root, tmp_path / "other", IDLE) as fs:
        assert await fs.read("big") == data


async def test_the_ledger_goes_with_the_upload(three: list[StorageServer], tmp_path: Path) -> None:
    async with client(three, TWO_OF_THREE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path) as fs:
            await fs.write("big", os.urandom(2 << 20))
            await fs.drain()
            assert list(fs.tree.journal.metas("upload:")) == []
            assert list(fs.tree.journal.metas("log:")) == [] or not list((tmp_path / "staged").iterdir())
