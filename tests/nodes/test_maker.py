"""Caps become nodes of the right kind."""

from __future__ import annotations

import pytest

from lafsfs.config import Encoding
from lafsfs.errors import BadCapError, ReadOnlyError
from lafsfs.formats import caps, dirnode
from lafsfs.nodes.unknown import UnknownNode
from lafsfs.transfer.encoding import BytesContents
from tests.support.grids import client
from tests.support.storage import StorageServer

ONE = Encoding(1, 1, 1)


async def test_files_of_every_kind(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        for data in (b"", b"tiny", bytes(56), b"x" * 100_000):
            cap = await maker.upload(BytesContents(data))
            assert isinstance(cap, caps.LiteralCap) == (len(data) <= 55)
            node = maker.file(cap)
            assert (node.cap, node.size) == (cap, len(data))
            assert await node.read(0, len(data) + 1) == data
        for mdmf in (False, True):
            made = await maker.create_mutable(b"mutable", mdmf)
            assert await maker.file(made.cap).read(3, 99) == b"able"
            with pytest.raises(BadCapError):
                maker.file(made.cap.verify_cap())
        with pytest.raises(BadCapError):
            maker.file(caps.ChkVerifyCap(bytes(16), bytes(32), 1, 1, 100))


async def test_an_immutable_directory_on_the_grid(ten: list[StorageServer]) -> None:
    entries = {f"n{i}": dirnode.make_entry(f"n{i}", b"URI:LIT:me", b"", b"{}", None) for i in range(50)}
    packed = dirnode.Packed().with_changes(entries)
    async with client(ten[:1], ONE) as maker:
        cap = caps.DirCap(await maker.upload(BytesContents(packed.pack())))
        directory = maker.directory(cap)
        assert directory.deep_immutable
        snapshot = await directory.read()
        assert set(snapshot.packed.names()) == set(entries)
        assert snapshot.settled
        assert await directory.version() == snapshot.version
        with pytest.raises(ReadOnlyError):
            await directory.publish(snapshot, packed)
        verifier = cap.verify_cap()
        assert verifier is not None
        with pytest.raises(BadCapError):
            maker.directory(verifier)


async def test_what_one_node_learns_the_others_know(ten: list[StorageServer]) -> None:
    async with client(ten[:1], ONE) as maker:
        node = await maker.create_mutable(b"1", False)
        await node.overwrite(b"2", node.pinned)
        assert maker.floors[node.cap.storage_index] == 2


async def test_an_unknown_node_cannot_be_read() -> None:
    child = dirnode.understand(b"lafs-future:rw", b"lafs-future:ro", False)
    node = UnknownNode.of(child)
    assert (node.rw_uri, node.ro_uri, node.size) == (b"lafs-future:rw", b"ro.lafs-future:ro", 0)
    assert "future" not in repr(node)
    with pytest.raises(BadCapError):
        await node.read(0, 1)
