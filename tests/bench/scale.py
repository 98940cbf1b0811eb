"""What a file costs when there are many, and an entry of a large directory.

    python -m tests.bench.scale [--files N ...] [--entries N] [--content BYTES] [--out DIR]

Trees of 2,000, 20,000 and 200,000 files, a hundred in each directory, are unpacked by tar, brought to the grid,
listed, listed again by another machine and removed; then the same with one directory of 100,000 files, and files are
created in it and in an empty one. Each tree has a mount and a bundled server of its own. Prints for each step the
microseconds for each file (wall, CPU of the mount, CPU of the server) and the memory of the mount after it, then the
cost of the largest tree relative to that of the smallest. Contents of up to 55 bytes are part of their directories;
larger ones are uploaded one by one, some ten milliseconds each.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.lafsfs_places import LafsfsPlace, bundled
from tests.bench.processes import cpu_of, memory
from tests.bench.running import check
from tests.bench.workloads import write_file

FILES_IN_A_DIRECTORY = 100
CREATED = 200
_COLUMNS = ("wall µs", "mount µs", "server µs", "memory MiB")


class Row(NamedTuple):
    """One step: microseconds for each file, and bytes of the mount after it."""

    wall: float
    mount: float
    server: float
    memory: int


class Scale:
    """Measures steps in one place. `rows` by name of the step."""

    def __init__(self, place: LafsfsPlace) -> None:
        self.place = place
        self.rows: dict[str, Row] = {}

    @contextmanager
    def timed(self, step: str, count: int) -> Iterator[None]:
        """The block does something with so many files."""
        clients, servers = self.place.clients(), self.place.servers()
        before, began = (cpu_of(clients), cpu_of(servers)), time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        mount, server = cpu_of(clients) - before[0], cpu_of(servers) - before[1]
        wall, mount, server = (1e6 * value / count for value in (seconds, mount, server))
        row = self.rows[step] = Row(wall, mount, server, sum(map(memory, clients)))
        print(f"  {step:32}" + _cells(row), flush=True)

    def unpack(self, archive: Path, files: int) -> None:
        """Unpack so many files, and wait until they are on the grid."""
        with self.timed("unpack", files):
            subprocess.run(["tar", "xf", archive, "-C", self.place.path, "--no-same-owner"], check=True)
        with self.timed("on the grid", files):
            self.place.flush()

    def list_cold(self, top: Path, files: int) -> None:
        """List so many files as another machine would, and again."""
        self.place.cold()
        with self.timed("list with stat, cold", files):
            check(_listed(top) == files, "the listing of another machine")
        with self.timed("list with stat, again", files):
            check(_listed(top) == files, "the second listing")


def _cells(row: Row) -> str:
    return f"{row.wall:12,.0f}{row.mount:12,.0f}{row.server:12,.0f}{row.memory / (1 << 20):12,.0f}"


def tree(place: LafsfsPlace, archive: Path, files: int) -> dict[str, Row]:
    """All steps of one tree."""
    scale, top = Scale(place), place.path / "tree"
    scale.unpack(archive, files)
    with scale.timed("list with stat", files):
        check(_listed(top) == files, "the listing")
    scale.list_cold(top, files)
    with scale.timed("remove", files):
        subprocess.run(["rm", "-r", top], check=True)
    with scale.timed("removed on the grid", files):
        place.flush()
    return scale.rows


def large_directory(place: LafsfsPlace, archive: Path, entries: int) -> dict[str, Row]:
    """All steps of a tree that is one directory, and creating files in it and in an empty one."""
    scale, top = Scale(place), place.path / "tree"
    scale.unpack(archive, entries)
    scale.list_cold(top, entries)
    empty = place.path / "empty"
    empty.mkdir()
    place.flush()
    for name, directory in (("create in an empty one", empty), ("create in it", top / "d0")):
        with scale.timed(name, CREATED):
            for number in range(CREATED):
                write_file(directory / f"new {number}", b"x")
        with scale.timed(f"{name}, on the grid", CREATED):
            place.flush()
    with scale.timed("remove", entries):
        subprocess.run(["rm", "-r", top], check=True)
    with scale.timed("removed on the grid", entries):
        place.flush()
    return scale.rows


def _listed(top: Path) -> int:
    """Walks through a tree, a stat for each entry; how many files there are."""
    found, left = 0, [os.fspath(top)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)
                else:
                    found += entry.stat(follow_symlinks=False).st_size > 0
    return found


def write_archive(path: Path, files: int, in_a_directory: int, content: int) -> None:
    """A tar archive of `tree/`: files of so many bytes, all different."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in range(files):
            if number % in_a_directory == 0:
                folder = tarfile.TarInfo(f"tree/d{number // in_a_directory}")
                folder.type, folder.mode, folder.mtime = tarfile.DIRTYPE, 0o755, number
                tar.addfile(folder)
            member = tarfile.TarInfo(f"tree/d{number // in_a_directory}/file {number}")
            data = (b"%d " % number).ljust(content, b".")[: max(content, 1)]
            member.size, member.mode, member.mtime = len(data), 0o644, number
            tar.addfile(member, io.BytesIO(data))


def growth(small: dict[str, Row], large: dict[str, Row]) -> dict[str, tuple[float, float]]:
    """By step: wall time and the mount's CPU for a file of the larger tree, relative to the smaller."""
    return {
        step: (row.wall / small[step].wall, row.mount / small[step].mount)
        for step, row in large.items()
        if step in small and small[step].mount
    }


def measure(files: Sequence[int], entries: int, content: int) -> dict[str, dict[str, Row]]:
    """All trees, the smallest first."""
    found: dict[str, dict[str, Row]] = {}
    wanted = [(count, FILES_IN_A_DIRECTORY, tree) for count in sorted(files)]
    if entries:
        wanted.append((entries, entries, large_directory))
    for count, in_a_directory, work in wanted:
        name = f"{count:,} files, {in_a_directory:,} a directory"
        print(f"{name:34}" + "".join(f"{column:>12}" for column in _COLUMNS), flush=True)
        with tempfile.TemporaryDirectory(prefix="lafsfs-bench-") as directory, bundled() as place:
            archive = Path(directory) / "tree.tar"
            write_archive(archive, count, in_a_directory, content)
            found[name] = work(place, archive, count)
    return found


def main() -> int:
    """0; an exception when something was not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, nargs="*", default=[2_000, 20_000, 200_000])
    parser.add_argument("--entries", type=int, default=100_000, help="of the large directory; 0: none")
    parser.add_argument("--content", type=int, default=40, help="bytes of a file")
    parser.add_argument("--out", type=Path, help="directory for scale.json")
    options = parser.parse_args()
    found = measure(options.files, options.entries, options.content)
    trees = [found[name] for name in found][: len(options.files)]
    if len(trees) > 1:
        print("the largest tree relative to the smallest: wall, CPU of the mount")
        for step, (wall, mount) in growth(trees[0], trees[-1]).items():
            print(f"  {step:32}{wall:12.2f}{mount:12.2f}")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        rows = {name: {step: row._asdict() for step, row in steps.items()} for name, steps in found.items()}
        (options.out / "scale.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
