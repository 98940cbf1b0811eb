"""A version that Tahoe-LAFS wrote on top of an empty directory, as it has it, does not cost what others put there."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from lafsfs.formats.caps import DirCap, LiteralCap, parse
from lafsfs.formats.dirnode import make_entry
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.servermap import Version
from lafsfs.tree import guarding
from lafsfs.tree.emptied import dropped, forgotten, only_tahoes
from tests.support.pairs import NEVER, ONCE, agree, both
from tests.support.trees import Files, new_root, opened

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


def test_what_tahoe_put_under_the_only_name_without_having_seen_it_is_told_by_its_time() -> None:
    earlier = BY_LAFSFS.replace(b"1.5", b"1.25")
    before = snapshot(3, {"t": entry("t", b"ours", earlier)})
    assert dropped(before, snapshot(4, TAHOES), 1000.0) == {"t"}
    assert dropped(before, snapshot(5, TAHOES), 1000.0) == set()
    seen = {"t": entry("t", b"t", b'{"tahoe": {"linkcrtime": 1.25, "linkmotime": 1.5}}')}
    assert dropped(before, snapshot(4, seen), 1000.0) == set()
    assert dropped(snapshot(3, {"t": entry("t", b"t", earlier)}), snapshot(4, TAHOES), 1000.0) == set()


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


def upon(name: str, version: int, only: str) -> dict[str, bytes]:
    mark = b'{"lafsfs": {"upon": [%d, "%s"]}}' % (version, only.encode())
    return {name: entry(name, name.encode(), mark)}


def test_what_was_dropped_from_a_version_that_others_built_upon_is_found() -> None:
    after = TAHOES | upon("x", 6, "t")
    assert forgotten(snapshot(5, A | B), snapshot(7, after)) == ({"a", "b"}, 6)
    assert forgotten(snapshot(5, A | B), snapshot(9, after | A)) == ({"b"}, 6)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (snapshot(4, A | B), snapshot(7, TAHOES | upon("x", 6, "t"))),
        (snapshot(6, A | B), snapshot(8, TAHOES | upon("x", 6, "t"))),
        (snapshot(5, A | TAHOES), snapshot(7, TAHOES | upon("x", 6, "t"))),
        (snapshot(5, {}), snapshot(7, TAHOES | upon("x", 6, "t"))),
        (snapshot(5, A), snapshot(8, TAHOES | upon("x", 6, "t") | put_back("a", 5, 6))),
        (snapshot(5, A), snapshot(8, TAHOES | upon("x", 6, "t") | put_back("b", 5, 6))),
    ],
    ids=[
        "earlier versions",
        "later ones",
        "one of two removed",
        "empty",
        "put back",
        "put back, then removed",
    ],
)
def test_what_others_built_upon_may_be_all_there_was(before: Snapshot, after: Snapshot) -> None:
    assert forgotten(before, after)[0] == set()


def test_what_is_said_of_a_version_that_is_changed() -> None:
    assert only_tahoes(snapshot(3, TAHOES)) == (3, "t")
    for packed in ({}, A, TAHOES | B, upon("x", 2, "t")):
        assert only_tahoes(snapshot(3, packed)) is None
    assert only_tahoes(None) is None


async def tahoe_puts(nodes: NodeMaker, fs: Files, name: str, content: bytes, path: str = "") -> None:
    """What Tahoe writes into a directory, by default the root, when it was empty as it began."""
    caps = (await fs.find(path)).caps
    assert caps is not None
    cap = parse(caps[0])
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


async def test_under_the_same_name_both_are_kept(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    """Two make the only file of a directory at the same time, and Tahoe does not see that the other one did."""
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("file", b"ours")
        await agree(here, there)
        await tahoe_puts(nodes, here, "file", b"tahoe's")
        for fs in (here, there):
            assert await fs.names() == {b"file"}
        after = await agree(here, there)
        contents = {path: await there.read(os.fsdecode(path)) for path in after}
        assert contents.pop(b"file") == b"tahoe's"
        assert set(contents.values()) == {b"ours"}
        assert all(path.startswith(b"file.conflict-") for path in contents)


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


async def test_it_is_put_back_after_others_built_upon_what_was_left(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await here.write("file", b"content")
        await here.drain()
        await tahoe_puts(nodes, here, "t", b"tahoe's")
        await there.write("upon", b"that")
        await there.drain()
        assert await there.names() == {b"t", b"upon"}
        assert await here.names() == {b"file", b"t", b"upon"}
        assert await agree(here, there) == {b"file", b"t", b"upon"}


async def test_a_directory_that_was_empty_lately_is_looked_at(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who published something in it, though nobody opens it any more."""
    monkeypatch.setattr(guarding, "LOOKS", (0.05, 0.1, 0.5, 1.0, 5.0, 30.0))
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.mkdir("d")
        await agree(here, there)
        await here.write("d/file", b"content")
        await here.drain()
        here.forget()
        await tahoe_puts(nodes, here, "t", b"tahoe's", "d")
        there.tree.options = NEVER
        with trio.fail_after(20):
            while await there.names("d") != {b"file", b"t"}:
                await trio.sleep(0.05)
                await here.drain()
        monkeypatch.setattr(guarding, "LOOKS", (0.01,))
        await agree(here, there)


async def test_what_is_guarded_is_let_go(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "LOOKS", (0.01, 0.02))
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state") as fs:
        await fs.mkdir("d")
        await fs.drain()
        await fs.write("d/file", b"content")
        await fs.drain()
        number = (await fs.find("d")).ino
        fs.forget()
        with trio.fail_after(20):
            while number in fs.tree.inodes:  # noqa: ASYNC110
                await trio.sleep(0.01)
