"""Files that stay open and are written without a pause (logs, recordings), and files found but not open yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree import publisher
from lafsfs.tree.staging import StagedFile
from tests.support.trees import EAGER, IDLE, Files, copy_state, left_in, new_root, opened

TIMES = 3  # states of one file to be seen elsewhere while it is written


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file never rests here, and its time comes soon."""
    monkeypatch.setattr(publisher, "OPEN_IDLE", 0.4)
    monkeypatch.setattr(publisher, "OPEN_LATEST", 0.5)


@pytest.mark.parametrize("known", [b"", os.urandom(40_000)], ids=["new", "known"])
async def test_a_file_that_is_written_without_a_pause_is_seen_elsewhere(
    nodes: NodeMaker, tmp_path: Path, known: bytes
) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "before") as fs:
        await fs.mkdir("logs")
        if known:
            await fs.write("logs/log", known)
        await fs.drain()
    written = bytearray(known)
    async with (
        opened(nodes, root, tmp_path / "one", EAGER) as one,
        opened(nodes, root, tmp_path / "two", EAGER) as two,
        trio.open_nursery() as nursery,
    ):
        handle = await (one.open("logs/log", os.O_WRONLY) if known else one.create("logs/log"))
        await one.pwrite(handle, b"first", len(written))
        written += b"first"

        async def write() -> None:
            for line in lines():
                await one.pwrite(handle, line, len(written))
                written.extend(line)
                await trio.sleep(0.001)

        nursery.start_soon(write)
        with trio.fail_after(60):
            await seen_growing(two, written, len(known))
        nursery.cancel_scope.cancel()
        expected = bytes(written)
        copy_state(tmp_path / "one", tmp_path / "killed")
        await one.close(handle)
        await one.drain()
    for state, options in (("killed", IDLE), ("fresh", IDLE)):
        async with opened(nodes, root, tmp_path / state, options) as fs:
            assert await fs.read("logs/log") == expected
            await fs.drain()
            assert await fs.names("logs") == {b"log"}


@pytest.mark.parametrize("size", [100, 200_000], ids=["in the journal", "in a log"])
async def test_a_file_that_was_just_replaced_can_be_opened(
    nodes: NodeMaker, tmp_path: Path, size: int
) -> None:
    """A program looks a name up, another one renames over it, the first one opens what it found."""
    async with opened(nodes, await new_root(nodes), tmp_path / "state") as fs:
        old = os.urandom(size)
        await fs.write("file", old)
        await fs.write("new", b"new")
        found = await fs.find("file")
        await fs.rename("new", "file")
        handle = await fs.tree.files.open(found, os.O_RDONLY)
        assert await fs.pread(handle, size + 1, 0) == old
        await fs.close(handle)
        fs.forget()
        assert fs.tree.inodes.get(found.ino) is None
        assert len(fs.tree.files) == 0
        assert await fs.read("file") == b"new"
        await fs.drain()
        assert left_in(fs.tree) == []
        assert list((tmp_path / "state" / "staged").iterdir()) == []


def lines() -> Iterator[bytes]:
    for number in range(1_000_000):
        yield b"line %d of what is recorded\n" % number


async def seen_growing(fs: Files, written: bytearray, least: int) -> None:
    """Return when several states of the file were seen, each of them what was written until some moment."""
    states: set[int] = set()
    while len(states) < TIMES:
        await trio.sleep(0.02)
        if await fs.exists("logs/log"):
            content = await fs.read("logs/log")
            assert content == written[: len(content)]
            if len(content) > least:
                states.add(len(content))


async def test_scattered_small_writes_do_not_have_a_log_rewritten_for_each(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten: list[StagedFile] = []
    call = StagedFile.rewritten

    def note(log: StagedFile) -> None:
        rewritten.append(log)
        call(log)

    monkeypatch.setattr(StagedFile, "rewritten", note)
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path, IDLE) as fs:
        handle = await fs.create("scattered")
        for place in range(0, 10_000 * 100, 100):
            await fs.pwrite(handle, b"x", place)
        await fs.close(handle)
        assert 1 <= len(rewritten) <= 3
        assert await fs.read("scattered") == (b"x".ljust(100, b"\0") * 10_000)[: 9_999 * 100 + 1]
