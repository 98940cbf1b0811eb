"""CPU cost of `lafs-storage`, and of a plain blocking client beside it.

    python -m tests.bench.storage_server_cost [--json FILE]

Prints milliseconds of CPU per small request and per MB, server and client, over TLS on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lafsfs.gbs import routes
from lafsfs.gbs.messages import TestWrite
from tests.support.gbs_client import GbsClient
from tests.support.storage import StorageServer, storage_servers

MB = 1_000_000
PIECE = 1 << 20


def server_cpu(pid: int) -> float:
    """CPU seconds of all threads of a process so far, as the scheduler counts them (not in clock ticks)."""
    counts = [path.read_text().split()[0] for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(map(int, counts)) / 1e9


def own_cpu() -> float:
    """CPU seconds of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _index(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Costs:
    """Measured rows: milliseconds of server CPU, client CPU and wall clock per unit."""

    def __init__(self, server: StorageServer) -> None:
        self._pid = server.pid
        self.rows: dict[str, tuple[float, float, float]] = {}

    def measure(self, name: str, units: float, work: Callable[[], None]) -> None:
        """Do the work once and book it as so many units."""
        before = server_cpu(self._pid), own_cpu(), time.perf_counter()
        work()
        after = server_cpu(self._pid), own_cpu(), time.perf_counter()
        row = [(b - a) * 1000 / units for a, b in zip(before, after, strict=True)]
        self.rows[name] = (row[0], row[1], row[2])
        print(f"{name:34} server {row[0]:7.3f} ms   client {row[1]:7.3f} ms   wall {row[2]:7.3f} ms")


def _small(client: GbsClient, costs: Costs, count: int) -> None:
    def versions() -> None:
        for _ in range(count):
            client.request("GET", routes.VERSION)

    def small_shares() -> None:
        for number in range(count):
            client.allocate(_index(number), [0], 4500)
            client.write(_index(number), 0, 0, bytes(4500))

    def small_reads() -> None:
        for number in range(count):
            client.read("immutable", _index(number), 0, 0, 4500)

    def publishes() -> None:
        for number in range(count):
            vector = TestWrite([(0, 1, b"")], [(0, bytes(2000))], None)
            client.read_test_write(_index(1 << 40 | number), {0: vector}, [(0, 75)])

    costs.measure("version, per request", count, versions)
    costs.measure("allocate + write 4.5 kB, per share", count, small_shares)
    costs.measure("read 4.5 kB, per request", count, small_reads)
    costs.measure("read-test-write 2 kB, per request", count, publishes)


def _large(client: GbsClient, costs: Costs, megabytes: int) -> None:
    size = megabytes * MB
    index = _index(1 << 80)
    piece = os.urandom(PIECE)

    def upload() -> None:
        client.allocate(index, [0], size)
        for offset in range(0, size, PIECE):
            client.write(index, 0, offset, piece[: min(PIECE, size - offset)])

    def download() -> None:
        for offset in range(0, size, PIECE):
            client.read("immutable", index, 0, offset, min(PIECE, size - offset))

    costs.measure("write, per MB", megabytes, upload)
    costs.measure("read, per MB", megabytes, download)


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--megabytes", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, storage_servers(Path(directory)) as [server]:
        costs = Costs(server)
        with GbsClient(server.nurl) as client:
            _small(client, costs, options.requests)
            _large(client, costs, options.megabytes)
        if options.json is not None:
            options.json.write_text(json.dumps(costs.rows, indent=1))


if __name__ == "__main__":
    main()
