"""What a user feels: small operations, one big file, and the time until all of it is on the grid.

    python -m tests.bench.storm [--files N] [--size MIB] [--rounds N] [--against DIR ...] [--json FILE]

Mounts a fresh tree on a bundled server (1-of-1, loopback) and runs each workload there and in every DIR (default: a
temporary directory on the local disk), turn by turn, so that a noisy machine hurts all alike. Prints medians, the
ratio to the first DIR, and the CPU time of the mount process per operation. What is read back is compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.mounts import MountedTree, lafsfs_home

SMALL = 4096


@dataclass
class Result:
    """One workload in one place: operations (or MB) a second, and microseconds of the daemon's CPU for each."""

    name: str
    rate: float
    cpu: float


class Place:
    """A directory to work in, and the process that serves it, if any."""

    def __init__(self, label: str, path: Path, pid: int | None) -> None:
        self.label = label
        self.path = path
        self.pid = pid

    def cpu(self) -> float:
        """Microseconds of CPU the serving process took so far."""
        if self.pid is None:
            return 0.0
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1000

    def timed(self, name: str, count: float, work: Callable[[], None]) -> Result:
        """Run `work` once; `count` is what it did."""
        cpu, began = self.cpu(), time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        return Result(name, count / seconds, (self.cpu() - cpu) / count)


def workloads(place: Place, files: int, mib: int) -> Iterator[Result]:
    """All workloads in a fresh directory of `place`."""
    base = Path(tempfile.mkdtemp(dir=place.path))
    content = os.urandom(SMALL)
    names = [base / str(number) for number in range(files)]
    renamed = [base / f"r{number}" for number in range(files)]
    folders = [base / f"d{number}" for number in range(files)]

    def each(work: Callable[[int], object]) -> Callable[[], None]:
        def run() -> None:
            for number in range(files):
                work(number)

        return run

    yield place.timed("create 4 KiB", files, each(lambda i: names[i].write_bytes(content)))
    yield place.timed("stat", files, each(lambda i: names[i].stat()))
    yield place.timed("list with stat", files, lambda: _listed(base, files))
    yield place.timed("rename", files, each(lambda i: names[i].rename(renamed[i])))
    yield place.timed("chmod", files, each(lambda i: renamed[i].chmod(0o600)))
    yield place.timed("unlink", files, each(lambda i: renamed[i].unlink()))
    yield place.timed("mkdir", files, each(lambda i: folders[i].mkdir()))
    yield place.timed("rmdir", files, each(lambda i: folders[i].rmdir()))
    big, data = base / "big", os.urandom(mib << 20)
    megabytes = len(data) / 1e6
    yield place.timed("write and close (MB)", megabytes, lambda: _written(big, data))
    yield place.timed("read warm (MB)", megabytes, lambda: _same(big, data))


def _listed(base: Path, files: int) -> None:
    assert sum(entry.stat().st_size for entry in os.scandir(base)) == files * SMALL


def _written(path: Path, data: bytes) -> None:
    with open(path, "wb", buffering=0) as out:
        for start in range(0, len(data), 1 << 20):
            out.write(data[start : start + (1 << 20)])


def _same(path: Path, data: bytes) -> None:
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(data).digest()


def until_on_the_grid(tree: MountedTree, place: Place, files: int, mib: int) -> Iterator[Result]:
    """Writing, and waiting for `lafsfs flush`, together."""
    base = Path(tempfile.mkdtemp(dir=place.path))
    content, data = os.urandom(SMALL), os.urandom(mib << 20)

    def small() -> None:
        for number in range(files):
            (base / str(number)).write_bytes(content + str(number).encode())
        tree.home.lafsfs("flush", str(tree.path), timeout=600)

    def large() -> None:
        _written(base / "big", data)
        tree.home.lafsfs("flush", str(tree.path), timeout=600)

    yield place.timed("4 KiB files, on the grid", files, small)
    yield place.timed("big file, on the grid (MB)", len(data) / 1e6, large)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128, help="MiB of the big file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, action="append", default=[])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="lafsfs-bench-"))
    found: dict[str, dict[str, list[Result]]] = {}
    try:
        with lafsfs_home() as home:
            home.lafsfs("create")
            with home.mounted("home:") as tree:
                places = [Place("lafsfs", tree.path, tree.pid)]
                places += [Place(str(path), path, None) for path in options.against or [scratch]]
                for _ in range(options.rounds):
                    for place in places:
                        results = list(workloads(place, options.files, options.size))
                        if place.pid is not None:
                            results += until_on_the_grid(tree, place, options.files, options.size)
                        for result in results:
                            found.setdefault(result.name, {}).setdefault(place.label, []).append(result)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _report(found, [place.label for place in places])
    if options.json:
        rates = {
            name: {label: [one.rate for one in runs] for label, runs in by_place.items()}
            for name, by_place in found.items()
        }
        options.json.write_text(json.dumps(rates, indent=1))


def _report(found: dict[str, dict[str, list[Result]]], labels: list[str]) -> None:
    print(
        f"{'per second (median)':28}"
        + "".join(f"{label[-16:]:>17}" for label in labels)
        + "   ratio   cpu us"
    )
    for name, by_place in found.items():
        medians = [
            statistics.median(one.rate for one in by_place[label]) if label in by_place else None
            for label in labels
        ]
        mine, other = medians[0], medians[1] if len(medians) > 1 else None
        ratio = f"{mine / other:8.2f}" if mine and other else " " * 8
        cpu = statistics.median(one.cpu for one in by_place[labels[0]])
        row = "".join(f"{value:17.0f}" if value is not None else " " * 17 for value in medians)
        print(f"{name:28}{row}{ratio}{cpu:9.0f}")


if __name__ == "__main__":
    main()
