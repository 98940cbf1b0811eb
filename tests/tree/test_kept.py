"""Directories as last seen, kept on the local disk: found again, newest first, within the limit; damage is absence."""

from __future__ import annotations

import os
import random
import resource
import time
from pathlib import Path

import pytest
import trio

from lafsfs.formats.caps import DirCap, LiteralCap
from lafsfs.formats.packed import Packed, make_entry
from lafsfs.nodes.directory import Directory, Snapshot
from lafsfs.nodes.literal import LiteralFile
from lafsfs.transfer.servermap import Version
from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.directories import Folder
from lafsfs.tree.inodes import Inode
from lafsfs.tree.kept import KeptDirectories

KEY = bytes(range(32))


def directory(number: int) -> Directory:
    cap = LiteralCap(b"%d" % number)
    return Directory(DirCap(cap), LiteralFile(cap))


def snapshot(seqnum: int, size: int = 100) -> Snapshot:
    entry = make_entry(
        "name", b"URI:LIT:", b"", b'{"x": "%s"}' % os.urandom(size // 2).hex().encode(), bytes(16)
    )
    return Snapshot(Version(seqnum, bytes([seqnum % 256]) * 32, size), Packed().with_changes({"name": entry}))


def files(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def found(kept: KeptDirectories, number: int) -> Snapshot | None:
    one = kept.find(directory(number).cap.read_cap().to_bytes())
    return one.snapshot if one is not None else None


def is_same(one: Snapshot | None, two: Snapshot) -> bool:
    return one is not None and (one.version, one.packed.pack()) == (two.version, two.packed.pack())


async def test_what_was_kept_is_found_by_the_next_mount(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path / "seen", KEY)
    wanted = {number: snapshot(number + 1) for number in range(5)}
    before = time.time()
    for number, one in wanted.items():
        await kept.keep(directory(number), one)
    again = KeptDirectories(tmp_path / "seen", KEY)
    for number, one in wanted.items():
        assert is_same(found(again, number), one)
    assert found(again, 99) is None
    cap = directory(0).cap.read_cap().to_bytes()
    seen = again.find(cap)
    assert seen is not None
    assert before - 1 <= seen.seen <= time.time() + 1
    assert found(KeptDirectories(tmp_path / "seen", bytes(32)), 0) is None


async def test_newer_replaces_older(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path, KEY)
    await kept.keep(directory(0), snapshot(1))
    newer = snapshot(2)
    await kept.keep(directory(0), newer)
    assert is_same(found(kept, 0), newer)
    await kept.keep(directory(0), snapshot(1))
    assert is_same(found(kept, 0), newer)
    assert len(files(tmp_path)) == 1


@pytest.mark.parametrize("seed", range(5))
async def test_of_versions_kept_at_once_the_newest_stays(tmp_path: Path, seed: int) -> None:
    """A publish and a look at what changed may write the same directory at the same time."""
    kept = KeptDirectories(tmp_path, KEY, limit=1 << 20)
    chance = random.Random(seed)
    wanted: dict[int, Snapshot] = {}
    work = [(number, snapshot(seqnum, 5000)) for number in range(4) for seqnum in range(1, 9)]
    chance.shuffle(work)
    async with trio.open_nursery() as nursery:
        for number, one in work:
            nursery.start_soon(kept.keep, directory(number), one)
            if one.version.seqnum == 8:
                wanted[number] = one
    for number, one in wanted.items():
        assert is_same(found(kept, number), one)
    assert len(files(tmp_path)) == 4


async def test_many_at_once_are_all_there_and_empty_ones_too(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path, KEY)
    empty = Snapshot(Version(1, bytes(32), 0), Packed())
    wanted = {number: snapshot(1) if number % 2 else empty for number in range(40)}
    async with trio.open_nursery() as nursery:
        for number, one in wanted.items():
            nursery.start_soon(kept.keep, directory(number), one)
    for number, one in wanted.items():
        assert is_same(found(kept, number), one)
    await kept.keep(directory(1), Snapshot(Version(2, bytes(32), 0), Packed()))
    emptied = found(kept, 1)
    assert emptied is not None
    assert len(emptied.packed) == 0
    assert len(files(tmp_path)) == 40


async def test_what_is_given_up_while_it_waits_keeps_no_other_from_being_written(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path, KEY)
    async with trio.open_nursery() as nursery:
        for number in range(20):
            scope = trio.CancelScope(deadline=trio.current_time() if number % 3 == 0 else float("inf"))

            async def keep(number: int = number, scope: trio.CancelScope = scope) -> None:
                with scope:
                    await kept.keep(directory(number), snapshot(1))

            nursery.start_soon(keep)
    assert all(found(kept, number) is not None for number in range(20) if number % 3)


async def test_damage_is_absence(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path, KEY)
    for number in range(2):
        await kept.keep(directory(number), snapshot(1))
    one, two = files(tmp_path)
    raw, other = one.read_bytes(), two.read_bytes()
    damaged = [raw[:length] for length in (0, 1, 7, 11, 12, 27, 28, len(raw) - 1)]
    damaged += [
        raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in (0, 12, len(raw) // 2, len(raw) - 1)
    ]
    for bad in [*damaged, other, raw + b"x"]:
        one.write_bytes(bad)
        two.write_bytes(other)
        assert sum(found(kept, number) is not None for number in range(2)) == 1
        assert not one.exists(), "it is of no use any more"


async def test_the_limit_is_never_exceeded_and_what_was_written_last_stays(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path, KEY, limit=10_000)
    for number in range(30):
        await kept.keep(directory(number), snapshot(1, 1000))
        assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_000
        for path in files(tmp_path):  # file systems' clocks are coarse
            os.utime(path, ns=(0, path.stat().st_mtime_ns - 1_000_000_000))
        assert found(kept, number) is not None
    there = [number for number in range(30) if found(kept, number) is not None]
    assert there == list(range(30 - len(there), 30))
    assert len(there) >= 5
    await kept.keep(directory(50), snapshot(1, 20_000))
    assert found(kept, 50) is None
    assert [number for number in range(30) if found(kept, number) is not None] == there


async def test_what_has_become_too_large_is_not_shown_as_it_was(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path, KEY, limit=10_000)
    await kept.keep(directory(0), snapshot(1))
    await kept.keep(directory(0), snapshot(2, 20_000))
    assert found(kept, 0) is None
    assert files(tmp_path) == []


async def test_a_full_disk(tmp_path: Path) -> None:
    """Nothing old is left in place of what could not be written; afterwards all goes on."""
    kept = KeptDirectories(tmp_path, KEY)
    await kept.keep(directory(0), snapshot(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        await kept.keep(directory(0), snapshot(2, 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found(kept, 0) is None
    assert files(tmp_path) == []
    third = snapshot(3, 5000)
    await kept.keep(directory(0), third)
    assert is_same(found(kept, 0), third)


async def test_what_changed_is_kept_but_not_what_is_gone(tmp_path: Path) -> None:
    kept = KeptDirectories(tmp_path, KEY)
    folders = [Folder(Inode(9, new_attributes(0o40755, 0, 0), None, 2), directory(n)) for n in range(3)]
    for folder in folders:
        folder.snapshot = snapshot(1)
        kept.changed(folder)
    folders[1].inode.nlink = 0
    folders[2].snapshot = None
    await kept.keep_changed()
    assert [found(kept, number) is not None for number in range(3)] == [True, False, False]
    newer = snapshot(2)
    folders[0].snapshot = newer
    await kept.keep_changed()
    assert not is_same(found(kept, 0), newer), "nobody said that it changed"
    kept.changed(folders[0])
    await kept.keep_changed()
    assert is_same(found(kept, 0), newer)


async def test_nothing_can_be_read_without_the_key(tmp_path: Path) -> None:
    await KeptDirectories(tmp_path, KEY).keep(directory(0), snapshot(1))
    (path,) = files(tmp_path)
    assert b"URI" not in path.read_bytes()
    assert b"name" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    other = KeptDirectories(tmp_path / "other", bytes(32))
    await other.keep(directory(0), snapshot(1))
    (elsewhere,) = files(tmp_path / "other")
    assert elsewhere.name != path.name, "the name tells whose directory it is to the owner of the key only"
