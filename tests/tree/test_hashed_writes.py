"""What is known of a content's hash while it is written: always the hash of what is there."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.formats.keys import convergence_hasher
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer import convergence
from lafsfs.transfer.convergence import Beginning, HashedAlong
from lafsfs.transfer.encoding import BytesContents
from lafsfs.tree import hashed_writes
from lafsfs.tree.hashed_writes import append_and_hash, write_and_hash
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.staging import StagedFile, StagingArea
from tests.support.trees import new_root, opened

MIB = 1 << 20
ENCODING = 1, 1, MIB
START = convergence_hasher(b"secret", *ENCODING)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("next"), st.binary(min_size=1, max_size=30)),
        st.tuples(st.just("next at once"), st.binary(min_size=1, max_size=30)),
        st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=30)),
        st.tuples(st.just("at once"), st.integers(0, 90), st.binary(min_size=1, max_size=30)),
        st.tuples(st.just("small"), st.integers(0, 90), st.binary(min_size=1, max_size=30)),
        st.integers(0, 120),
        st.just("rest"),
    ),
    max_size=12,
)


def key_of(content: bytes | bytearray) -> bytes:
    hasher = START.copy()
    hasher.update(bytes(content))
    return hasher.digest()


def put(model: bytearray, offset: int, data: bytes) -> None:
    model += bytes(max(0, offset - len(model)))
    model[offset : offset + len(data)] = data


async def apply(staged: StagedFile, model: bytearray, step: object) -> None:
    if isinstance(step, int):
        staged.truncate(step, 1)
        model[:] = bytes(model[:step]).ljust(step, b"\0")
        return
    if step == "rest":
        staged.idle()
        return
    assert isinstance(step, tuple)
    *where, data = step
    if where[0] == "small":
        staged.write(where[1], data, 1)
        put(model, where[1], data)
        return
    if where[0] == "next at once" or where[0] == "at once":
        offset = len(model) if where[0] == "next at once" else where[1]
        write_and_hash(staged, offset, data, 1)
    else:
        offset = len(model) if where[0] == "next" else where[0]
        await append_and_hash(staged, offset, data, 1)
    put(model, offset, data)


@settings(max_examples=150, deadline=None)
@given(steps, st.sampled_from([1, 40, 1000]))
def test_any_sequence(tmp_path_factory: pytest.TempPathFactory, sequence: list[object], at_once: int) -> None:
    folder = tmp_path_factory.mktemp("area")

    @mock.patch.object(hashed_writes, "_WORTH_IT", 1)
    @mock.patch.object(convergence, "AT_ONCE", at_once)
    async def run() -> None:
        staged = StagingArea(folder, bytes(32)).create(0, 0)
        staged.hashed = HashedAlong(Beginning(ENCODING, 0, START))
        model = bytearray()
        for step in sequence:
            before = staged.snapshot()
            content = bytes(model)
            await apply(staged, model, step)
            for known, of in (staged.snapshot().beginning, model), (before.beginning, content):
                if known is not None:
                    assert known.hasher().digest() == key_of(of[: known.size])
        in_order = all(isinstance(step, tuple) and step[0] in ("next", "next at once") for step in sequence)
        if in_order:
            assert staged.hashed is not None
            staged.hashed.catch_up(0)
            known = staged.hashed.known
            assert staged.hashed.end == len(model)
            assert known.size > len(model) - at_once
            assert known.hasher().digest() == key_of(model[: known.size])
        staged.remove()

    trio.run(run)
    shutil.rmtree(folder)


async def test_what_is_written_is_not_kept_in_memory(nodes: NodeMaker, tmp_path: Path) -> None:
    """Files smaller than what the thread gets at once are not held until they are on the grid."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path, TreeOptions(publish_delay=3600.0)) as fs:
        data = b"x" * 500_000
        before = sys.getrefcount(data)
        await fs.write("file", data)
        assert sys.getrefcount(data) == before
        assert await fs.read("file") == data


@pytest.mark.parametrize("then", ["nothing", "overwrite", "cut", "grow", "end with a small piece"])
async def test_a_large_file_gets_its_convergent_key(nodes: NodeMaker, tmp_path: Path, then: str) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path, TreeOptions(publish_delay=3600.0)) as fs:
        data = bytearray(then.encode().ljust(3 * MIB, b"x"))
        inode = await fs.make("file", 0o100644)
        handle = await fs.open("file", 2)
        for offset in range(0, len(data), MIB):
            await fs.pwrite(handle, bytes(data[offset : offset + MIB]), offset)
        if then == "overwrite":
            await fs.pwrite(handle, b"y" * 70_000, 100)
            data[100:70_100] = b"y" * 70_000
        elif then == "cut":
            await fs.tree.files.truncate(inode, 2 * MIB + 5)
            del data[2 * MIB + 5 :]
        elif then == "grow":
            await fs.tree.files.truncate(inode, 4 * MIB + 5)
            data += bytes(MIB + 5)
        elif then == "end with a small piece":
            await fs.pwrite(handle, b"end", len(data))
            data += b"end"
        await fs.close(handle)
        await fs.drain()
        cap = await nodes.upload(BytesContents(bytes(data)))
        assert inode.caps is not None
        assert inode.caps[1] == cap.to_bytes()
        assert await fs.read("file") == data
