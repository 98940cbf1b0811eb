"""What looking for news, and small changes of large mutable files, cost on the network."""

from __future__ import annotations

from pathlib import Path

import pytest

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap
from lafsfs.formats.dirnode import make_entry
from lafsfs.formats.packed import Packed
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.options import TreeOptions
from tests.support.grids import client, counting
from tests.support.pairs import NEVER, look_again
from tests.support.storage import StorageServer
from tests.support.trees import opened

ENTRIES = 10_000


class Told:
    """What the kernel is told."""

    def __init__(self) -> None:
        self.entries: set[bytes] = set()

    def entry_changed(self, directory: int, name: bytes) -> None:
        self.entries.add(name)

    def inode_changed(self, ino: int, content: bool) -> None:
        """Of no interest here."""

    def knows(self, directory: int, name: bytes) -> bool:
        return True

    def asked(self, directory: int, name: bytes) -> None:
        """Of no interest here."""


def entry(name: str, writekey: bytes, content: bytes = b"me") -> bytes:
    return make_entry(
        name, b"URI:LIT:" + content, b"", b'{"tahoe":{"linkcrtime":1,"linkmotime":1}}', writekey
    )


async def test_ten_thousand_entries_are_looked_at_again_in_one_small_round_trip(
    three: list[StorageServer], tmp_path: Path
) -> None:
    names = [f"entry {number}" for number in range(ENTRIES)]

    def make(writekey: bytes) -> Packed:
        return Packed().with_changes({name: entry(name, writekey) for name in names})

    encoding = Encoding(2, 3, 3)
    async with client(three, encoding) as nodes, client(three, encoding) as other:
        directory, snapshot = await nodes.create_directory(make)
        async with opened(nodes, directory.cap, tmp_path / "state", NEVER) as fs:
            told = fs.tree.kernel = Told()
            assert len(await fs.names()) == ENTRIES
            look_again(fs)
            async with counting(nodes._grid) as traffic:
                await fs.names()
            assert set(traffic.calls.values()) == {1}
            assert max(traffic.received.values()) < 10_000
            assert traffic.sent == 0
            assert not told.entries
            theirs = other.directory(directory.cap)
            assert theirs.writekey is not None
            changes = {
                "entry 7": entry("entry 7", theirs.writekey, b"mf"),
                "new": entry("new", theirs.writekey),
                "entry 9": None,
            }
            await theirs.publish(await theirs.read(), snapshot.packed.with_changes(changes))
            assert len(await fs.names()) == ENTRIES
            assert told.entries == {b"entry 7", b"entry 9", b"new"}


@pytest.mark.parametrize(
    ("encoding", "size", "most"),
    [(Encoding(1, 1, 1), 100 << 20, 1_000_000), (Encoding(3, 3, 10), 20 << 20, 4_000_000)],
    ids=["1of1", "3of10"],
)
async def test_four_kilobytes_in_the_middle_of_a_large_file(
    three: list[StorageServer], tmp_path: Path, encoding: Encoding, size: int, most: int
) -> None:
    """Through the tree, with all that it reads and keeps for the case that somebody else writes, too."""
    servers = three[: min(3, encoding.n)]
    async with client(servers, encoding) as nodes:
        root = await _with_large_file(nodes, size)
        async with opened(nodes, root, tmp_path / "state", TreeOptions(publish_delay=3600.0)) as fs:
            async with counting(nodes._grid) as traffic:
                await fs.write("large", b"x" * 4096, size // 2 + 1234)
                await fs.write("large", b"y" * 4096, size - 5000)
                await fs.drain()
            assert traffic.sent < most
            assert sum(traffic.received.values()) < most
            handle = await fs.open("large")
            assert await fs.pread(handle, 6000, size // 2) == bytes(1234) + b"x" * 4096 + bytes(670)
            assert await fs.pread(handle, 6000, size - 6000) == bytes(1000) + b"y" * 4096 + bytes(904)
            await fs.close(handle)
            assert fs.tree.inode(ROOT).folder is not None


async def _with_large_file(nodes: NodeMaker, size: int) -> DirCap:
    file = await nodes.create_mutable(bytes(size), True)
    rw, ro = file.cap.to_bytes(), file.cap.read_cap().to_bytes()

    def make(writekey: bytes) -> Packed:
        return Packed().with_changes({"large": make_entry("large", ro, rw, b"{}", writekey)})

    directory, _ = await nodes.create_directory(make)
    return directory.cap
