"""What a mount keeps of a tree that is larger than it wants to remember.

    python -m tests.bench.walk [--files N] [--in-a-directory N] [--walks N]

The tree is written to the grid directly, without a mount: immutable files of 40 bytes, with entries as a mount writes
them. Then a mount that knows nothing lists all of it, a stat for each file, and again. Prints as it goes how many were
listed so far, microseconds for each, the memory of the mount, and by how much it has grown for each of these files.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from functools import partial

import trio

from lafsfs.config import Paths
from lafsfs.daemon.engine import open_engine
from lafsfs.daemon.spec import GridSource
from lafsfs.formats.caps import DirCap, LiteralCap, parse
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Directory
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.entries import write_entry
from lafsfs.tree.inodes import Inode
from tests.bench.processes import memory
from tests.bench.running import check
from tests.support.mounts import MountedTree, lafsfs_home

_AT_ONCE = 4
_STEPS = 10
_SETTLED = 5.0  # seconds after which a mount has done what it does when nobody asks for anything


def _entries(top: int, count: int, writekey: bytes) -> Packed:
    """A directory of so many files; `top` tells it from others."""
    changes = {}
    for number in range(count):
        name, ino = f"file {number}", (top << 32) + number + 2
        data = b"%d %d " % (top, number)
        cap = LiteralCap(data.ljust(40, b".")).to_bytes()
        attributes = new_attributes(0o100644, os.getuid(), os.getgid())._replace(size=40)
        changes[name] = write_entry(Inode(ino, attributes, (b"", cap)), name, name.encode(), None, writekey)
    return Packed().with_changes(changes)


async def _write_tree(paths: Paths, root: DirCap, directories: int, files: int) -> None:
    async with open_engine(paths, GridSource()) as engine:
        nodes, made = engine.nodes(), dict[int, Directory]()
        waiting = iter(range(1, directories + 1))
        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(_make, nodes, waiting, files, made)
        directory = nodes.directory(root)
        await directory.publish(await directory.read(), _top(made, directory.writekey or b""))


async def _make(nodes: NodeMaker, waiting: Iterator[int], files: int, made: dict[int, Directory]) -> None:
    for number in waiting:
        made[number], _ = await nodes.create_directory(partial(_entries, number, files))


def _top(made: dict[int, Directory], writekey: bytes) -> Packed:
    changes = {}
    for number, directory in made.items():
        caps = (directory.cap.to_bytes(), directory.cap.read_cap().to_bytes())
        inode = Inode((number << 32) + 1, new_attributes(0o040755, os.getuid(), os.getgid()), caps, 2)
        changes[f"d{number}"] = write_entry(inode, f"d{number}", b"d%d" % number, None, writekey)
    return Packed().with_changes(changes)


def _walk(tree: MountedTree, files: int, directories: int) -> None:
    process = tree.pid
    before = memory(process)
    began, found = time.perf_counter(), 0
    for number in range(1, directories + 1):
        with os.scandir(tree.path / f"d{number}") as listed:
            found += sum(entry.stat().st_size == 40 for entry in listed)
        if number % max(1, directories // _STEPS) == 0:
            _tell(found, time.perf_counter() - began, memory(process), before)
    check(found == files, "the listing")
    time.sleep(_SETTLED)
    print("after a rest", end="")
    _tell(found, 0.0, memory(process), before)


def _tell(found: int, seconds: float, now: int, before: int) -> None:
    grown = (now - before) / found
    print(
        f"{found:12,}{1e6 * seconds / found:10.1f} µs{now / (1 << 20):8.0f} MiB{grown:10.0f} bytes",
        flush=True,
    )


def main() -> None:
    """Prints; an exception when something was not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--in-a-directory", type=int, default=1_000)
    parser.add_argument("--walks", type=int, default=2)
    options = parser.parse_args()
    directories = options.files // options.in_a_directory
    with lafsfs_home() as home:
        root = parse(home.create().encode())
        assert isinstance(root, DirCap)
        paths = Paths.discover(home.environment)
        trio.run(_write_tree, paths, root, directories, options.in_a_directory)
        with home.mounted() as tree:
            for _ in range(options.walks):
                _walk(tree, directories * options.in_a_directory, directories)


if __name__ == "__main__":
    main()
