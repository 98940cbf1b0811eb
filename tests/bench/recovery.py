"""How long a mount takes to open a journal of many rows: `python -m tests.bench.recovery [--rows 100000]`.

A tree of small new files is left unpublished, and opened again three times. Prints seconds per opening; the rows must
be the same each time.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import trio

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap
from lafsfs.nodes.maker import NodeMaker
from tests.support.grids import client
from tests.support.storage import storage_servers
from tests.support.trees import Files, new_root, opened

ROWS_PER_FILE = 3  # the object, its name, its content
FILES_PER_DIRECTORY = 1000
ONE = Encoding(1, 1, 1)


async def fill(nodes: NodeMaker, root: DirCap, state: Path, files: int) -> None:
    """So many small files, none of them published."""
    async with opened(nodes, root, state) as fs:
        for number in range(files):
            directory = f"d{number // FILES_PER_DIRECTORY}"
            if number % FILES_PER_DIRECTORY == 0:
                await fs.mkdir(directory)
            await fs.write(f"{directory}/f{number}", b"%d" % number * 20)
            if number % FILES_PER_DIRECTORY == 0:
                fs.forget()


def rows_of(fs: Files) -> tuple[int, ...]:
    """How many rows of each kind the journal holds."""
    journal = fs.tree.journal
    count = sum(journal.has_content(ino) for ino, _ in journal.objects())
    return sum(1 for _ in journal.objects()), sum(1 for _ in journal.edges()), count


async def measure(rows: int, state: Path, server_directory: Path) -> None:
    """Make the journal, open it again and again."""
    with storage_servers(server_directory, 1) as servers:
        async with client(servers, ONE) as nodes:
            root = await new_root(nodes)
            began = time.monotonic()
            await fill(nodes, root, state, rows // ROWS_PER_FILE)
            print(f"made in {time.monotonic() - began:.1f} s", flush=True)
            seen: set[tuple[int, ...]] = set()
            for _ in range(3):
                began, used = time.monotonic(), time.process_time()
                async with opened(nodes, root, state) as fs:
                    took, cpu = time.monotonic() - began, time.process_time() - used
                    pending = fs.tree.status().pending_files
                    seen.add(rows_of(fs))
                    assert await fs.read("d0/f7") == b"7" * 20
                    assert not fs.tree.status().errors
                found = next(iter(seen))
                print(
                    f"opened {sum(found):,} rows, {pending:,} files pending: {took:.2f} s ({cpu:.2f} s of CPU)"
                )
            assert len(seen) == 1, "opening a journal must not change it"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{peak:.0f} MiB at most")


def main() -> int:
    """Exit code 0 when it could be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.recovery", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lafsfs-bench-") as directory:
        trio.run(measure, arguments.rows, Path(directory) / "state", Path(directory) / "server")
    return 0


if __name__ == "__main__":
    sys.exit(main())
