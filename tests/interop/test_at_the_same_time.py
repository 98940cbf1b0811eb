"""lafsfs and Tahoe put files into directories that were empty a moment ago, at the same time: both have all of them."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.interop.conftest import SharedGrid
from tests.support.mounts import LafsfsHome, wait_until
from tests.support.tahoe import TahoeClient
from tests.support.tahoe_trees import listing

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300)]

DIRECTORIES = 30
SPREAD = 0.3  # seconds: within so much time a small file is on the grid, after it was written


def _taken(client: TahoeClient, directory: str, pause: float) -> bool:
    """Whether Tahoe took a file after so many seconds. It may refuse when others are writing."""
    time.sleep(pause)  # so that ours arrives at any moment of Tahoe's change
    try:
        client.request("PUT", f"/uri/{quote(directory)}/theirs", b"theirs" * 40)
    except AssertionError:
        return False
    return True


def _has(directory: Path, names: set[str]) -> bool:
    return {path.name for path in directory.iterdir()} >= names


def test_neither_loses_what_the_other_wrote(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    shared_grid.create(fresh_home)
    moments = random.Random(1)
    options = ("-o", "publish_delay=0,refresh=0.2", *shared_grid.options)
    with fresh_home.mounted("home:", *options) as tree, ThreadPoolExecutor(1) as pool:
        for number in range(DIRECTORIES):
            directory = tree.path / f"d{number}"
            directory.mkdir()
            tree.flush()
            cap = fresh_home.lafsfs("cap", str(directory)).stdout.strip()
            taken = pool.submit(_taken, shared_grid.client, cap, moments.uniform(0, SPREAD))
            (directory / "ours").write_bytes(b"ours" * 40)
            expected = {"ours", "theirs"} if taken.result() else {"ours"}
            wait_until(partial(_has, directory, expected), 60, f"{expected} in {number}")
            tree.flush()
            seen = set(listing(shared_grid.client, cap))
            assert seen >= expected, (number, tree.status(), shared_grid.client.check(quote(cap)))
