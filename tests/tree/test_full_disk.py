"""The disk of the state directory fills up: writers wait, then ENOSPC; nothing acknowledged is lost; publishing goes on
and makes room.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from lafsfs.config import Encoding, GridProfile
from lafsfs.formats.caps import DirCap
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree import journal
from tests.support.grids import QUICK, client, entry_of
from tests.support.small_disk import only_root, small_disk
from tests.support.storage import StorageServer
from tests.support.trees import IDLE, Files, left_in, new_root, opened

ONE = Encoding(1, 1, 1)
MEGABYTES = 11
OPTIONS = dataclasses.replace(IDLE, staging_wait=0.5)
MIXES = [(100_000,), (16_000,), (3_000, 200_000, 16_384)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of a few megabytes."""
    with small_disk(tmp_path / "disk", MEGABYTES) as place:
        yield place


async def fill(fs: Files, sizes: tuple[int, ...]) -> dict[str, bytes]:
    """Write files until there is no space; those that were taken whole."""
    written: dict[str, bytes] = {}
    for number in range(20_000):
        name, data = f"f{number}", os.urandom(sizes[number % len(sizes)])
        try:
            await fs.write(name, data)
        except OSError as problem:
            if problem.errno == errno.ENOSPC:
                return written
            raise
        written[name] = data
    raise AssertionError("the disk never was full")


async def check(fs: Files, written: dict[str, bytes]) -> None:
    for name, data in written.items():
        assert await fs.read(name) == data, name


def take_all(place: Path) -> Path:
    """Take every free byte, as other programs may."""
    ballast = place / "ballast"
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    return ballast


@only_root
@pytest.mark.parametrize("sizes", MIXES, ids=str)
async def test_publishing_goes_on_and_makes_room(
    three: list[StorageServer], disk: Path, tmp_path: Path, sizes: tuple[int, ...]
) -> None:
    server = three[0]
    async with client([server], ONE, timeouts=QUICK) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, disk / "state", OPTIONS) as fs:
            server.kill()
            written = await fill(fs, sizes)
            assert len(written) > 20
            server.start()
            await fs.drain()
            await check(fs, written)
            # The journal, which held all of it, gets shorter soon, not at once.
            fs.tree.options = dataclasses.replace(OPTIONS, staging_wait=30.0)
            more = {f"again{number}": os.urandom(sizes[-1]) for number in range(20)}
            for name, data in more.items():
                await fs.write(name, data)
            await fs.drain()
            assert [what for what in left_in(fs.tree) if not what.startswith("object")] == []
    async with client([server], ONE) as nodes, opened(nodes, root, tmp_path / "fresh") as fs:
        await check(fs, written | more)


@only_root
async def test_writers_wait_for_the_publisher(nodes: NodeMaker, disk: Path) -> None:
    """With servers at hand, more can be written than the disk holds: nobody gets to see ENOSPC."""
    root = await new_root(nodes)
    options = dataclasses.replace(IDLE, staging_wait=30.0)
    files = {f"f{number}": os.urandom(500_000 if number % 2 else 15_000) for number in range(60)}
    async with opened(nodes, root, disk / "state", options) as fs:
        for name, data in files.items():
            await fs.write(name, data)
        await fs.drain()
        await check(fs, files)


@only_root
async def test_removing_and_emptying_files_is_possible(nodes: NodeMaker, disk: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, disk / "state", dataclasses.replace(OPTIONS, staging_wait=0.0)) as fs:
        written = await fill(fs, (100_000, 10_000))
        take_all(disk)
        for name in list(written)[: len(written) // 2]:
            if len(written[name]) == 100_000:
                await fs.set(name, size=0)
                written[name] = b""
            else:
                await fs.unlink(name)
                del written[name]
        await fs.tree.syncer.sync_all()  # which is when logs are deleted
        await fs.write("after", b"x" * 50_000)
        await check(fs, written | {"after": b"x" * 50_000})


PROGRAM = """
import os, sys, trio
from pathlib import Path
from lafsfs.config import GridProfile
from lafsfs.formats.caps import parse
from tests.tree.test_full_disk import fill_and_die
trio.run(fill_and_die, GridProfile.load(Path(sys.argv[1])), Path(sys.argv[2]), parse(sys.stdin.read()))
"""


async def fill_and_die(profile: GridProfile, state: Path, root: DirCap) -> None:
    """In a process of its own: fill the disk, tell how many files were taken, end without any order."""
    from lafsfs.grid.servers import Grid
    from lafsfs.transfer.keypool import KeyPool
    from tests.support.grids import SECRETS

    async with Grid(profile, SECRETS) as grid:
        nodes = NodeMaker(grid, None, KeyPool(None, None, 0))
        async with opened(nodes, root, state, dataclasses.replace(OPTIONS, staging_wait=0.0)) as fs:
            number = 0
            with suppress(OSError):
                while True:
                    await fs.write(f"f{number}", b"%d" % number * (50_000 if number % 2 else 2_000))
                    number += 1
            sys.stdout.write(str(number))
            sys.stdout.flush()
            os._exit(0)


@only_root
async def test_a_crash_on_a_full_disk(
    three: list[StorageServer], nodes: NodeMaker, disk: Path, tmp_path: Path
) -> None:
    """What was left is opened without a free byte, goes to the grid when there are some, and is complete."""
    root, state = await new_root(nodes), disk / "state"
    grid = tmp_path / "grid.yaml"
    GridProfile((entry_of(three[0]),), ONE).save(grid)
    command = [sys.executable, "-c", PROGRAM, str(grid), str(state)]
    done = await trio.run_process(command, stdin=root.to_string().encode(), capture_stdout=True)
    written = {f"f{n}": b"%d" % n * (50_000 if n % 2 else 2_000) for n in range(int(done.stdout))}
    assert len(written) > 20
    ballast = take_all(disk)
    async with opened(nodes, root, state, OPTIONS) as fs:
        assert not fs.tree.status().errors
        await check(fs, written)
        await fs.unlink("f1")
        del written["f1"]
        ballast.unlink()
        await fs.drain()
        await check(fs, written)


async def test_an_emptied_journal_gives_its_space_back(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "SLACK_BYTES", 1 << 18)
    root = await new_root(nodes)
    files = {f"f{number}": os.urandom(16_000) for number in range(150)}
    async with opened(nodes, root, tmp_path / "state") as fs:
        for name, data in files.items():
            await fs.write(name, data)
        full = _size_of(tmp_path / "state" / "journal")
        assert full > 1_500_000
        await fs.drain()
        for _ in range(600):
            if _size_of(tmp_path / "state" / "journal") < full // 4:
                break
            await trio.sleep(0.05)
        else:
            pytest.fail("the journal stays as long as it was")
        await check(fs, files)
    async with opened(nodes, root, tmp_path / "state") as fs:
        assert not fs.tree.status().errors
        await check(fs, files)


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())
