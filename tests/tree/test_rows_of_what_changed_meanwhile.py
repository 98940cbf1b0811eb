"""The journal forgets only what is still as it was published; a copy made at that instant has the rest."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from lafsfs.nodes.directory import Directory
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree import outgoing, publishing
from lafsfs.tree.change import Change
from lafsfs.tree.inodes import ROOT
from lafsfs.tree.publishing import DirectoryPublisher
from tests.support.pairs import NEVER
from tests.support.trees import Files, copy_state, left_in, new_root, opened

Act = Callable[[Files], Awaitable[object]]


async def remove_all(fs: Files) -> None:
    for name in sorted(await fs.names("d")):
        await fs.unlink(b"d/" + name)
    await fs.rmdir("d")


async def write_twice(fs: Files) -> None:
    await fs.replace("d/f", b"newer")
    await fs.write("d/f", b"est", 5)


CHANGES: dict[str, Act] = {
    "written again": lambda fs: fs.replace("d/f", b"newer"),
    "written twice": write_twice,
    "removed": lambda fs: fs.unlink("d/f"),
    "renamed": lambda fs: fs.rename("d/f", "d/g"),
    "moved up": lambda fs: fs.rename("d/f", "g"),
    "replaced": lambda fs: fs.rename("d/other", "d/f"),
    "linked": lambda fs: fs.link("d/f", "d/g"),
    "attributes": lambda fs: fs.set("d/f", mode=0o600),
    "removed with all there was": remove_all,
    "exchanged": lambda fs: fs.rename("d/f", "d/other", 2),
}


async def _state(fs: Files) -> dict[bytes, tuple[int, bytes]]:
    return {path: (seen.mode, seen.content) for path, seen in (await fs.everything()).items()}


async def test_only_the_first_write_concerns_the_names_of_a_file(nodes: NodeMaker, tmp_path: Path) -> None:
    """They wait for a content to be on the grid, whatever it is then. Once it is, the next write is a first one."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state") as fs:
        folder = await fs.tree.folder(ROOT)
        for content in (b"one", b"other"):
            await fs.write("f", content)
            first = folder.pending[b"f"]
            await fs.write("f", b"and more", 3)
            assert folder.pending[b"f"] is first
            await fs.drain()
            assert b"f" not in folder.pending
            assert await fs.read("f") == content[:3] + b"and more"


@pytest.mark.parametrize(("known", "moment"), [(False, "before"), (True, "after")], ids=["new", "known"])
@pytest.mark.parametrize("change", CHANGES)
async def test_changed_while_it_was_published(
    nodes: NodeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    moment: str,
    known: bool,
) -> None:
    root = await new_root(nodes)
    copies = [tmp_path / "copy0", tmp_path / "copy1"]
    async with opened(nodes, root, tmp_path / "state") as fs:
        await fs.mkdir("d")
        if known:
            await fs.write("d/f", b"old")
            await fs.drain()
        await fs.write("d/f", b"content")
        await fs.write("d/other", b"another")
        pending = [True]

        async def act() -> None:
            if pending:
                pending.clear()
                await CHANGES[change](fs)
                copy_state(tmp_path / "state", copies[0])

        hold(monkeypatch, moment, act, (Directory, "publish") if known else (NodeMaker, "new_directory"))
        forgotten(
            monkeypatch, lambda: copies[1].exists() or pending or copy_state(tmp_path / "state", copies[1])
        )
        await fs.drain()
        assert not pending
        assert left_in(fs.tree) == []
        expected = await _state(fs)
    for number, copy in enumerate([*copies, tmp_path / "fresh"]):
        async with opened(nodes, root, copy) as fs:
            assert await _state(fs) == expected, number
            assert not fs.tree.errors
            assert not fs.tree.conflicts


def hold(
    monkeypatch: pytest.MonkeyPatch, moment: str, act: Callable[[], Awaitable[None]], place: tuple[type, str]
) -> None:
    """Do something while a version is on its way: the call itself is the real one."""
    call = getattr(*place)

    @functools.wraps(call)
    async def held(*args: Any, **kwargs: Any) -> Any:
        if moment == "before":
            await act()
        result = await call(*args, **kwargs)
        if moment == "after":
            await act()
        return result

    monkeypatch.setattr(*place, held)


def forgotten(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something when the journal has just forgotten what was published."""
    call = DirectoryPublisher._done

    async def done(*args: Any) -> None:
        await call(*args)
        act()

    monkeypatch.setattr(DirectoryPublisher, "_done", done)


async def test_a_new_name_alone_keeps_what_it_leads_to(nodes: NodeMaker, tmp_path: Path) -> None:
    """Of what is on the grid the journal has no row; the name that it gets here is not there."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state", NEVER) as fs:
        await fs.mkdir("d")
        await fs.write("d/f", b"f" * 1000)
        await fs.drain()
        inode, folder = await fs.find("d"), fs.tree.inode(ROOT).folder
        assert folder is not None
        assert not inode.stored
        change = Change(fs.tree)
        change.point(folder, b"d", None)
        change.point(folder, b"back", inode)
        change.commit()
        copy_state(tmp_path / "state", tmp_path / "copy")
        fs.forget()
        assert await fs.read("back/f") == b"f" * 1000
    async with opened(nodes, root, tmp_path / "copy", NEVER) as fs:
        assert set(await fs.everything()) == {b"back", b"back/f"}
        await fs.drain()
        assert left_in(fs.tree) == []


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
@pytest.mark.parametrize(
    "place", [(outgoing, "write_entry"), (DirectoryPublisher, "_forget")], ids=["written", "forgotten"]
)
@pytest.mark.parametrize("change", CHANGES)
async def test_changed_between_two_slices_of_a_large_one(
    nodes: NodeMaker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    place: tuple[Any, str],
    known: bool,
) -> None:
    """Other tasks run while the entries of a version are written, and while the journal forgets them."""
    monkeypatch.setattr(outgoing, "SLICE", 1)
    monkeypatch.setattr(publishing, "SLICE", 1)
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state") as fs, trio.open_nursery() as nursery:
        await fs.mkdir("d")
        if known:
            await fs.write("d/f", b"old")
            await fs.drain()
        for name in ("a", "f", "m", "other", "z"):
            await fs.write(f"d/{name}", name.encode())
        begun, calls, call = trio.Event(), [0], getattr(*place)

        def watched(*args: Any) -> Any:
            calls[0] += 1
            begun.set()
            return call(*args)

        async def act() -> None:
            await begun.wait()
            before = calls[0]
            await CHANGES[change](fs)
            copy_state(tmp_path / "state", tmp_path / "copy")
            assert before < 5, "all was over before anything could change"

        monkeypatch.setattr(*place, watched)
        nursery.start_soon(act)
        await fs.drain()
        nursery.cancel_scope.deadline = trio.current_time() + 5
    async with opened(nodes, root, tmp_path / "state") as fs:
        await fs.drain()
        assert left_in(fs.tree) == []
        expected = await _state(fs)
    for copy in (tmp_path / "copy", tmp_path / "fresh"):
        async with opened(nodes, root, copy) as fs:
            assert await _state(fs) == expected
            assert not fs.tree.errors
            assert not fs.tree.conflicts
    assert (b"d/f" in expected) == (
        change not in ("removed", "renamed", "moved up", "removed with all there was")
    )
    assert (b"d/other" in expected) == (change not in ("replaced", "removed with all there was"))
