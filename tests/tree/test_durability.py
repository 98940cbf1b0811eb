"""The table of contrib/doc/durability.md, row by row: what is there after kill -9, a power failure, on the grid."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from lafsfs.errors import LafsError
from lafsfs.formats.caps import DirCap
from lafsfs.nodes.maker import NodeMaker
from tests.support.power import Disk
from tests.support.trees import IDLE, Files, Seen, copy_state, new_root, opened

LARGE = os.urandom(200_000)
GRID = dataclasses.replace(IDLE, fsync="grid", sync_wait=30.0)


async def change(fs: Files) -> None:
    """One change of each kind."""
    await fs.mkdir("made")
    await fs.write("made/large", LARGE)
    await fs.write("made/small", b"small")
    await fs.symlink(b"target", "made/symlink")
    await fs.link("made/small", "made/linked")
    await fs.write("old/file", b"changed", 2)
    await fs.rename("old/moved", "made/moved")
    await fs.rename("old/over", "old/replaced")
    await fs.unlink("old/removed")
    await fs.set("old/file", mode=0o600)
    await fs.set("old/cut", size=3)
    await fs.setxattr("old/file", b"user.x", b"value")
    await fs.rmdir("old/empty")


async def prepared(nodes: NodeMaker, state: Path) -> DirCap:
    """A root with things to change, all of it on the grid."""
    root = await new_root(nodes)
    async with opened(nodes, root, state) as fs:
        await fs.mkdir("old")
        await fs.mkdir("old/empty")
        for name in ("file", "moved", "over", "replaced", "removed", "cut"):
            await fs.write(f"old/{name}", name.encode() * 100)
        await fs.drain()
    return root


async def looks(nodes: NodeMaker, root: DirCap, state: Path) -> dict[bytes, Seen]:
    """What a tree shows that is opened with this state."""
    async with opened(nodes, root, state) as fs:
        assert not fs.tree.status().errors
        return await fs.everything()


async def test_after_kill_nothing_that_returned_is_missing(nodes: NodeMaker, tmp_path: Path) -> None:
    """Rows 1 and 2: what the operating system has is what a copy of the files shows."""
    state = tmp_path / "state"
    root = await prepared(nodes, state)
    async with opened(nodes, root, state) as fs:
        await change(fs)
        handle = await fs.open("made/large", os.O_WRONLY)
        await fs.pwrite(handle, b"not closed", 7)
        expected = await fs.everything()
        copy_state(state, tmp_path / "copy")
        await fs.close(handle)
    assert await looks(nodes, root, tmp_path / "copy") == expected


async def test_a_power_failure_a_little_later_takes_nothing(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 2: without fsync everything is on the disk soon."""
    state = tmp_path / "state"
    root = await prepared(nodes, state)
    disk = Disk(monkeypatch, state)
    async with opened(nodes, root, state) as fs:
        await change(fs)
        expected = await fs.everything()
        with trio.fail_after(20):
            for number in range(1000):
                await trio.sleep(0.3)
                copy = disk.after_power_failure(tmp_path / f"copy{number}")
                if await _shown(nodes, root, copy) == expected:
                    break


async def _shown(nodes: NodeMaker, root: DirCap, state: Path) -> dict[bytes, Seen] | None:
    try:
        return await looks(nodes, root, state)
    except (OSError, LafsError):
        return None


async def sync_file(fs: Files) -> None:
    """fsync of each file that was changed."""
    for path in ("made/large", "made/small", "old/file", "old/cut"):
        handle = await fs.open(path)
        await fs.tree.files.sync(handle)
        await fs.close(handle)


async def sync_directories(fs: Files) -> None:
    """fsync of both directories."""
    for path in ("made", "old"):
        await fs.tree.sync(await fs.find(path))


@pytest.mark.parametrize("synced", [sync_file, sync_directories])
async def test_fsync_forces_it_to_the_disk(
    nodes: NodeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    synced: Callable[[Files], Awaitable[None]],
) -> None:
    """Row 3: of a file its content, and of any file or directory all names that were changed before."""
    state = tmp_path / "state"
    root = await prepared(nodes, state)
    disk = Disk(monkeypatch, state)
    async with opened(nodes, root, state) as fs:
        await change(fs)
        await synced(fs)
        copy = disk.after_power_failure(tmp_path / "copy")
        expected = await fs.everything()
    found = await looks(nodes, root, copy)
    assert found.keys() == expected.keys()
    if synced is sync_file:
        assert found == expected


@pytest.mark.parametrize("synced", [sync_file, sync_directories])
async def test_fsync_to_the_grid(
    nodes: NodeMaker,
    other_nodes: NodeMaker,
    tmp_path: Path,
    synced: Callable[[Files], Awaitable[None]],
) -> None:
    """Row 4: others see it, and the way to it, when fsync returns; nobody drained."""
    root = await prepared(nodes, tmp_path / "state")
    async with opened(nodes, root, tmp_path / "state", GRID) as fs:
        await change(fs)
        await synced(fs)
        async with opened(other_nodes, root, tmp_path / "other") as others:
            found = await others.everything()
        expected = await fs.everything()
    paths = (b"made/large", b"made/small", b"old/file", b"old/cut")
    assert {path: found[path].content for path in paths} == {path: expected[path].content for path in paths}


async def test_after_a_drain_all_of_it_is_on_the_grid(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Row 5."""
    root = await prepared(nodes, tmp_path / "state")
    async with opened(nodes, root, tmp_path / "state") as fs:
        await change(fs)
        await fs.drain()
        expected = {path: (seen.mode, seen.content) for path, seen in (await fs.everything()).items()}
    found = await looks(other_nodes, root, tmp_path / "other")
    assert {path: (seen.mode, seen.content) for path, seen in found.items()} == expected
