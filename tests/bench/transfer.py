"""The way to the grid and back, without a mount: files and directories against real storage servers.

    python -m tests.bench.transfer [--size MIB] [--files N] [--rounds N] [--json FILE]

The client is this process, the servers are others on this machine: one (1-of-1), and ten (3-of-10, happy 7). Prints
medians of MB (or objects) a second, the CPU of client and servers for each, and the MB a second relative to what one
core does in SHA-256, because CHK is made of hashing. Everything read is compared with what was written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from lafsfs.config import Encoding
from lafsfs.formats.packed import Packed
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.keypool import KeyPool
from tests.bench.processes import cpu_of, own_cpu
from tests.support.grids import client
from tests.support.many import many_servers
from tests.support.storage import StorageServer

ENCODINGS = {"1-of-1": Encoding(1, 1, 1), "3-of-10": Encoding(3, 7, 10)}
SMALL = 4096
AT_ONCE = 8

Row = tuple[float, float, float]
"""Units a second, and milliseconds of CPU of client and of servers for each."""


def sha256_rate() -> float:
    """MB a second that one core hashes now; the best of several tries."""
    data, best = bytes(8 << 20), 0.0
    for _ in range(7):
        began = time.perf_counter()
        hashlib.sha256(data).digest()
        best = max(best, len(data) / 1e6 / (time.perf_counter() - began))
    return best


class Bytes:
    """Plaintext in memory, ready for upload."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def read_into(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` from `offset`."""
        buf[:] = self._data[offset : offset + len(buf)]


async def _each(work: Callable[[int], Awaitable[Any]], count: int) -> None:
    """`work` of 0 to `count` - 1, a few at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(worker)


class Bench:
    """Runs workloads against one grid and keeps a row for each run."""

    def __init__(self, servers: list[StorageServer], encoding: Encoding) -> None:
        self._servers, self._encoding = servers, encoding
        self.rows: dict[str, list[Row]] = {}

    async def _measured(self, name: str, units: float, work: Callable[[], Awaitable[Any]]) -> None:
        pids = [server.pid for server in self._servers]
        before = own_cpu(), cpu_of(pids), time.perf_counter()
        await work()
        seconds = time.perf_counter() - before[2]
        row = units / seconds, (own_cpu() - before[0]) * 1e3 / units, (cpu_of(pids) - before[1]) * 1e3 / units
        self.rows.setdefault(name, []).append(row)

    async def round(self, mib: int, files: int) -> None:
        """One run of every workload, each with a client that knows nothing."""
        data, contents = os.urandom(mib << 20), [os.urandom(SMALL) for _ in range(files)]
        megabytes = len(data) / 1e6
        caps: dict[int, Any] = {}
        keys = KeyPool(None, None, 0)
        async with client(self._servers, self._encoding, keypool=keys) as nodes:

            async def put(number: int) -> None:
                caps[number] = await nodes.upload(Bytes(contents[number]))

            await nodes.upload(Bytes(os.urandom(SMALL)))  # connections are made
            await self._measured("upload (MB)", megabytes, partial(self._put_big, nodes, data, caps))
            await self._measured("upload 4 KiB", files, partial(_each, put, files))
        async with client(self._servers, self._encoding) as nodes:
            await self._measured("read in order (MB)", megabytes, partial(_read, nodes, caps[-1], data))

            async def get(number: int) -> None:
                assert await nodes.file(caps[number]).read(0, SMALL) == contents[number]

            await self._measured("read 4 KiB", files, partial(_each, get, files))
        await self._directories(max(8, files // 10))

    async def _put_big(self, nodes: NodeMaker, data: bytes, caps: dict[int, Any]) -> None:
        caps[-1] = await nodes.upload(Bytes(data))

    async def _directories(self, count: int) -> None:
        """Directories made and changed; the keys are there before, as in a mount that rested."""
        with tempfile.TemporaryDirectory() as place:
            keys = KeyPool(Path(place), bytes(32), count)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keys.fill)
                while await keys.stock() < count:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
            async with client(self._servers, self._encoding, keypool=keys) as nodes:
                made: dict[int, Any] = {}

                async def make(number: int) -> None:
                    made[number] = await nodes.create_directory(lambda _: Packed.parse(b""))

                async def change(number: int) -> None:
                    directory, snapshot = made[number]
                    await directory.publish(snapshot, snapshot.packed)

                await self._measured("make directory", count, partial(_each, make, count))
                await self._measured("change directory", count, partial(_each, change, count))


async def _read(nodes: NodeMaker, cap: Any, data: bytes) -> None:
    """In the pieces in which the kernel reads, one after the other."""
    node, step = nodes.file(cap), 128 << 10
    for offset in range(0, len(data), step):
        assert await node.read(offset, step) == data[offset : offset + step]


def _report(name: str, rows: dict[str, list[Row]], rate: float) -> None:
    print(f"\n{name:22}{'per second':>12}{'client ms':>12}{'servers ms':>12}{'of SHA-256':>12}")
    for workload, runs in rows.items():
        speed, mine, theirs = (statistics.median(column) for column in zip(*runs, strict=True))
        share = f"{speed / rate:12.3f}" if "MB" in workload else ""
        print(f"{workload:22}{speed:12.1f}{mine:12.2f}{theirs:12.2f}{share}")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=100, help="MiB of the large file")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=ENCODINGS, help="one of the two grids")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rate = sha256_rate()
    print(f"SHA-256: {rate:.0f} MB/s a core")
    found: dict[str, dict[str, list[Row]]] = {}
    for name, encoding in ENCODINGS.items():
        if options.only not in (None, name):
            continue
        with (
            tempfile.TemporaryDirectory(prefix="lafsfs-bench-") as directory,
            many_servers(Path(directory), encoding.n) as servers,
        ):
            bench = Bench(servers, encoding)
            for _ in range(options.rounds):
                trio.run(bench.round, options.size, options.files)
        found[name] = bench.rows
        _report(name, bench.rows, rate)
    if options.json:
        options.json.write_text(json.dumps({"sha256": rate, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
