"""Random operations against a real directory, with drains, clean re-openings and crashes in between."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.tree import Tree
from tests.support.grids import client
from tests.support.posix_model import Both
from tests.support.storage import StorageServer
from tests.support.trees import EAGER, IDLE, copy_state, left_in, new_root, opened

STEPS = 60
ROUNDS = 4
SEEDS = range(int(os.environ.get("LAFSFS_SEEDS", "2")))


class Session:
    """One opening of the tree after the other."""

    def __init__(self, nodes: NodeMaker, root: DirCap, folder: Path, options: TreeOptions) -> None:
        self.nodes, self.root, self.folder, self.options = nodes, root, folder, options
        self._numbers = itertools.count()
        self.state = folder / "state0"

    @asynccontextmanager
    async def opened(self, both: Both) -> AsyncIterator[None]:
        async with opened(self.nodes, self.root, self.state, self.options) as fs:
            assert not fs.tree.errors
            both.fs = fs
            yield

    def abandon(self) -> None:
        """From here on it is as if the machine had lost its power just now."""
        old, self.state = self.state, self.folder / f"copy{next(self._numbers)}"
        copy_state(old, self.state)


@pytest.mark.parametrize("options", [IDLE, EAGER], ids=["idle", "eager"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_random_operations(
    nodes: NodeMaker, three: list[StorageServer], tmp_path: Path, seed: int, options: TreeOptions
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    both = Both(real, seed)
    session = Session(nodes, await new_root(nodes), tmp_path, options)
    for _ in range(ROUNDS):
        await _one_round(session, both)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(session.opened(both))
        await both.compare()
        await both.fs.drain()
        assert left_in(both.fs.tree) == [], both.tail()
        before = await both.fs.everything()
    async with (
        client(three[:1], Encoding(1, 1, 1)) as fresh,
        opened(fresh, session.root, tmp_path / "fresh") as fs,
    ):
        assert await fs.everything() == before, both.tail()
        assert not fs.tree.conflicts
    assert both.failures > 0


async def _one_round(session: Session, both: Both) -> None:
    """Some operations and then the end, one way or the other."""
    with trio.CancelScope() as scope:
        async with session.opened(both):
            for _ in range(STEPS):
                await both.step()
                if both.random.random() < 0.05:
                    both.log.append("drain")
                    await both.fs.drain()
                if both.random.random() < 0.1:
                    await trio.sleep(0.01)
            await both.compare()
            assert not both.fs.tree.conflicts, both.tail()
            _check_counts(both.fs.tree)
            if both.random.random() < 0.5:
                session.abandon()
                both.crashed()
                scope.cancel()
                await trio.lowlevel.checkpoint()
            else:
                both.log.append("reopen")
                await both.close_all()


def _check_counts(tree: Tree) -> None:
    """Changed names are counted, and known as names of what they lead to: a change may rely on that (change.py)."""
    counted: Counter[int] = Counter()
    for inode in tree.inodes:
        for name, pending in inode.folder.pending.items() if inode.folder is not None else ():
            target = tree.inodes.get(pending.ino) if pending.ino is not None else None
            if target is not None:
                counted[target.ino] += 1
                assert (inode.ino, name) in target.links
    assert counted == Counter({inode.ino: inode.pending for inode in tree.inodes if inode.pending})
