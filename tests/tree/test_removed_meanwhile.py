"""A directory is removed while it is published, and somebody changes what was removed in it before."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from lafsfs.formats.caps import DirCap, LiteralCap, parse
from lafsfs.formats.dirnode import make_entry
from lafsfs.nodes.directory import Directory
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree import removed_lately
from lafsfs.tree.attaching import attach, caps_to_attach
from lafsfs.tree.removals import Removals
from tests.support.pairs import ONCE, agree, both, look_again
from tests.tree.test_emptied import BY_LAFSFS, BY_TAHOE


def after(
    monkeypatch: pytest.MonkeyPatch, place: tuple[type, str], act: Callable[[], Awaitable[None]]
) -> None:
    """Do something when a call has just answered for the first time; the call itself is the real one."""
    call, left = getattr(*place), [act]

    @functools.wraps(call)
    async def held(*args: Any, **kwargs: Any) -> Any:
        result = await call(*args, **kwargs)
        if left:
            await left.pop()()
        return result

    monkeypatch.setattr(*place, held)


@pytest.mark.parametrize("changed", ["before it is published", "while it is published"])
async def test_what_others_changed_in_it_is_kept(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.mkdir("d")
        await here.mkdir("d/inner")
        await here.write("d/file", b"file")
        await agree(here, there)

        async def change() -> None:
            await there.write("d/inner/new", b"new")
            await there.drain()

        async def remove() -> None:
            await here.rmdir("d")

        await here.names("d/inner")
        await here.rmdir("d/inner")
        await here.rename("d/file", "file")
        if changed == "before it is published":
            await change()
            after(monkeypatch, (Removals, "_changed"), remove)
        else:
            after(monkeypatch, (Removals, "is_contested"), change)
            after(monkeypatch, (Directory, "publish"), remove)
        await here.drain()
        assert await agree(here, there) == {b"d", b"d/inner", b"d/inner/new", b"file"}


async def test_it_was_away_once(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.mkdir("d")
        await here.write("d/file", b"file")
        await agree(here, there)
        number = (await here.find("d")).ino
        for old, new in ("d", "moved"), ("moved", "d"):
            await there.rename(old, new)
            await there.drain()
            (await here.find("")).folder.checked = float("-inf")
            assert await here.names() == {new.encode()}
            here.forget()  # while it has no name, if others moved it away
        assert (await here.find("d")).ino == number
        await here.names("d")
        await here.unlink("d/file")
        await here.rmdir("d")
        await there.write("d/file", b"changed")
        await there.drain()
        await here.drain()
        await agree(here, there)
        assert await here.read("d/file") == b"changed"


async def write_by_tahoe(nodes: NodeMaker, cap: DirCap, metadata: bytes) -> None:
    """Write into a directory as somebody does who looked for it before it was removed."""
    node = nodes.directory(cap)
    before = await node.read()
    entry = make_entry("t", LiteralCap(b"t").to_bytes(), b"", metadata, node.writekey)
    await node.publish(before, before.packed.with_changes({"t": entry}))


@pytest.mark.parametrize("by_tahoe", [True, False])
@pytest.mark.parametrize("elsewhere", [True, False])
async def test_tahoe_writes_in_it_after_it_went(
    nodes: NodeMaker,
    other_nodes: NodeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_tahoe: bool,
    elsewhere: bool,
) -> None:
    monkeypatch.setattr(removed_lately, "LOOKS", (0.3, 0.6, 0.9))
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        for path in ("other", "d", "d/e"):
            await here.mkdir(path)
        await agree(here, there)
        inner = await here.find("d/e")
        assert inner.caps is not None
        cap = parse(inner.caps[0])
        assert isinstance(cap, DirCap)
        if elsewhere:
            await attach(here.tree, (await here.find("other")).ino, b"e", caps_to_attach(inner.caps[0]))
            await agree(here, there)
            await here.everything()
        await here.rmdir("d/e")
        await here.rmdir("d")
        await here.drain()
        assert await here.names() == {b"other"}
        await write_by_tahoe(nodes, cap, BY_TAHOE if by_tahoe else BY_LAFSFS)
        lately = here.tree.publisher._directory_publisher.removed_lately
        with trio.fail_after(20):
            while lately._count:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await here.drain()
        look_again(here)
        back = {b"d", b"d/e", b"d/e/t"} if by_tahoe and not elsewhere else set()
        there_already = {b"other/e", b"other/e/t"} if elsewhere else set()
        assert set(await here.everything()) == {b"other"} | back | there_already
        assert await agree(here, there) == {b"other"} | back | there_already


async def test_who_flushes_looks_at_once(nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path) -> None:
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, there):
        await here.mkdir("d")
        await agree(here, there)
        inode = await here.find("d")
        assert inode.caps is not None
        cap = parse(inode.caps[0])
        assert isinstance(cap, DirCap)
        await here.rmdir("d")
        await here.drain()
        await write_by_tahoe(nodes, cap, BY_TAHOE)
        await here.drain()
        assert await agree(here, there) == {b"d", b"d/t"}


async def test_of_many_that_were_removed_not_all_are_looked_at(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removed_lately, "MOST", 3)
    async with both(nodes, other_nodes, tmp_path, ONCE) as (here, _):
        for name in "abcde":
            await here.mkdir(name)
        await here.drain()
        for name in "abcde":
            await here.rmdir(name)
        await here.drain()
        assert here.tree.publisher._directory_publisher.removed_lately._count == 3
        assert await here.names() == set()
