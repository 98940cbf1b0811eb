"""What the kernel is told of a file of which there is only a glimpse."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import cast

import pytest
from pyfuse3 import FUSEError, InodeT, RequestContext

from lafsfs.fuse.operations import Operations
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.options import TreeOptions
from tests.support.trees import Files, new_root, opened

LAZY = TreeOptions(publish_delay=3600.0, refresh=3600.0, label="test")
NOBODY = cast(RequestContext, None)
FIELDS = (
    "st_ino",
    "st_mode",
    "st_nlink",
    "st_uid",
    "st_gid",
    "st_size",
    "st_blocks",
    "st_mtime_ns",
    "st_ctime_ns",
)


async def listed(fs: Files, path: str) -> dict[bytes, int]:
    """List a directory as readdirplus does."""
    folder = await fs.tree.folder((await fs.find(path)).ino)
    found: dict[bytes, int] = {}
    for _, name, number in folder.after(2):
        glimpsed = fs.tree.glimpse(folder, name, number)
        assert glimpsed is not None
        fs.tree.inodes.glimpsed(*glimpsed)
        found[name] = glimpsed[0]
    return found


async def test_stat_needs_no_inode_and_shows_what_an_inode_would(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a", LAZY) as fs:
        await fs.mkdir("d")
        for number in range(5):
            await fs.write(f"d/{number}", b"%d" % number * (100 + number))
        await fs.drain()
    async with opened(nodes, root, tmp_path / "b", LAZY) as fs:
        found = await listed(fs, "d")
        fs.forget()
        operations = Operations(fs.tree, 5.0)
        shown = {name: await operations.getattr(InodeT(ino), NOBODY) for name, ino in found.items()}
        assert not any(ino in fs.tree.inodes for ino in found.values())
        for name, ino in found.items():
            inode = fs.tree.inode(ino)  # makes one
            whole = await operations.getattr(InodeT(ino), NOBODY)
            assert [getattr(shown[name], field) for field in FIELDS] == [
                getattr(whole, field) for field in FIELDS
            ]
            assert whole.st_size == 100 + int(name) == inode.attributes.size
            assert (whole.attr_timeout, shown[name].attr_timeout) == (5.0, 5.0)


async def test_a_glimpse_of_what_is_gone_is_not_believed(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "a", LAZY) as fs:
        await fs.mkdir("d")
        await fs.write("d/a", b"a" * 100)
        await fs.drain()
    async with opened(nodes, root, tmp_path / "b", LAZY) as fs:
        (number,) = (await listed(fs, "d")).values()
        operations = Operations(fs.tree, 5.0)
        assert (await operations.getattr(InodeT(number), NOBODY)).st_size == 100
        fs.tree.inodes.lose_sight(number)
        with pytest.raises(FUSEError) as caught:
            await operations.getattr(InodeT(number), NOBODY)
        assert caught.value.errno == errno.ESTALE
