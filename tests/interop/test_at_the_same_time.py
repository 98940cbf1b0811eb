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

DIRECTORIES = 16
LONGEST = 0.3  # seconds: Tahoe looks at a directory twice within about so long before it writes


def _taken(client: TahoeClient, directory: str) -> bool:
    """Whether Tahoe took a file. It refuses when it does not come to an end with others writing."""
    try:
        client.request("PUT", f"/uri/{quote(directory)}/theirs", b"theirs" * 40)
    except AssertionError:
        return False
    return True


def _has(directory: Path, names: set[str]) -> bool:
    return {path.name for path in directory.iterdir()} >= names


def _write(path: Path, pause: float) -> None:
    time.sleep(pause)  # to any moment of Tahoe's change
    path.write_bytes(b"ours" * 40)


def test_neither_loses_what_the_other_wrote(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    shared_grid.create(fresh_home)
    moments = random.Random(1)
    options = ("-o", "publish_delay=0,refresh=0.2", *shared_grid.options)
    with fresh_home.mounted("home:", *options) as tree, ThreadPoolExecutor(2) as pool:
        for number in range(DIRECTORIES):
            directory = tree.path / f"d{number}"
            directory.mkdir()
            tree.flush()
            cap = fresh_home.lafsfs("cap", str(directory)).stdout.strip()
            taken = pool.submit(_taken, shared_grid.client, cap)
            pool.submit(_write, directory / "ours", moments.uniform(0, LONGEST)).result()
            expected = {"ours", "theirs"} if taken.result() else {"ours"}
            wait_until(partial(_has, directory, expected), 60, f"{expected} in {number}")
            tree.flush()
            assert set(listing(shared_grid.client, cap)) >= expected
