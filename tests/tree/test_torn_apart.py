"""Writers that left something that cannot be recovered: a version that was not finished, or several that tore each
other apart.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from lafsfs.errors import PendingError
from lafsfs.formats.caps import DirCap, MutableWriteCap, parse
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree import guarding, torn
from lafsfs.tree.attaching import attach, caps_to_attach
from lafsfs.tree.directories import Folder
from lafsfs.tree.inodes import ROOT, Caps
from tests.support.grids import client
from tests.support.pairs import NEVER
from tests.support.storage import StorageServer
from tests.support.torn import TWO_OF_THREE, leave_half_of_a_file, leave_in_the_middle, leave_torn
from tests.support.trees import new_root, opened


def _directory(caps: Caps) -> DirCap:
    cap = parse(caps[0])
    assert isinstance(cap, DirCap)
    return cap


async def test_who_knows_the_version_before_goes_on_from_it(
    three: list[StorageServer], tmp_path: Path
) -> None:
    async with client(three, TWO_OF_THREE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "here", NEVER) as here:
            await here.write("before", b"1")
            await here.drain()
            await leave_torn(three, root)
            assert await here.names() == {b"before"}
            await here.write("after", b"2")
            await here.drain()
            assert await here.names() == {b"before", b"after"}
            assert not here.tree.status().errors
    async with client(three, TWO_OF_THREE) as fresh, opened(fresh, root, tmp_path / "fresh") as fs:
        assert await fs.names() == {b"before", b"after"}


async def test_who_knows_an_older_version_lets_others_go_first(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        guarding, "LOOKS", (1000.0,)
    )  # the version that is torn apart must not be seen before
    async with client(three, TWO_OF_THREE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "here", NEVER) as here:
            await here.write("before", b"1")
            await here.drain()
            await leave_torn(three, root, later=1)
            await here.write("after", b"2")
            with pytest.raises(PendingError):
                await here.tree.drain(3.0)
            monkeypatch.setattr(torn, "AFTER_OTHERS", 0.0)
            await here.drain()
    async with client(three, TWO_OF_THREE) as fresh, opened(fresh, root, tmp_path / "fresh") as fs:
        assert await fs.names() == {b"before", b"after"}


@pytest.mark.parametrize("mdmf", [False, True], ids=["sdmf", "mdmf"])
async def test_a_mutable_file_that_was_left_in_the_middle(
    three: list[StorageServer], tmp_path: Path, mdmf: bool
) -> None:
    """It shows the version before, and can be written."""
    async with client(three, TWO_OF_THREE) as nodes:
        file = await nodes.create_mutable(b"before" * 30_000, mdmf)
        assert isinstance(file.cap, MutableWriteCap)
        await leave_half_of_a_file(three, file.cap)
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "here", NEVER) as here:
            await attach(here.tree, ROOT, b"m", caps_to_attach(file.cap.to_bytes()))
            assert await here.read("m") == b"before" * 30_000
            await here.write("m", b"BEFORE", 6)
            await here.drain()
            assert not here.tree.conflicts
    async with client(three, TWO_OF_THREE) as fresh, opened(fresh, root, tmp_path / "fresh") as fs:
        assert await fs.read("m") == b"beforeBEFORE" + b"before" * 29_998


async def test_who_knows_nothing_of_a_directory_waits_for_a_slow_writer(
    three: list[StorageServer], tmp_path: Path
) -> None:
    async with client(three, TWO_OF_THREE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "here", NEVER) as here:
            await here.mkdir("sub")
            await here.write("sub/before", b"1")
            await here.drain()
            sub = _directory(await here.tree.caps_at(b"sub"))
    async with client(three, TWO_OF_THREE) as fresh, opened(fresh, root, tmp_path / "fresh") as fs:
        assert await fs.names() == {b"sub"}
        finish = await leave_in_the_middle(three, sub)
        seen: set[bytes] = set()

        async def look() -> None:
            seen.update(await fs.names("sub"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            with trio.move_on_after(1.5):
                await trio.sleep_forever()
            assert not seen
            finish()
        assert seen == {b"before", b"half"}


async def test_what_nobody_is_writing_is_not_waited_for_again(
    three: list[StorageServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client(three, TWO_OF_THREE) as nodes:
        root = await new_root(nodes)
        async with opened(nodes, root, tmp_path / "here", NEVER) as here:
            await here.mkdir("sub")
            await here.write("sub/before", b"1")
            await here.drain()
            sub = _directory(await here.tree.caps_at(b"sub"))
    await leave_in_the_middle(three, sub)
    async with client(three, TWO_OF_THREE) as fresh, opened(fresh, root, tmp_path / "fresh") as fs:
        with pytest.raises(OSError, match="Errno 5"):
            await fs.names("sub")
        looks = 0
        newest = fs.tree.newest

        async def counted(folder: Folder) -> Snapshot:
            nonlocal looks
            looks += 1
            return await newest(folder)

        monkeypatch.setattr(fs.tree, "newest", counted)
        with pytest.raises(OSError, match="Errno 5"):
            await fs.names("sub")
        assert looks == 1
