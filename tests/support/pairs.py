"""Two working trees of one directory, and whether they agree in the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.options import TreeOptions
from tests.support.trees import Files, left_in, new_root, opened

NEVER = TreeOptions(publish_delay=3600.0, refresh=0.0, label="here")
"""Nothing is published before somebody drains; directories are looked at again with every access."""
ONCE = TreeOptions(publish_delay=3600.0, refresh=3600.0, label="there")
"""Directories are not looked at again: what others did is seen only when publishing."""


@asynccontextmanager
async def both(
    nodes: NodeMaker, other: NodeMaker, folder: Path, options: TreeOptions
) -> AsyncIterator[tuple[Files, Files]]:
    """Two trees of one new root."""
    root = await new_root(nodes)
    async with AsyncExitStack() as stack:
        here = await stack.enter_async_context(opened(nodes, root, folder / "here", options))
        there = await stack.enter_async_context(opened(other, root, folder / "there", options))
        yield here, there


async def agree(*mounts: Files) -> set[bytes]:
    """All have published everything, and see the same; the paths."""
    for _ in range(2):
        for fs in mounts:
            await fs.drain()
    for fs in mounts:
        look_again(fs)
        assert not left_in(fs.tree), f"{fs.tree.options.label}: {left_in(fs.tree)}"
    ours = await mounts[0].everything()
    for fs in mounts[1:]:
        theirs = await fs.everything()
        for path in {*ours, *theirs}:
            assert ours.get(path) == theirs.get(path), (
                f"{path!r}: {ours.get(path)} here, {theirs.get(path)} there"
            )
    return set(ours)


def look_again(fs: Files) -> None:
    """Have all directories looked at again with the next access, and all inodes that nobody uses made anew."""
    fs.forget()
    for inode in list(fs.tree.inodes):
        if inode.folder is not None:
            inode.folder.checked = float("-inf")
