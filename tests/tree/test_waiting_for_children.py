"""A directory waits for the contents of its files, and for none that left it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from lafsfs.nodes.maker import NodeMaker
from tests.support.trees import Files, new_root, opened

LEAVES: dict[str, Callable[[Files], Awaitable[object]]] = {
    "removed": lambda fs: fs.unlink("d/last"),
    "moved": lambda fs: fs.rename("d/last", "last"),
    "replaced": lambda fs: fs.rename("d/first", "d/last"),
}


@pytest.mark.parametrize("change", LEAVES)
async def test_a_directory_does_not_wait_for_what_left_it(
    nodes: NodeMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The last of its children is being uploaded, and does not come to an end."""
    upload, stuck, go_on = NodeMaker.upload, trio.Event(), trio.Event()

    async def held(self: NodeMaker, source: Any, *args: Any, **kwargs: Any) -> Any:
        if source.size == 2000:
            stuck.set()
            await go_on.wait()
        return await upload(self, source, *args, **kwargs)

    monkeypatch.setattr(NodeMaker, "upload", held)
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state") as fs, trio.open_nursery() as nursery:
        await fs.mkdir("d")
        await fs.write("d/first", b"1" * 1000)
        await fs.write("d/last", b"2" * 2000)
        nursery.start_soon(fs.drain)
        await stuck.wait()
        folder = (await fs.find("d")).folder
        assert folder is not None
        with trio.fail_after(10):
            while folder.awaited is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert folder.snapshot is None
        await LEAVES[change](fs)
        with trio.fail_after(10):
            while folder.snapshot is None or folder.pending:  # noqa: ASYNC110
                await trio.sleep(0.01)
        go_on.set()
    async with opened(nodes, root, tmp_path / "fresh") as fs:
        assert await fs.names("d") == ({b"last"} if change == "replaced" else {b"first"})
