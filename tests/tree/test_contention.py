"""Five clients work on one tree at random; in the end all see the same, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap
from lafsfs.tree.options import TreeOptions
from tests.support.contention import OfTree, Tokens, Worker, unlike
from tests.support.grids import client, failing
from tests.support.pairs import look_again
from tests.support.storage import StorageServer
from tests.support.trees import Files, all_in, left_in, new_root, opened

CLIENTS = 5
STEPS = int(os.environ.get("CONTENTION_STEPS", "20"))
SEED = os.environ.get("CONTENTION_SEED", "1")
AGREED = 60.0  # seconds of publishing and looking again, until all see the same


@asynccontextmanager
async def clients(
    servers: Sequence[StorageServer], encoding: Encoding, folder: Path
) -> AsyncIterator[list[Files]]:
    """Trees of one root, each with a connection and a state directory of its own."""
    root: DirCap | None = None
    async with AsyncExitStack() as stack:
        mounts: list[Files] = []
        for number in range(CLIENTS):
            nodes = await stack.enter_async_context(client(servers, encoding))
            root = root or await new_root(nodes)
            options = TreeOptions(publish_delay=0.02, refresh=0.1, label=f"m{number}", directory_wait=2.0)
            mounts.append(
                await stack.enter_async_context(opened(nodes, root, folder / f"m{number}", options))
            )
        yield mounts


async def work(mounts: list[Files], tokens: Tokens, seed: str) -> Counter[str]:
    workers = [
        Worker(OfTree(fs), f"m{number}", f"{seed}/{number}", tokens) for number, fs in enumerate(mounts)
    ]

    async def run(worker: Worker, pauses: random.Random) -> None:
        for _ in range(STEPS):
            await worker.step()
            await trio.sleep(pauses.choice((0.0, 0.0, 0.01, 0.1)))

    async with trio.open_nursery() as nursery:
        for number, worker in enumerate(workers):
            nursery.start_soon(run, worker, random.Random(f"{seed}/{number}/pauses"))
    return sum((worker.done for worker in workers), Counter())


async def settled(mounts: list[Files]) -> dict[str, dict[bytes, tuple[object, ...]]]:
    """Everything is published, and all see the same; what they see."""
    deadline = trio.current_time() + AGREED
    while True:
        for fs in mounts:
            await fs.drain()
        seen = {}
        for fs in mounts:
            look_again(fs)
            found = await all_in(fs)
            seen[fs.tree.options.label] = {
                path: (one.mode, one.owner, one.size, one.times, one.content) for path, one in found.items()
            }
        calm = all(fs.tree.publisher.idle and not fs.tree.status().errors for fs in mounts)
        agreed = calm and not unlike(seen)
        if agreed or trio.current_time() > deadline:
            return seen
        await trio.sleep(0.1)


async def check(mounts: list[Files], tokens: Tokens) -> None:
    seen = await settled(mounts)
    differences = unlike(seen)
    assert not differences, "\n".join(differences)
    for fs in mounts:
        assert left_in(fs.tree) == []
        assert fs.tree.status().errors == []
    contents = [what[-1] for what in seen["m0"].values()]
    missing = tokens.missing(one for one in contents if isinstance(one, bytes))
    assert not missing, f"{sorted(missing)} of {len(tokens.acknowledged)} are lost:\n{tokens.history}"


@pytest.mark.parametrize("encoding", [Encoding(1, 1, 1), Encoding(2, 3, 3)], ids=["1of1", "2of3"])
async def test_random_work_of_five(three: list[StorageServer], tmp_path: Path, encoding: Encoding) -> None:
    tokens = Tokens()
    async with clients(three[: encoding.n], encoding, tmp_path) as mounts:
        await work(mounts, tokens, SEED)
        await check(mounts, tokens)


async def test_random_work_with_servers_that_fail_one_request_in_ten(
    three: list[StorageServer], tmp_path: Path
) -> None:
    tokens = Tokens()
    async with clients(three, Encoding(2, 3, 3), tmp_path) as mounts:
        async with AsyncExitStack() as stack:
            for number, fs in enumerate(mounts):
                faults = random.Random(f"{SEED}/{number}/faults")
                await stack.enter_async_context(failing(fs.tree.nodes._grid, 0.1, faults))
            await work(mounts, tokens, f"{SEED}/failing")
        await check(mounts, tokens)
