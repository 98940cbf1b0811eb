"""The process dies at every named place of the journal and the publisher: nothing acknowledged is lost or torn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafsfs.config import Encoding, GridProfile
from lafsfs.formats.caps import DirCap
from lafsfs.tree.crashpoints import POINTS
from tests.crash.script import SOMEBODY_ELSES, Contents, script
from tests.support.grids import client, entry_of
from tests.support.storage import StorageServer, storage_servers
from tests.support.trees import IDLE, Files, left_in, new_root, opened

ONE = Encoding(1, 1, 1)
OFTEN = ("file.done", "file.start", "file.uploaded", "journal.commit", "journal.sync", "directory.sent")
LATER = [pytest.param(f"{point}:{times}", marks=pytest.mark.slow) for point in OFTEN for times in (3, 7)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    """A storage server for all points."""
    with storage_servers(tmp_path_factory.mktemp("points"), 1) as servers:
        yield servers[0]


def perform(server: StorageServer, state: Path, root: DirCap, point: str) -> tuple[int, int]:
    """Run the script until it dies at `point`; how many acts returned, and the exit status."""
    grid = state.with_suffix(".grid")
    GridProfile((entry_of(server),), ONE).save(grid)
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.script", str(grid), str(state), point],
        input=root.to_string(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "LAFSFS_CRASH_AT": point},
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.stdout.count("\n"), done.returncode


async def content_of(fs: Files) -> Contents:
    """Everything in the tree but what the other client made, which keeps its name when both made a file."""
    seen = await fs.everything()
    found: Contents = {
        path.decode(): None if one.mode & 0o170000 == 0o040000 else one.content for path, one in seen.items()
    }
    for path in [path for path, content in found.items() if content == SOMEBODY_ELSES.data]:
        del found[path]
    ours = [path for path in found if path.startswith("mine.conflict")]
    assert len(ours) <= 1
    for path in ours:
        found["mine"] = found.pop(path)
    return found


def check(found: Contents, seed: str, acknowledged: int) -> None:
    """Either the act under way was done, or it was not, or part of its write was."""
    acts = script(seed)
    picture: Contents = {}
    for act in acts[:acknowledged]:
        act.apply(picture)
    if found == picture or acknowledged == len(acts):
        assert found == picture
        return
    act = acts[acknowledged]
    if act.partial and act.partial in found:
        found = {**found, act.partial: b""}
        picture = {**picture, act.partial: b""}
        assert found == picture
        return
    act.apply(picture)
    assert found == picture


@pytest.mark.parametrize("point", [*sorted(POINTS), *LATER])
async def test_death_at(server: StorageServer, tmp_path: Path, point: str) -> None:
    async with client([server], ONE) as nodes:
        root = await new_root(nodes)
    acknowledged, status = perform(server, tmp_path / "state", root, point)
    assert status == -signal.SIGKILL, f"{point} was never reached"
    async with client([server], ONE) as nodes:
        async with opened(nodes, root, tmp_path / "state", IDLE) as fs:
            assert not fs.tree.status().errors
            check(await content_of(fs), point, acknowledged)
            await fs.drain()
            drained = await content_of(fs)
            check(drained, point, acknowledged)
            assert left_in(fs.tree) == []
        async with opened(nodes, root, tmp_path / "fresh", IDLE) as fs:
            assert await content_of(fs) == drained
