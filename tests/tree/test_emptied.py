"""A version that Tahoe-LAFS wrote on top of an empty directory, as it has it, does not cost what others put there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from lafsfs.formats.caps import DirCap, LiteralCap, parse
from lafsfs.formats.dirnode import make_entry
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.servermap import Version
from lafsfs.tree.emptied import dropped, forgotten
from lafsfs.tree.inodes import ROOT
from tests.support.pairs import NEVER, agree, both
from tests.support.trees import Files

BY_TAHOE = b'{"tahoe": {"linkcrtime": 1.5, "linkmotime": 1.5}}'
BY_LAFSFS = b'{"tahoe": {"linkcrtime": 1.5, "linkmotime": 1.5}, "lafsfs": {}}'


def entry(name: str, content: bytes, metadata: bytes = BY_LAFSFS) -> bytes:
    return make_entry(name, LiteralCap(content).to_bytes(), b"", metadata, b"k" * 16)


def snapshot(seqnum: int, entries: Mapping[str, bytes]) -> Snapshot:
    return Snapshot(Version(seqnum, b"r" * 32, 0), Packed().with_changes(entries))


A, B = {"a": entry("a", b"a")}, {"b": entry("b", b"b")}
TAHOES = {"t": entry("t", b"t", BY_TAHOE)}


def test_everything_dropped_is_found() -> None:
    assert dropped(snapshot(3, A | B), snapshot(4, TAHOES), 1000.0) == {"a", "b"}


def test_with_versions_between_them_it_is_found_where_nothing_was_a_moment_ago() -> None:
    assert dropped(snapshot(3, A | B), snapshot(6, TAHOES), 1.0) == {"a", "b"}
    assert dropped(snapshot(3, A | B), snapshot(2, TAHOES), 1.0) == set()


def test_what_tahoe_put_over_one_of_them_is_told_by_its_object() -> None:
    before = snapshot(3, A | B | {"t": entry("t", b"another one")})
    assert dropped(before, snapshot(4, TAHOES), 1000.0) == {"a", "b", "t"}
    before = snapshot(3, A | {"t": entry("t", b"t")})
    assert dropped(before, snapshot(4, TAHOES), 1000.0) == {"a"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (snapshot(3, A | B), snapshot(5, TAHOES)),
        (snapshot(3, A | B), snapshot(4, {})),
        (snapshot(3, A | B), snapshot(4, A)),
        (snapshot(3, A | B), snapshot(4, A | TAHOES)),
        (snapshot(3, A | TAHOES), snapshot(4, TAHOES)),
        (snapshot(3, A | B), snapshot(4, {"t": entry("t", b"t")})),
        (snapshot(3, {"t": entry("t", b"before")}), snapshot(4, TAHOES)),
        (snapshot(3, {}), snapshot(4, TAHOES)),
    ],
    ids=[
        "a version between them is not known",
        "all removed",
        "one removed",
        "one removed, one added",
        "one removed, Tahoe's was there",
        "removed and added by lafsfs",
        "replaced",
        "the first",
    ],
)
def test_other_changes_are_let_alone(before: Snapshot, after: Snapshot) -> None:
    assert dropped(before, after, 1000.0) == set()
    if after.version.seqnum == before.version.seqnum + 1:
        assert dropped(before, after, 1.0) == set()


def put_back(name: str, version: int, missing: int) -> dict[str, bytes]:
    mark = b'{"lafsfs": {"back": [%d, %d]}}' % (version, missing)
    return {name: entry(name, name.encode(), mark)}


def test_what_who_put_others_back_did_not_know_is_found() -> None:
    before = snapshot(5, A | B)
    assert forgotten(before, snapshot(8, put_back("a", 4, 7) | TAHOES)) == ({"b"}, 7)
    assert forgotten(before, snapshot(8, TAHOES | {"a": entry("a", b"old"), **put_back("c", 4, 7)})) == (
        {"a", "b"},
        7,
    )


@pytest.mark.parametrize(
    "after",
    [
        A | TAHOES,
        put_back("a", 5, 7),
        put_back("a", 6, 7),
        put_back("a", 2, 4),
        put_back("a", 4, 5),
        put_back("a", 4, 7) | put_back("b", 5, 7),
        {"a": entry("a", b"a", b'{"lafsfs": {"back": [4]}}')},
        {"a": entry("a", b"a", b'{"lafsfs": {"back": [4, true]}}')},
        {"a": entry("a", b"a", b'{"lafsfs": 1, "back": [4, 7]}')},
    ],
    ids=[
        "nothing put back",
        "from this version",
        "from a later one",
        "long ago",
        "before this version",
        "and then from this one",
        "one number",
        "no number",
        "not ours",
    ],
)
def test_what_was_known_is_not_forgotten(after: Mapping[str, bytes]) -> None:
    assert forgotten(snapshot(5, A | B), snapshot(8, after)) == (set(), 0)


async def tahoe_puts(nodes: NodeMaker, fs: Files, name: str, content: bytes) -> None:
    """What Tahoe writes into the root when it was empty as it began."""
    root = fs.tree.inode(ROOT).caps
    assert root is not None
    cap = parse(root[0])
    assert isinstance(cap, DirCap)
    node = nodes.directory(cap)
    raw = make_entry(name, LiteralCap(content).to_bytes(), b"", BY_TAHOE, node.writekey)
    await node.publish(await node.read(), Packed().with_changes({name: raw}))


async def test_it_is_put_back(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("a", b"a" * 500)
        await here.link("a", "linked")
        await here.mkdir("d")
        await here.write("d/in", b"in")
        await here.write("taken", b"ours")
        before = await agree(here, there)
        await there.write("unpublished", b"too")
        await tahoe_puts(nodes, here, "taken", b"tahoe's")
        after = await agree(here, there)
        assert before | {b"unpublished"} < after
        (copy,) = {path for path in after - before if b".conflict-" in path}
        assert await there.read(copy) == b"ours"
        assert await there.read("taken") == b"tahoe's"
        assert (await there.find("linked")).nlink == 2
        await there.write("linked", b"b")
        await agree(here, there)
        assert (await here.read("a"))[:1] == b"b"


@pytest.mark.parametrize("name", ["file", "d"])
async def test_two_that_put_the_same_back_make_one_copy(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, name: str
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("file", b"ours" * 100)
        await here.mkdir("d")
        await here.write("d/in", b"in")
        await agree(here, there)
        await tahoe_puts(nodes, here, name, b"tahoe's")
        for fs in (here, there):
            assert await fs.names() == {b"file", b"d"}
            fs.tree.options = dataclasses.replace(fs.tree.options, label="same")
        after = await agree(here, there)
        assert len({path for path in after if b".conflict-" in path and b"/" not in path}) == 1


async def test_what_only_one_mount_knew_is_put_back(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """The first to see what is missing knows an older version than the other."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("a", b"old")
        await here.write("b", b"b")
        await agree(here, there)
        await there.write("a", b"new")
        await there.write("late", b"late")
        await there.drain()
        await tahoe_puts(nodes, here, "tahoe's", b"t")
        assert await here.names() == {b"a", b"b", b"tahoe's"}
        await here.drain()
        assert b"late" in await there.names()
        after = await agree(here, there)
        assert {b"a", b"b", b"late", b"tahoe's"} < after
        contents = {await here.read(os.fsdecode(path)) for path in after}
        assert contents == {b"old", b"new", b"b", b"late", b"t"}


async def test_a_mount_that_cannot_write_shows_what_there_is(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("a", b"a")
        await agree(here, there)
        for fs in (here, there):
            fs.tree.options = dataclasses.replace(fs.tree.options, read_only=True)
        await tahoe_puts(nodes, here, "t", b"t")
        assert await agree(here, there) == {b"t"}
