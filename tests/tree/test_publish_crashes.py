"""The process dies at every step of publishing: nothing is lost, nothing comes back, no false conflicts."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.namespace import RENAME_EXCHANGE
from tests.support.grids import client
from tests.support.storage import StorageServer
from tests.support.trees import CrashPoints, Files, left_in, new_root, opened

Look = dict[bytes, tuple[int, bytes]]


async def look(fs: Files) -> Look:
    """What the operations below determine: types and contents."""
    return {path: (stat.S_IFMT(seen.mode), seen.content) for path, seen in (await fs.everything()).items()}


# --- what is done: `before` is published, `work` is what the process dies in publishing -------------------


async def before(fs: Files) -> None:
    await fs.mkdir("d")
    await fs.mkdir("d/sub")
    await fs.write("d/file", b"1" * 100)
    await fs.write("a", b"a" * 60)
    await fs.write("b", b"b" * 60)
    await fs.write("gone", b"x")
    await fs.mkdir("left")
    await fs.write("left/moved", b"moved" * 20)


async def _again(fs: Files) -> None:
    """Bring the tree back to what it was `before`, and publish that."""
    for path in sorted(await fs.everything(), reverse=True):
        await (fs.rmdir(path) if (await fs.find(path)).is_dir else fs.unlink(path))
    await before(fs)
    await fs.drain()


async def changes(fs: Files) -> None:
    await fs.replace("a", b"A" * 200)
    await fs.unlink("gone")
    await fs.write("new", b"new")
    await fs.write("d/file", b"2", 50)


async def renames(fs: Files) -> None:
    await fs.rename("d/file", "file")
    await fs.rename("a", "b")
    await fs.mkdir("n")
    await fs.rename("left/moved", "n/moved")
    await fs.rmdir("left")


async def exchanges(fs: Files) -> None:
    await fs.rename("a", "d/file", RENAME_EXCHANGE)
    await fs.rename("d/sub", "left", RENAME_EXCHANGE)


WORKS = [changes, renames, exchanges]


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("work", WORKS)
async def test_death_at_every_step_of_publishing(
    nodes: NodeMaker,
    three: list[StorageServer],
    tmp_path: Path,
    work: Callable[[Files], Awaitable[None]],
    stride: int,
) -> None:
    root = await _published(nodes, tmp_path)
    for number in itertools.count(1 + WORKS.index(work) % stride, stride):
        folder = tmp_path / str(number)
        points = CrashPoints(folder / "state", folder / "copy", number, _is_worth_dying_at, paused=True)
        wanted: Look = {}
        with points.armed():
            async with opened(nodes, root, points.state) as fs:
                await _again(fs)
                await work(fs)
                wanted = await look(fs)
                points.paused = False
                await fs.drain()
        if not points.dead:
            assert number > 5
            return
        async with client(three[:1], Encoding(1, 1, 1)) as fresh:
            await _comes_back(fresh, root, folder, wanted, points.passed[-1])


async def _published(nodes: NodeMaker, folder: Path) -> DirCap:
    root = await new_root(nodes)
    async with opened(nodes, root, folder / "before") as fs:
        await before(fs)
        await fs.drain()
    return root


def _is_worth_dying_at(step: str) -> bool:
    """The state is the same before a commit as after the step ahead of it."""
    return step not in ("before commit", "before upload")


async def _comes_back(nodes: NodeMaker, root: DirCap, folder: Path, wanted: Look, step: str) -> None:
    """A new process, with the state as it was at that step, shows and publishes what was acknowledged."""
    async with opened(nodes, root, folder / "copy") as fs:
        assert await look(fs) == wanted, step
        await fs.drain()
        assert await look(fs) == wanted, step
        assert left_in(fs.tree) == [], step
        assert not fs.tree.conflicts, step
        assert not fs.tree.errors, step
    async with opened(nodes, root, folder / "fresh") as fs:
        assert await look(fs) == wanted, step
