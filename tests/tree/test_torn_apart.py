"""Writers that tore a directory apart between them: no version of it can be recovered, but some knew it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lafsfs.errors import PendingError
from lafsfs.tree import torn
from tests.support.grids import client
from tests.support.pairs import NEVER
from tests.support.storage import StorageServer
from tests.support.torn import TWO_OF_THREE, leave_torn
from tests.support.trees import new_root, opened


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
