"""Many small files and directories at once: to our servers in batches, to Tahoe's one by one; all are there."""

from __future__ import annotations

import hashlib

import pytest

from tests.interop.conftest import SharedGrid
from tests.support.mounts import LafsfsHome
from tests.support.tahoe_trees import deep_check, listing

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300), pytest.mark.xdist_group("mixed")]

DIRECTORIES, FILES = 12, 15


def _data(directory: int, file: int) -> bytes:
    return hashlib.shake_128(b"%d %d" % (directory, file)).digest(100 + 397 * file)


def test_on_servers_of_both_makes(mixed_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    cap = mixed_grid.create(fresh_home)
    with fresh_home.mounted("home:", *mixed_grid.options) as tree:
        for directory in range(DIRECTORIES):
            (tree.path / str(directory)).mkdir()
            for file in range(FILES):
                (tree.path / str(directory) / str(file)).write_bytes(_data(directory, file))
        tree.flush()
        check = deep_check(mixed_grid.client, cap)
        assert check["list-unhealthy-files"] == check["list-corrupt-shares"] == []
        assert check["count-objects-healthy"] == 1 + DIRECTORIES * (1 + FILES)
    last = listing(mixed_grid.client, listing(mixed_grid.client, cap)[str(DIRECTORIES - 1)].cap)
    for name, child in last.items():
        assert mixed_grid.client.get(child.cap) == _data(DIRECTORIES - 1, int(name))
    fresh_home.forget()
    with fresh_home.mounted("home:", "-o", "ro", *mixed_grid.options) as tree:
        for directory in range(DIRECTORIES):
            found = {path.name: path.read_bytes() for path in (tree.path / str(directory)).iterdir()}
            assert found == {str(file): _data(directory, file) for file in range(FILES)}
