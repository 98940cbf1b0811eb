"""The kernel keeps what files contain until it is told otherwise; what another mount writes, it is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.many import many_servers
from tests.support.mounts import MountedTree, lafsfs_home, wait_until

OPTIONS = ("-o", "refresh=0.2")
SIZE = 300_000


@pytest.fixture(scope="module")
def mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MountedTree, MountedTree]]:
    """Two mounts of one directory, with nothing but a server in common."""
    with many_servers(tmp_path_factory.mktemp("server"), 1) as (server,):
        encoding = {"needed": 1, "happy": 1, "total": 1}
        grid = {"storage": {server.server_id: server.announcement()}, "encoding": encoding}
        with lafsfs_home(grid=grid) as one, lafsfs_home(grid=grid) as other:
            one.create()
            shutil.copytree(one.path / "config", other.path / "config", dirs_exist_ok=True)
            with one.mounted("home:", *OPTIONS) as here, other.mounted("home:", *OPTIONS) as there:
                yield here, there


def write(path: Path, content: bytes) -> None:
    """Content that cannot be told by its size or time."""
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))


def test_content_of_the_same_size_and_time(mounts: tuple[MountedTree, MountedTree]) -> None:
    here, there = mounts
    for content in (os.urandom(SIZE) for _ in range(3)):
        write(here.path / "file", content)
        here.flush()
        wait_until((there.path / "file").exists)
        wait_until(lambda: (there.path / "file").read_bytes() == content)  # noqa: B023
        assert (there.path / "file").stat().st_mtime_ns == 10**18


def test_a_file_that_is_open_stays_as_it_was(mounts: tuple[MountedTree, MountedTree]) -> None:
    here, there = mounts
    old, new = os.urandom(SIZE), os.urandom(SIZE)
    write(here.path / "open", old)
    here.flush()
    wait_until((there.path / "open").exists)
    with (there.path / "open").open("rb", buffering=0) as file:
        assert file.read(1000) == old[:1000]
        write(here.path / "open", new)
        here.flush()
        wait_until(lambda: (there.path / "open").read_bytes() == new)
        assert os.pread(file.fileno(), SIZE, 0) == old


def test_written_in_turns(mounts: tuple[MountedTree, MountedTree]) -> None:
    content = bytes(SIZE)
    for number in range(6):
        mine, other = mounts[number % 2], mounts[1 - number % 2]
        path = mine.path / "turns"
        if number:
            wait_until(lambda: path.exists() and path.read_bytes() == content)  # noqa: B023
        else:
            path.write_bytes(content)
        with path.open("r+b") as file:
            file.seek(number * 1000)
            file.write(b"x" * 5000)
        os.utime(path, ns=(10**18, 10**18))
        content = content[: number * 1000] + b"x" * 5000 + content[number * 1000 + 5000 :]
        mine.flush()
        wait_until((other.path / "turns").exists)
    assert mounts[1].path.joinpath("turns").read_bytes() == content
