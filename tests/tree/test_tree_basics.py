"""A tree in one session and over several: what was made is there, on this mount and on a fresh one."""

from __future__ import annotations

import os
from pathlib import Path

from lafsfs.nodes.maker import NodeMaker
from tests.support.trees import IDLE, left_in, new_root, opened


async def test_a_tree_is_identical_on_a_fresh_mount(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    root = await new_root(nodes)
    big = os.urandom(300_000)
    async with opened(nodes, root, tmp_path / "a") as fs:
        await fs.mkdir("d", 0o750)
        await fs.mkdir("d/e")
        await fs.write("d/e/big", big)
        await fs.write("small", b"x" * 30)
        await fs.symlink(b"d/e/big", "d/link")
        await fs.setxattr("small", b"user.a", b"\0\xff")
        await fs.set("d/e/big", mode=0o4711, mtime=-5, atime=1_234_567_890_123_456_789)
        await fs.write(b"\xff\xfe", b"no text")
        await fs.write("e\u0301", b"decomposed")
        await fs.write("\u00e9", b"composed")
        await fs.link("small", "d/small too")
        await fs.drain()
        assert left_in(fs.tree) == []
        before = await fs.everything()
    async with opened(other_nodes, root, tmp_path / "b", IDLE) as fs:
        after = await fs.everything()
    assert after == before
    assert after[b"d/e/big"].content == big
    assert len(before) == 9
