"""Mutable files (SDMF and MDMF) of other clients inside a directory: read, written in place, not overwritten unseen."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from lafsfs.errors import RollbackError
from lafsfs.formats.caps import DirCap
from lafsfs.formats.dirnode import make_entry
from lafsfs.formats.packed import Packed
from lafsfs.nodes.maker import NodeMaker
from lafsfs.nodes.mutable import MutableFile
from lafsfs.tree.attaching import attach, caps_to_attach
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.options import TreeOptions
from tests.support.pairs import ONCE
from tests.support.pairs import look_again as look_at_directories_again
from tests.support.storage import StorageServer
from tests.support.trees import Files, left_in, opened

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
async def test_one_of_two_names_is_removed_while_the_other_is_written(
    nodes: NodeMaker, tmp_path: Path, mdmf: bool
) -> None:
    """What changed is our own work, and not lost: no reason to keep the name."""
    root, file = await mutable_in_root(nodes, CONTENT, mdmf)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        caps = caps_to_attach(file.cap.to_bytes())
        await attach(fs.tree, ROOT, b"also", caps)
        await fs.drain()
        assert (await fs.read("m"), await fs.read("also")) == (CONTENT, CONTENT)
        await fs.write("m", b"patched", 200_000)
        await fs.unlink("also")
        await fs.drain()
        assert left_in(fs.tree) == []
    async with opened(nodes, root, tmp_path / "other", NEVER) as fs:
        assert await fs.names() == {b"m"}
        assert (await fs.read("m"))[200_000:200_007] == b"patched"


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


# --- two writers -----------------------------------------------------------------------------------------


@asynccontextmanager
async def two_mounts(
    nodes: NodeMaker, other: NodeMaker, folder: Path, content: bytes, mdmf: bool
) -> AsyncIterator[tuple[Files, Files, MutableFile]]:
    root, file = await mutable_in_root(nodes, content, mdmf)
    here = replace(NEVER, label="here", refresh=3600.0)
    there = replace(NEVER, label="there", refresh=3600.0)
    async with (
        opened(nodes, root, folder / "here", here) as one,
        opened(other, root, folder / "there", there) as two,
    ):
        yield one, two, file


def look_again(*mounts: Files) -> None:
    for fs in mounts:
        fs.tree._measured.clear()
        look_at_directories_again(fs)


async def agreed(here: Files, there: Files) -> dict[bytes, bytes]:
    """What both see in the end."""
    for fs in (there, here, there, here):
        look_again(fs)
        await fs.drain()
    look_again(here, there)
    ours = {path: seen.content for path, seen in (await here.everything()).items()}
    theirs = {path: seen.content for path, seen in (await there.everything()).items()}
    assert ours == theirs
    assert left_in(here.tree) == left_in(there.tree) == []
    return ours


Edit = Callable[[Files], Awaitable[None]]


async def edit_all(fs: Files, edits: list[Edit]) -> None:
    for edit in edits:
        await edit(fs)


def at(offset: int, data: bytes) -> Edit:
    async def edit(fs: Files) -> None:
        await fs.write("m", data, offset)

    return edit


def cut(size: int) -> Edit:
    async def edit(fs: Files) -> None:
        await fs.set("m", size=size)

    return edit


def edited(content: bytes, *edits: tuple[int, bytes]) -> bytes:
    out = bytearray(content)
    for offset, data in edits:
        out += bytes(max(0, offset + len(data) - len(out)))
        out[offset : offset + len(data)] = data
    return bytes(out)


END = len(CONTENT)


@both_kinds
@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        ([at(0, b"OURS")], [at(4, b"THEIRS")], edited(CONTENT, (0, b"OURSTHEIRS"))),
        (
            [at(200_000, b"OURS"), at(10, b"x"), at(300_000, b"y" * 7000)],
            [at(200_004, b"THEIRS"), at(5, b"z"), at(END - 1, b"z")],
            edited(
                CONTENT,
                (200_000, b"OURSTHEIRS"),
                (10, b"x"),
                (5, b"z"),
                (300_000, b"y" * 7000),
                (END - 1, b"z"),
            ),
        ),
        ([at(END, b"OURS")], [at(7, b"THEIRS")], edited(CONTENT, (END, b"OURS"), (7, b"THEIRS"))),
        ([at(7, b"OURS")], [at(END, b"THEIRS")], edited(CONTENT, (END, b"THEIRS"), (7, b"OURS"))),
        ([cut(250_000)], [at(7, b"THEIRS")], edited(CONTENT, (7, b"THEIRS"))[:250_000]),
        ([at(7, b"OURS")], [cut(250_000)], edited(CONTENT, (7, b"OURS"))[:250_000]),
        ([at(50, b"SAME")], [at(50, b"SAME")], edited(CONTENT, (50, b"SAME"))),
        ([cut(END + 9)], [at(7, b"THEIRS")], edited(CONTENT, (7, b"THEIRS"), (END, bytes(9)))),
    ],
    ids=["neighbours", "many", "append", "append there", "cut", "cut there", "same", "grow"],
)
async def test_ranges_that_do_not_overlap_merge(
    nodes: NodeMaker,
    other_nodes: NodeMaker,
    tmp_path: Path,
    mdmf: bool,
    ours: list[Edit],
    theirs: list[Edit],
    merged: bytes,
) -> None:
    async with two_mounts(nodes, other_nodes, tmp_path, CONTENT, mdmf) as (here, there, file):
        await edit_all(here, ours)
        await edit_all(there, theirs)
        await there.drain()
        assert (await agreed(here, there)) == {b"m": merged}
        assert await on_grid(nodes, file) == merged
        assert not here.tree.conflicts
        assert not there.tree.conflicts


@both_kinds
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([at(100, b"OURSOURS")], [at(104, b"THEIRS")]),
        ([at(100, b"OURS"), at(9, b"x")], [at(100, b"THEY")]),
        ([at(END, b"OURS")], [at(END, b"THEIRS")]),
        ([cut(100_000)], [at(END, b"THEIRS")]),
        ([cut(100_000)], [at(200_000, b"THEIRS")]),
        ([at(200_000, b"OURS")], [cut(100_000)]),
        ([cut(0), at(0, b"OURS")], [at(END - 1, b"z")]),
    ],
    ids=["part", "one of two", "append", "cut and append", "cut", "cut there", "whole"],
)
async def test_where_ranges_overlap_the_grids_version_stays(
    nodes: NodeMaker,
    other_nodes: NodeMaker,
    tmp_path: Path,
    mdmf: bool,
    ours: list[Edit],
    theirs: list[Edit],
) -> None:
    """Also next to ranges that do not overlap: ours is kept as a whole, beside theirs."""
    async with two_mounts(nodes, other_nodes, tmp_path, CONTENT, mdmf) as (here, there, file):
        await edit_all(here, ours)
        await edit_all(there, theirs)
        wanted, copied = await there.read("m"), await here.read("m")
        await there.drain()
        seen = await agreed(here, there)
        assert seen.pop(b"m") == wanted == await on_grid(nodes, file)
        ((name, copy),) = seen.items()
        assert name.startswith(b"m.conflict-here-")
        assert copy == copied


@both_kinds
async def test_a_file_that_is_open_while_others_change_it(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, mdmf: bool
) -> None:
    """The range is compared with what it was when the file was opened, not with what came later."""
    async with two_mounts(nodes, other_nodes, tmp_path, CONTENT, mdmf) as (here, there, _file):
        handle = await here.open("m", os.O_RDWR)
        await there.write("m", b"THEIRS", 100)
        await there.drain()
        await here.pwrite(handle, b"OURS", 50_000)
        await here.close(handle)
        assert await agreed(here, there) == {b"m": edited(CONTENT, (100, b"THEIRS"), (50_000, b"OURS"))}
        handle = await here.open("m", os.O_RDWR)
        await there.write("m", b"theirs", 100)
        await there.drain()
        await here.pwrite(handle, b"ours", 102)
        await here.close(handle)
        seen = await agreed(here, there)
        assert seen[b"m"] == edited(CONTENT, (100, b"theirs"), (50_000, b"OURS"))
        assert len(seen) == 2


@both_kinds
async def test_a_merge_after_a_restart(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, mdmf: bool
) -> None:
    root, _file = await mutable_in_root(nodes, CONTENT, mdmf)
    async with opened(nodes, root, tmp_path / "here", NEVER) as fs:
        await fs.write("m", b"OURS", 1000)
        await fs.write("m", b"MORE", END)
    async with opened(other_nodes, root, tmp_path / "there", NEVER) as fs:
        await fs.write("m", b"THEIRS", 1004)
        await fs.drain()
    async with opened(nodes, root, tmp_path / "here", NEVER) as fs:
        await fs.drain()
        assert await fs.read("m") == edited(CONTENT, (1000, b"OURSTHEIRS"), (END, b"MORE"))
        assert not fs.tree.conflicts
        assert [key for key, _ in fs.tree.journal.metas("before:")] == []
        assert [key for key, _ in fs.tree.journal.metas("base:")] == []


@both_kinds
@pytest.mark.parametrize("options", [NEVER, ONCE], ids=["refreshing", "not refreshing"])
async def test_a_file_that_the_kernel_forgot_keeps_its_size(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, mdmf: bool, options: TreeOptions
) -> None:
    """Its entry tells none; what is written on a size of nothing replaces everything."""
    root, file = await mutable_in_root(nodes, CONTENT, mdmf)
    async with opened(nodes, root, tmp_path / "state", options) as fs:
        before = await fs.find("m")
        assert before.attributes.size == len(CONTENT)
        fs.forget()
        again = await fs.find("m")
        assert again is not before
        assert again.attributes.size == len(CONTENT)
        fs.forget()
        await fs.write("m", b"patched", 200_000)
        await fs.drain()
    assert await on_grid(other_nodes, file) == CONTENT[:200_000] + b"patched" + CONTENT[200_007:]


@both_kinds
async def test_a_file_of_unknown_size_is_not_opened(
    three: list[StorageServer], nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, mdmf: bool
) -> None:
    root, file = await mutable_in_root(nodes, CONTENT, mdmf)
    async with opened(nodes, root, tmp_path / "state", ONCE) as fs:
        await fs.names()
        three[0].kill()
        assert (await fs.find("m")).attributes.size == 0
        with pytest.raises(OSError, match="server"):
            await fs.write("m", b"patched", 200_000)
        three[0].start()
        await fs.write("m", b"patched", 200_000)
        await fs.drain()
    assert await on_grid(other_nodes, file) == CONTENT[:200_000] + b"patched" + CONTENT[200_007:]
