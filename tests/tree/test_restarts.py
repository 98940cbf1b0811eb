"""One client moves and removes directories, and dies again and again: nothing is undone, nothing comes back.

Whatever was acknowledged before is taken for what others did by whoever mistakes its own traces on the grid.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.options import TreeOptions
from tests.support.grids import client
from tests.support.storage import StorageServer
from tests.support.trees import Files, new_root, opened

SEEDS = range(int(os.environ.get("LAFSFS_SEEDS", "6")))
LIVES = 10
MOST_DIRECTORIES = 12


class Work:
    """Random operations on the tree and on the set of paths that it must show; directories end in a slash."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.paths: set[str] = set()
        self._serial = 0

    @property
    def shown(self) -> set[bytes]:
        return {path.rstrip("/").encode() for path in self.paths}

    async def step(self, fs: Files) -> None:
        kinds = (self.mkdir, self.mkdir, self.create, self.move, self.move, self.move, self.remove, self.rest)
        await self.random.choice(kinds)(fs)

    def _some(self, *, directory: bool) -> list[str]:
        found = sorted(path for path in self.paths if path.endswith("/") == directory)
        return [self.random.choice(found)] if found else []

    def _new(self) -> str:
        self._serial += 1
        (above,) = self._some(directory=True) or [""]
        return f"{above if self.random.random() < 0.8 else ''}n{self._serial}"

    async def mkdir(self, fs: Files) -> None:
        if sum(path.endswith("/") for path in self.paths) < MOST_DIRECTORIES:
            path = self._new()
            await fs.mkdir(path)
            self.paths.add(path + "/")

    async def create(self, fs: Files) -> None:
        path = self._new()
        await fs.write(path, b"x")
        self.paths.add(path)

    async def move(self, fs: Files) -> None:
        for old in self._some(directory=self.random.random() < 0.7):
            new = self._new() + "/" * old.endswith("/")
            if new.startswith(old):
                return
            await fs.rename(old.rstrip("/"), new.rstrip("/"))
            self.paths = {new + path[len(old) :] if path.startswith(old) else path for path in self.paths}

    async def remove(self, fs: Files) -> None:
        """One file, or a directory that is empty or, sometimes, with all that is in it."""
        for top in self._some(directory=self.random.random() < 0.5):
            below = [path for path in self.paths if path == top or (top[-1] == "/" and path.startswith(top))]
            if len(below) > 1 and self.random.random() < 0.7:
                return
            for path in sorted(below, key=len, reverse=True):
                await (fs.rmdir(path.rstrip("/")) if path.endswith("/") else fs.unlink(path))
                self.paths.remove(path)

    async def rest(self, _: Files) -> None:
        await trio.sleep(self.random.choice((0.0, 0.01, 0.1, 0.3)))


@pytest.mark.parametrize("seed", SEEDS)
async def test_nothing_is_undone_by_dying(
    nodes: NodeMaker, three: list[StorageServer], tmp_path: Path, seed: int
) -> None:
    work, root = Work(seed), await new_root(nodes)
    options = TreeOptions(
        publish_delay=0.02,
        refresh=work.random.choice((0.05, 3600.0)),
        directory_wait=work.random.choice((0.05, 2.0)),
        label="test",
    )
    for _ in range(LIVES):
        await _live(three, root, tmp_path, options, work)
    async with client(three[:1], Encoding(1, 1, 1)) as fresh, opened(fresh, root, tmp_path, options) as fs:
        await fs.drain()
        assert set(await fs.everything()) == work.shown
        assert not fs.tree.status().errors


async def _live(
    three: list[StorageServer], root: DirCap, state: Path, options: TreeOptions, work: Work
) -> None:
    async with client(three[:1], Encoding(1, 1, 1)) as fresh, opened(fresh, root, state, options) as fs:
        assert set(await fs.everything()) == work.shown
        for _ in range(work.random.randint(5, 40)):
            await work.step(fs)
        if work.random.random() < 0.2:
            await fs.drain()
