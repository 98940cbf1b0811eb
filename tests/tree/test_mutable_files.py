"""Mutable files (SDMF and MDMF) of other clients inside a directory: read, written in place, not overwritten unseen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from lafsfs.errors import RollbackError
from lafsfs.formats.caps import DirCap
from lafsfs.formats.dirnode import make_entry
from lafsfs.formats.packed import Packed
from lafsfs.nodes.maker import NodeMaker
from lafsfs.nodes.mutable import MutableFile
from lafsfs.tree.options import TreeOptions
from tests.support.trees import left_in, opened

NEVER = TreeOptions(publish_delay=3600.0, refresh=0.0, label="here")
"""Nothing is published before somebody drains; what others did is seen with every access."""

both_kinds = pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
CONTENT = bytes(range(256)) * 1200
"""Three segments of an MDMF file."""


async def mutable_in_root(nodes: NodeMaker, content: bytes, mdmf: bool) -> tuple[DirCap, MutableFile]:
    """A root with an entry "m", as Tahoe makes it: without POSIX attributes."""
    file = await nodes.create_mutable(content, mdmf)
    rw, ro = file.cap.to_bytes(), file.cap.read_cap().to_bytes()

    def make(writekey: bytes) -> Packed:
        return Packed().with_changes({"m": make_entry("m", ro, rw, b"{}", writekey)})

    directory, _ = await nodes.create_directory(make)
    return directory.cap, file


async def on_grid(nodes: NodeMaker, file: MutableFile) -> bytes:
    version = await nodes.mutable_file(file.cap).latest()
    node = nodes.mutable_file(file.cap)
    return await node.read(0, version.size)


@both_kinds
async def test_a_mutable_file_is_read_and_written_in_place(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, mdmf: bool
) -> None:
    root, file = await mutable_in_root(nodes, CONTENT, mdmf)
    expected = bytearray(CONTENT)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        assert await fs.read("m") == CONTENT
        for offset, data in ((140_000, b"in the middle"), (len(CONTENT), b"at the end"), (0, b"z" * 140_000)):
            await fs.write("m", data, offset)
            expected[offset : offset + len(data)] = data
            assert await fs.read("m") == expected
            await fs.drain()
            assert await fs.read("m") == expected
            assert await on_grid(other_nodes, file) == expected
        await fs.set("m", size=200_000)
        await fs.set("m", size=210_000)
        expected[200_000:] = bytes(10_000)
        await fs.drain()
        assert await on_grid(other_nodes, file) == expected
        await fs.replace("m", b"short")
        await fs.drain()
        assert await on_grid(other_nodes, file) == b"short"
        assert left_in(fs.tree) == []
        assert not fs.tree.conflicts
        before = await fs.everything()
    async with opened(other_nodes, root, tmp_path / "fresh", NEVER) as fs:
        assert await fs.everything() == before


@both_kinds
async def test_changes_of_others_are_seen(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, mdmf: bool
) -> None:
    root, file = await mutable_in_root(nodes, b"one", mdmf)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        assert await fs.read("m") == b"one"
        handle = await fs.open("m")
        await other_nodes.mutable_file(file.cap).overwrite(CONTENT, None)
        assert (await fs.find("m")).attributes.size == len(CONTENT)
        assert await fs.read("m") == CONTENT
        assert await fs.pread(handle, len(CONTENT), 0) == CONTENT
        await fs.close(handle)


@both_kinds
async def test_both_change_a_mutable_file(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, mdmf: bool
) -> None:
    root, file = await mutable_in_root(nodes, CONTENT, mdmf)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        await fs.replace("m", b"OURS" * 100)
        await other_nodes.mutable_file(file.cap).overwrite(b"THEIRS", None)
        await fs.drain()
        assert await on_grid(other_nodes, file) == b"THEIRS"
        assert await fs.read("m") == b"THEIRS"
        (copy,) = await fs.names() - {b"m"}
        assert b"m.conflict-here-" in copy
        assert await fs.read(copy) == b"OURS" * 100
        assert len(fs.tree.conflicts) == 1
        await fs.write("m", b"again")
        await fs.drain()
        assert await on_grid(other_nodes, file) == b"againS"
        assert left_in(fs.tree) == []
        before = await fs.everything()
    async with opened(other_nodes, root, tmp_path / "fresh", NEVER) as fs:
        assert await fs.everything() == before


async def test_a_lost_answer_and_another_change_are_no_conflict(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, file = await mutable_in_root(nodes, b"one", False)
    overwrite = MutableFile.overwrite
    lost = trio.Event()

    async def loses_the_answer(self: MutableFile, data: bytes, base: object) -> object:
        await overwrite(self, data, base)  # type: ignore[arg-type]
        monkeypatch.undo()
        lost.set()
        raise RollbackError("the answer is lost")

    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        await fs.write("m", b"two")
        monkeypatch.setattr(MutableFile, "overwrite", loses_the_answer)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fs.drain)
            await lost.wait()
            await fs.write("m", b"three")
        assert await on_grid(nodes, file) == b"three"
        assert await fs.names() == {b"m"}
        assert not fs.tree.conflicts


async def test_what_was_changed_survives_a_crash(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Also the knowledge of the version it was changed against."""
    root, file = await mutable_in_root(nodes, CONTENT, True)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        await fs.write("m", b"OURS", 1000)
    await other_nodes.mutable_file(file.cap).overwrite(b"THEIRS" * 1000, None)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        await fs.drain()
        assert await on_grid(other_nodes, file) == b"THEIRS" * 1000
        (copy,) = await fs.names() - {b"m"}
        assert b"OURS" in await fs.read(copy)


async def test_a_mutable_file_in_a_directory_that_is_only_read(nodes: NodeMaker, tmp_path: Path) -> None:
    """Through a read cap of the directory nothing can be written, and nothing is left pending."""
    root, file = await mutable_in_root(nodes, b"one", False)
    reader = root.read_cap()
    assert isinstance(reader, DirCap)
    async with opened(nodes, reader, tmp_path / "state", NEVER) as fs:
        assert await fs.read("m") == b"one"
        with pytest.raises(OSError, match="read-only"):
            await fs.open("m", os.O_WRONLY)
        assert left_in(fs.tree) == []
    assert await on_grid(nodes, file) == b"one"
