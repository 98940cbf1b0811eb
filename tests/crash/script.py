"""A fixed sequence of changes that passes every crash point; run as a program, it says which of them returned.

    python -m tests.crash.script GRID_FILE STATE_DIR SEED  < root cap       (LAFSFS_CRASH_AT=... in the environment)

Without a kernel: the tree is used directly, so that a run takes a second.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from lafsfs.config import ClientSecrets, GridProfile
from lafsfs.formats.caps import DirCap, LiteralCap, parse
from lafsfs.formats.dirnode import child_entry, understand
from lafsfs.formats.packed import Packed
from lafsfs.grid.servers import Grid
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.keypool import KeyPool
from lafsfs.tree import journal, publishing, record_log
from lafsfs.tree.options import TreeOptions
from tests.support.grids import SECRETS
from tests.support.trees import Files, opened

Contents = dict[str, bytes | None]  # None: a directory

SOMEBODY_ELSES = LiteralCap(b"of somebody else")

OPTIONS = TreeOptions(publish_delay=3600.0, refresh=3600.0, directory_wait=0.0, label="test")


@dataclass
class Act:
    """One change: what it does to the tree, and to a picture of it. `partial`: a write, which may be done in part."""

    call: Callable[[Files], Awaitable[None]]
    apply: Callable[[Contents], None]
    partial: str = ""


def script(seed: str) -> list[Act]:
    """The changes, the same for the same seed."""
    source = random.Random(seed)
    big, large = source.randbytes(300_000), source.randbytes(1_200_000)
    return [
        _mkdir("dir"),
        _mkdir("dir/below"),
        *_write("dir/inline", b"small" * 10),
        *_write("dir/below/big", big),
        *_write("large", large),
        _drain(),
        *_write("dir/below/big", source.randbytes(100_000), 250_000),
        *_write("dir/inline", source.randbytes(40_000), 10),
        *_scattered("scattered", source),
        _rename("dir/below", "moved"),
        _rename("dir/inline", "large"),
        _unlink("scattered"),
        *_write("mine", b"of this tree"),
        _mkdir("both"),
        *_write("both/ours", b"in a directory that others make, too"),
        _interfere("mine", "both"),
        _drain(),
        *_write("last", b"after all"),
        _drain(),
    ]


# --- kinds of acts -------------------------------------------------------------------------------------------


def _mkdir(path: str) -> Act:
    async def call(fs: Files) -> None:
        await fs.mkdir(path)

    return Act(call, lambda picture: picture.update({path: None}))


def _write(path: str, data: bytes, offset: int = 0) -> list[Act]:
    async def create(fs: Files) -> None:
        if not await fs.exists(path):
            await fs.close(await fs.create(path))

    async def call(fs: Files) -> None:
        await fs.write(path, data, offset)

    def apply(picture: Contents) -> None:
        old = picture[path] or b""
        picture[path] = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]

    return [Act(create, lambda picture: picture.setdefault(path, b"") and None), Act(call, apply, path)]


def _scattered(path: str, source: random.Random) -> list[Act]:
    """Many small writes, which make a log that is rewritten."""
    content = bytearray(400 * 5000)
    places = list(range(0, len(content), 400))
    source.shuffle(places)

    async def call(fs: Files) -> None:
        handle = await fs.open(path, 2)
        for place in places:
            await fs.pwrite(handle, b"x", place)
        await fs.pwrite(handle, bytes(content[:70_000]), 0)  # a large write, after which the log is looked at
        await fs.close(handle)

    for place in places:
        content[place] = ord("x")
    del content[max(places) + 1 :]
    return [_write(path, b"")[0], Act(call, lambda picture: picture.update({path: bytes(content)}), path)]


def _rename(old: str, new: str) -> Act:
    async def call(fs: Files) -> None:
        await fs.rename(old, new)

    def apply(picture: Contents) -> None:
        for path in [path for path in picture if path == old or path.startswith(old + "/")]:
            picture[new + path[len(old) :]] = picture.pop(path)

    return Act(call, apply)


def _unlink(path: str) -> Act:
    async def call(fs: Files) -> None:
        await fs.unlink(path)

    return Act(call, lambda picture: picture.pop(path) and None)


def _drain() -> Act:
    async def call(fs: Files) -> None:
        await fs.drain()
        while fs.tree.journal.wasteful:
            fs.tree.journal.tidy()
        await fs.tree.syncer.sync_all()

    return Act(call, lambda picture: None)


def _interfere(file: str, directory: str) -> Act:
    """Another client adds the same names to the root behind this tree's back."""

    async def call(fs: Files) -> None:
        root = fs.tree.inode(1).folder
        assert root is not None
        assert root.node is not None
        node = fs.tree.nodes.directory(root.node.cap)
        snapshot = await node.read()
        if snapshot.packed.raw(file) is None:
            theirs, _ = await fs.tree.nodes.create_directory(
                lambda writekey: Packed().with_changes({"theirs": _entry("theirs", SOMEBODY_ELSES, writekey)})
            )
            entries = {
                file: _entry(file, SOMEBODY_ELSES, node.writekey),
                directory: _entry(directory, theirs.cap, node.writekey),
            }
            await node.publish(snapshot, snapshot.packed.with_changes(entries))

    return Act(call, lambda picture: None)


def _entry(name: str, cap: LiteralCap | DirCap, writekey: bytes | None) -> bytes:
    rw, ro = (cap.to_bytes(), cap.read_cap().to_bytes()) if isinstance(cap, DirCap) else (b"", cap.to_bytes())
    return child_entry(name, understand(rw, ro, deep_immutable=False), {}, writekey)


# --- the program -----------------------------------------------------------------------------------------------


async def run(grid_file: Path, state: Path, seed: str, root: DirCap) -> None:
    """All acts on a tree; a line on stdout for each that returned."""
    record_log.SEGMENT_BYTES = 4 << 10
    journal.SLACK_BYTES = 4 << 10
    publishing.SLICE = 1
    profile = GridProfile.load(grid_file)
    async with Grid(profile, ClientSecrets(SECRETS.convergence, SECRETS.lease)) as grid:
        nodes = NodeMaker(grid, None, KeyPool(None, None, 0))
        async with opened(nodes, root, state, OPTIONS) as fs:
            for act in script(seed):
                await act.call(fs)
                print(flush=True)


def main() -> None:
    """Arguments: the grid file, the state directory, the seed of the contents; the root's cap on stdin."""
    root = parse(sys.stdin.read().strip())
    assert isinstance(root, DirCap)
    trio.run(run, Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], root)


if __name__ == "__main__":
    main()
