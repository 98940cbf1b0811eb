"""Random writes, truncations and appends on an MDMF file against a bytearray; a second tree reads every step.

MUTABLE_STEPS and MUTABLE_SIZE make it longer (the judgement of issue 4 is made with files up to 50 MB).
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lafsfs.nodes.maker import NodeMaker
from tests.support.pairs import NEVER, look_again
from tests.support.trees import Files, opened
from tests.tree.test_mutable_files import mutable_in_root

STEPS = int(os.environ.get("MUTABLE_STEPS", "25"))
SIZE = int(os.environ.get("MUTABLE_SIZE", str(1 << 20)))
SEGMENT = 128 << 10


@pytest.mark.parametrize("seed", [1, 2])
async def test_random_changes_of_a_mutable_file(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path, seed: int
) -> None:
    rnd = random.Random(seed)
    model = bytearray(rnd.randbytes(SIZE // 2))
    root, _ = await mutable_in_root(nodes, bytes(model), True)
    async with (
        opened(nodes, root, tmp_path / "one", NEVER) as one,
        opened(other_nodes, root, tmp_path / "two", NEVER) as two,
    ):
        for step in range(STEPS):
            writer, reader = rnd.sample((one, two), 2)
            for _ in range(rnd.choice((1, 1, 2, 5))):
                await change(writer, model, rnd)
                if rnd.random() < 0.3:
                    assert await writer.read("m") == model, f"step {step}, before it is published"
            await writer.drain()
            for fs in (writer, reader):
                fs.tree._measured.clear()
                look_again(fs)
                assert await fs.read("m") == model, f"step {step}"
                assert (await fs.find("m")).attributes.size == len(model)
            assert not one.tree.conflicts
            assert not two.tree.conflicts


async def change(fs: Files, model: bytearray, rnd: random.Random) -> None:
    """One random change of file and model."""
    kind = rnd.choice(("write", "write", "append", "truncate", "beyond"))
    if kind == "truncate":
        size = _somewhere(rnd, min(SIZE, len(model) + SEGMENT))
        await fs.set("m", size=size)
        model[:] = model[:size].ljust(size, b"\0")
        return
    data = rnd.randbytes(rnd.choice((1, 100, 4096, SEGMENT, SEGMENT + 1, 300_000)))
    start = {"write": _somewhere(rnd, len(model)), "append": len(model)}.get(
        kind, len(model) + rnd.randrange(2 * SEGMENT)
    )
    await fs.write("m", data, start)
    model.extend(bytes(max(0, start - len(model))))
    model[start : start + len(data)] = data


def _somewhere(rnd: random.Random, end: int) -> int:
    """Some offset up to `end`, near a border of segments more often than by chance."""
    if rnd.random() < 0.5:
        return min(end, max(0, rnd.randrange(0, end // SEGMENT + 1) * SEGMENT + rnd.randrange(-1, 2)))
    return rnd.randrange(end + 1)
