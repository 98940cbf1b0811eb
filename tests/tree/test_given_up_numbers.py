"""An inode that nobody uses is forgotten; its number may then go to another entry that carries it as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from lafsfs.formats.caps import DirCap, parse
from lafsfs.nodes.maker import NodeMaker
from lafsfs.tree.inodes import ROOT
from tests.support.pairs import NEVER, both
from tests.support.trees import Files


async def call_it_b_as_well(nodes: NodeMaker, fs: Files) -> None:
    """What clients leave that move "a" at the same time: two entries that carry one number."""
    root = fs.tree.inode(ROOT).caps
    assert root is not None
    cap = parse(root[0])
    assert isinstance(cap, DirCap)
    node = nodes.directory(cap)
    base = await node.read()
    raw = base.packed.raw("a")
    assert raw is not None
    await node.publish(base, base.packed.with_changes({"b": raw.replace(b"1:a,", b"1:b,", 1)}))


@pytest.mark.parametrize("kind", ["file", "directory"])
async def test_a_change_of_the_first_name_is_none_of_the_other(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, kind: str
) -> None:
    async with both(nodes, other_nodes, tmp_path, NEVER) as (here, there):
        await (here.mkdir("a") if kind == "directory" else here.write("a", b"a" * 1000))
        await here.drain()
        await call_it_b_as_well(nodes, here)
        number = (await here.find("a")).ino
        assert await here.names() == {b"a", b"b"}
        here.forget()
        before = (await here.find("b")).attributes
        assert (await here.find("b")).ino == number
        await there.set("a", mode=0o700, mtime=1)
        await there.drain()
        assert (await here.find("b")).attributes == before
        assert (await here.find("a")).attributes.mtime == 1
