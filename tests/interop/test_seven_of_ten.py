"""3-of-10 over ten servers, Tahoe's and ours: any seven of them may stop, and every byte still reads."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.conftest import Server, SharedGrid
from tests.support.mounts import LafsfsHome
from tests.support.tahoe_trees import deep_check, listing

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300), pytest.mark.xdist_group("mixed")]

FILES = {
    f"file {size}": hashlib.shake_128(b"%d" % size).digest(size) for size in (10, 5000, 1_500_000, 4_000_000)
}


@contextmanager
def _stopped(servers: Sequence[Server]) -> Iterator[None]:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda server: server.stop(), servers))
        try:
            yield
        finally:
            list(pool.map(lambda server: server.start(), servers))


def _contents(top: Path) -> dict[str, bytes]:
    return {
        os.path.relpath(os.path.join(directory, name), top): Path(directory, name).read_bytes()
        for directory, _, names in os.walk(top)
        for name in names
    }


@pytest.fixture
def written(mixed_grid: SharedGrid, fresh_home: LafsfsHome) -> str:
    """A tree with shares on every server; its cap."""
    cap = mixed_grid.create(fresh_home)
    with fresh_home.mounted("home:", *mixed_grid.options) as tree:
        (tree.path / "below" / "deeper").mkdir(parents=True)
        for name, data in FILES.items():
            (tree.path / "below" / name).write_bytes(data)
            (tree.path / "below" / "deeper" / name).write_bytes(data[::-1])
    return cap


EXPECTED = {f"below/{name}": data for name, data in FILES.items()} | {
    f"below/deeper/{name}": data[::-1] for name, data in FILES.items()
}


def test_any_seven_servers_may_stop(mixed_grid: SharedGrid, fresh_home: LafsfsHome, written: str) -> None:
    check = deep_check(mixed_grid.client, written)
    assert check["list-unhealthy-files"] == []
    assert check["count-objects-checked"] == 3 + 6
    # Every choice that has both of Tahoe's, one of them or none among the three that stay.
    theirs, ours = mixed_grid.servers[:2], mixed_grid.servers[2:]
    choice = random.Random(7)
    for kept_of_tahoe in (2, 1, 0):
        kept = choice.sample(theirs, kept_of_tahoe) + choice.sample(ours, 3 - kept_of_tahoe)
        stopped = [server for server in mixed_grid.servers if server not in kept]
        fresh_home.forget()
        with _stopped(stopped), fresh_home.mounted("home:", "-o", "ro", *mixed_grid.options) as tree:
            began = time.monotonic()
            assert _contents(tree.path) == EXPECTED
            # Not one deadline of a dead server per file: the wait for the dead is bounded.
            assert time.monotonic() - began < 60


def test_seven_stop_below_a_mount_that_goes_on(
    mixed_grid: SharedGrid, fresh_home: LafsfsHome, written: str
) -> None:
    """The mount has seen all ten alive; nothing is in its cache."""
    fresh_home.forget()
    stopped = random.Random(8).sample(mixed_grid.servers, 7)
    with fresh_home.mounted("home:", *mixed_grid.options) as tree:
        assert (tree.path / "below" / "file 10").read_bytes() == FILES["file 10"]
        with _stopped(stopped):
            assert _contents(tree.path) == EXPECTED
            (tree.path / "below" / "written meanwhile").write_bytes(FILES["file 5000"])
            assert (tree.path / "below" / "written meanwhile").read_bytes() == FILES["file 5000"]
    [below] = listing(mixed_grid.client, written).values()
    late = listing(mixed_grid.client, below.cap)["written meanwhile"]
    assert mixed_grid.client.get(late.cap) == FILES["file 5000"]
