"""A directory is removed while it is published, and somebody changes what was removed in it before."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from lafsfs.nodes.directory import Directory
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.removals import Removals
from tests.support.pairs import ONCE, agree, both


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
