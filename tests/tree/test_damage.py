"""Damage to local state is found and listed, whatever can be read is saved, nothing is skipped in silence."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lafsfs.formats.caps import DirCap
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.record_log import RecordLog
from lafsfs.tree.rows import CONTENT, EDGE, OBJECT, Row, name_in_edge, rows_of
from lafsfs.tree.sealing import state_key, subkey
from tests.support.trees import Files, new_root, opened

BIG = os.urandom(500_000)
SMALL = b"small content"


async def make(nodes: NodeMaker, state: Path, count: int = 0) -> DirCap:
    """A root with a directory, a small file, a big one and a name that was removed; only some of it on the grid."""
    root = await new_root(nodes)
    async with opened(nodes, root, state) as fs:
        await fs.write("old", b"published")
        await fs.drain()
        await fs.mkdir("dir")
        await fs.write("dir/small", SMALL)
        await fs.write("dir/big", BIG)
        await fs.unlink("old")
        for number in range(count):
            await fs.write(f"many{number}", b"%d" % number)
    return root


def flip(path: Path, offset: int) -> None:
    """Change a byte on the disk."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def spoil(state: Path, root: DirCap, kind: int, ino: int | None = None) -> int:
    """Make some rows of the journal unreadable, each of them in a record of its own; how many."""
    key = subkey(state_key(root), b"journal")
    old, fresh = (RecordLog(state / name, key) for name in ("journal", "journal.new"))
    rows: dict[tuple[object, ...], Row] = {}
    for _, record in old.read_back():
        for one in rows_of(record):
            named = one.payload if one.gone or one.kind != EDGE else name_in_edge(one.payload)
            rows[one.kind, one.number, named if one.kind == EDGE else b""] = one
    places = []
    for one in rows.values():
        place = fresh.append(one.packed())
        if one.kind == kind and not one.gone and ino in (None, one.number) and one.number > (kind == OBJECT):
            places.append((state / "journal" / fresh.segment_of(place).path.name, place & 0xFFFFFF))
    fresh.sync(fresh.sync_point())
    for log in (old, fresh):
        log.close()
    shutil.rmtree(state / "journal")
    (state / "journal.new").rename(state / "journal")
    for path, position in places:
        flip(path, position + 30)
    return len(places)


async def contents(fs: Files) -> dict[str, bytes]:
    """All files that can be read, by path."""
    found = {}
    for path, seen in (await fs.everything()).items():
        if seen.mode & 0o170000 == 0o100000:
            found[path.decode()] = seen.content
    return found


def listed(fs: Files, *words: str) -> bool:
    """Whether the status tells of damage in these words."""
    return any(all(word in line for word in ("damaged", *words)) for line in fs.tree.status().errors)


async def test_unreadable_objects_are_listed_and_their_contents_recovered(
    nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await make(nodes, tmp_path)
    assert spoil(tmp_path, root, OBJECT) == 3
    async with opened(nodes, root, tmp_path) as fs:
        assert listed(fs, "cannot be read")
        found = await contents(fs)
        assert BIG in found.values()
        assert SMALL in found.values()
        assert all(path.startswith("recovered-") for path in found)
        await fs.drain()
    async with opened(nodes, root, tmp_path) as fs:
        assert set((await contents(fs)).values()) == {BIG, SMALL}


async def test_unreadable_names_are_listed_and_their_files_recovered(
    nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await make(nodes, tmp_path)
    assert spoil(tmp_path, root, EDGE) == 4
    async with opened(nodes, root, tmp_path) as fs:
        assert listed(fs, "cannot be read")
        assert {BIG, SMALL} <= set((await contents(fs)).values())


async def test_an_unreadable_directory_gives_its_files_to_the_root(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await make(nodes, tmp_path)
    async with opened(nodes, root, tmp_path) as fs:
        number = (await fs.find("dir")).ino
    assert spoil(tmp_path, root, OBJECT, number) == 1
    async with opened(nodes, root, tmp_path) as fs:
        assert listed(fs, "cannot be read")
        found = await contents(fs)
        assert [found[path] for path in found if path.endswith("-small")] == [SMALL]
        assert [found[path] for path in found if path.endswith("-big")] == [BIG]


async def test_a_damaged_small_content_is_listed_and_never_published(
    nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await make(nodes, tmp_path)
    assert spoil(tmp_path, root, CONTENT) == 1
    async with opened(nodes, root, tmp_path) as fs:
        assert listed(fs, "dir/small")
        with pytest.raises(OSError, match="damaged"):
            await fs.read("dir/small")
        assert await fs.read("dir/big") == BIG
        fs.tree.publisher.files.hurry()
        with pytest.raises(Exception, match="not on the grid"):
            await fs.tree.drain(1.0)
        stuck = [item for item in fs.tree.status().items if item.state == "retrying"]
        assert [item.path for item in stuck] == ["dir/small"]
        assert "damaged" in stuck[0].reason


@pytest.mark.parametrize("offset", [5, 60, 200_000, 400_000, -10])
async def test_a_flipped_byte_in_a_staged_file(nodes: NodeMaker, tmp_path: Path, offset: int) -> None:
    root = await make(nodes, tmp_path)
    (log,) = (tmp_path / "staged").iterdir()
    flip(log, offset % log.stat().st_size)
    async with opened(nodes, root, tmp_path) as fs:
        assert listed(fs, "dir/big")
        assert await fs.read("dir/small") == SMALL
        handle = await fs.open("dir/big")
        good = 0
        for start in range(0, len(BIG), 4096):
            try:
                good += await fs.pread(handle, 4096, start) == BIG[start : start + 4096]
            except OSError:
                continue
        assert good * 4096 > len(BIG) - 2 * 131_072, "more than one record is lost"
        await fs.close(handle)


@pytest.mark.parametrize("size", [0, 1, 100_000, 300_000])
async def test_a_shortened_staged_file(nodes: NodeMaker, tmp_path: Path, size: int) -> None:
    root = await make(nodes, tmp_path)
    (log,) = (tmp_path / "staged").iterdir()
    os.truncate(log, size)
    for _ in range(2):  # and it is still told at the next mount
        async with opened(nodes, root, tmp_path) as fs:
            assert listed(fs, "dir/big")
            assert await fs.read("dir/small") == SMALL


async def test_a_missing_staged_file(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await make(nodes, tmp_path)
    (log,) = (tmp_path / "staged").iterdir()
    log.unlink()
    async with opened(nodes, root, tmp_path) as fs:
        assert listed(fs, "dir/big")


@pytest.mark.parametrize("page", [0, 1, 3, 5])
async def test_a_damaged_page_of_the_journal(nodes: NodeMaker, tmp_path: Path, page: int) -> None:
    root = await make(nodes, tmp_path, 100)
    segment = max((tmp_path / "journal").glob("*.seg"), key=lambda path: path.stat().st_size)
    assert segment.stat().st_size > (page + 1) * 4096
    with segment.open("r+b") as file:
        file.seek(page * 4096)
        file.write(os.urandom(4096))
    async with opened(nodes, root, tmp_path) as fs:
        assert fs.tree.status().errors
        names = await fs.names()
        assert len(names) >= 50, f"{fs.tree.status().errors}: too little was saved"
        await fs.write("goes on", b"x")
        assert await fs.read("goes on") == b"x"


async def test_a_segment_of_noise(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await make(nodes, tmp_path)
    for segment in (tmp_path / "journal").glob("*.seg"):
        segment.write_bytes(os.urandom(segment.stat().st_size))
    async with opened(nodes, root, tmp_path) as fs:
        assert listed(fs, "cannot be read")
        assert BIG in (await contents(fs)).values(), "the staged content has no name left, but it is there"


async def test_a_lost_end_of_the_log(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    state, copy = tmp_path / "state", tmp_path / "copy"
    async with opened(nodes, root, state) as fs:
        for number in range(20):
            await fs.write(f"f{number}", b"x" * 1000)
            await fs.tree.syncer.sync_all()
        mark = fs.tree.journal.sync_point().mark
        assert mark is not None
        shutil.copytree(state, copy)
    (segment,) = (copy / "journal").glob("*.seg")
    os.truncate(segment, mark.length // 2)
    async with opened(nodes, root, copy) as fs:
        assert listed(fs, "its end is missing")
        assert 5 < len(await fs.names()) < 20


async def test_sound_state_tells_nothing(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await make(nodes, tmp_path, 20)
    async with opened(nodes, root, tmp_path) as fs:
        assert fs.tree.status().errors == []
        assert await fs.names("dir") == {b"small", b"big"}
