"""How fast it is, against a floor and against others.

    python -m tests.bench [--quick] [--only GROUP ...] [--places NAME ...] [--rounds N] [--out DIR]

Every round runs each group of workloads in every place, one after the other, so that a noisy machine hurts all alike;
ratios are taken within a round. Places: `lafsfs` on the bundled server, `lafsfs 3-of-10` on ten local servers, `memory`
(pyfuse3 with nothing behind it, the floor), `disk`, and as far as they are installed gocryptfs, rclone (crypt), s3ql,
and Tahoe's web API. Leaves nothing but a table, and with --out results.json, results.md and pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tarfile
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench import grid_workloads, others, tools, workloads
from tests.bench.lafsfs_places import bundled, tahoe_web, ten_servers
from tests.bench.places import GRID, Place
from tests.bench.plots import draw
from tests.bench.report import Results, table
from tests.bench.running import Group, Sizes, run_group
from tests.bench.transfer import sha256_rate
from tests.scenario.source_tree import library_files
from tests.support.tahoe import is_installed as tahoe_is_installed

GROUPS: dict[str, Group] = {
    "stream": workloads.stream,
    "random": workloads.random_places,
    "small": workloads.small_files,
    "listing": workloads.listing,
    "tree": tools.source_tree,
    "sqlite": tools.sqlite,
    "append": workloads.append,
    "four": workloads.four_at_once,
    "latency": workloads.latency,
    GRID: grid_workloads.until_on_the_grid,
}
LAFSFS, TEN, WEB, WEB_TEN = "lafsfs", "lafsfs 3-of-10", "tahoe web", "tahoe web 3-of-10"
ON_A_GRID = (TEN, WEB, WEB_TEN)
DEADLINE = 1800.0


def open_places(stack: ExitStack, names: list[str], scratch: Path) -> list[Place]:
    """The named places, mounted until the stack ends."""
    places: list[Place] = []
    if LAFSFS in names:
        places.append(stack.enter_context(bundled(LAFSFS)))
    places += [others.MAKERS[name][1](stack, scratch) for name in names if name in others.MAKERS]
    if any(name in ON_A_GRID for name in names):
        ten, servers = stack.enter_context(ten_servers(scratch, TEN))
        if TEN in names:
            places.append(ten)
        if WEB in names:
            places.append(stack.enter_context(tahoe_web(WEB, scratch / "web1", servers[:1], 1, 1, 1)))
        if WEB_TEN in names:
            places.append(stack.enter_context(tahoe_web(WEB_TEN, scratch / "web10", servers, 3, 7, 10)))
    return places


def measure(places: list[Place], groups: list[str], sizes: Sizes, rounds: int, results: Results) -> None:
    """All rounds."""
    seed = int(time.time())
    for place in places:
        place.rest()
    for number in range(rounds):
        for group in groups:
            for turn in range(len(places)):
                place = places[(turn + number) % len(places)]
                if not place.suits(group):
                    continue
                print(f"round {number + 1}: {group} on {place.name}", file=sys.stderr, flush=True)
                outcome = run_group(GROUPS[group], group, place, sizes, seed + number, DEADLINE)
                if outcome.failure:
                    print(f"  {outcome.failure}", file=sys.stderr)
                results.add(group, place.name, number, outcome)


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "cores": os.cpu_count(),
        "sha256_mb_per_second": round(sha256_rate()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def archive_of(path: Path, count: int) -> Path:
    """A tar archive of so many files of Python's own library."""
    with tarfile.open(path, "w") as tar:
        for position, (file, name) in enumerate(library_files()):
            if position == count:
                break
            tar.add(file, name, recursive=False)
    return path


def available() -> list[str]:
    """Names of all places that can be measured here."""
    names = [LAFSFS, *(name for name in others.MAKERS if others.installed(name)), TEN]
    return [*names, WEB, WEB_TEN] if tahoe_is_installed() else names


def main() -> int:
    """0 when all went well, 1 when a workload failed, 2 when wrong data was read."""
    options = _arguments()
    sizes = Sizes(mib=options.size, files=options.files, entries=options.entries).scaled(
        0.2 if options.quick else 1.0
    )
    groups = options.only or list(GROUPS)
    results = Results(machine())
    with tempfile.TemporaryDirectory(prefix="lafsfs-bench-") as directory, ExitStack() as stack:
        scratch = Path(directory)
        tree = options.tree or archive_of(scratch / "tree.tar", 200 if options.quick else 1000)
        sizes = Sizes(**{**vars(sizes), "tree": tree.absolute()})
        places = open_places(stack, options.places or available(), scratch)
        measure(places, groups, sizes, 1 if options.quick else options.rounds, results)
    names = [place.name for place in places]
    text = table(results, names)
    print(text)
    if options.out:
        _write(options.out, results, text)
    for failure in results.failures:
        print(failure, file=sys.stderr)
    return 2 if any("WRONG" in failure for failure in results.failures) else int(bool(results.failures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of everything, one round: some minutes")
    parser.add_argument("--only", nargs="+", choices=GROUPS, help="these groups of workloads")
    parser.add_argument("--places", nargs="+", choices=available(), help="these places")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="MiB of a large file")
    parser.add_argument("--files", type=int, default=500, help="small files")
    parser.add_argument("--entries", type=int, default=10_000, help="of a large directory")
    parser.add_argument("--tree", type=Path, help="a tar archive to unpack (default: of Python's library)")
    parser.add_argument("--out", type=Path, help="directory for results.json, results.md and pictures")
    return parser.parse_args()


def _write(directory: Path, results: Results, text: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results.as_json(), indent=1) + "\n")
    facts = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in results.machine.items())
    (directory / "results.md").write_text(f"# Measured with `make bench`\n\n{facts}\n\n{text}\n")
    try:
        draw(results.as_json(), directory)
    except ImportError:
        print("no pictures: matplotlib is not installed (make plots)", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
