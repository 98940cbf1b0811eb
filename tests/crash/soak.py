"""A long mixed load on one mount while its server stops and starts: `make soak MINUTES=60`.

At the end everything is drained, a fresh mount shows the same tree, every call is accounted for, and the mount process
has no more memory and descriptors than in the first part of the run.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tests.crash.campaign import Campaign, CrashError, temporary_directory
from tests.support.faulty_server import set_faults
from tests.support.mounts import clean_leftovers, lafsfs_home

EVERY = 5.0  # seconds between two looks at the process
MORE_MEMORY = 1.25  # of the first part's, and
MORE_BYTES = 32 << 20  # so much beside
MORE_DESCRIPTORS = 16


class Sample(NamedTuple):
    """The mount process at one moment. `memory` is its resident set in bytes."""

    when: float
    memory: int
    descriptors: int
    threads: int


def look(pid: int, began: float) -> Sample:
    """What the process uses now."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    return Sample(
        time.monotonic() - began,
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(process / "fd")),
        len(os.listdir(process / "task")),
    )


class Reader:
    """Walks the tree and reads files, over and over. What moves meanwhile may be missing; anything else is trouble."""

    def __init__(self, top: Path) -> None:
        self.bytes = 0
        self.trouble = ""
        self._top = top
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; AssertionError if a call does not return."""
        self._stop.set()
        self._thread.join(120)
        assert not self._thread.is_alive(), "a reader hangs"

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            for directory, _, names in os.walk(self._top):
                for name in names:
                    if self._stop.is_set():
                        return
                    self._read(Path(directory) / name)

    def _read(self, path: Path) -> None:
        try:
            if not path.is_symlink():
                self.bytes += len(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, TimeoutError):
            pass  # moved away meanwhile; or what only the grid has while it is away
        except OSError as problem:
            self.trouble = self.trouble or f"reading: {problem.strerror}"


class Soak(Campaign):
    """One mount, never killed."""

    def soak(self, minutes: float) -> list[Sample]:
        """Load for so long; what was measured. CrashError."""
        began = time.monotonic()
        end = began + minutes * 60
        samples: list[Sample] = []
        reader = Reader(self._where)
        self._start(0.0)
        while time.monotonic() < end:
            self._disturb(samples, began)
            if any(worker.failure for worker in self._workers) or reader.trouble:
                break
        self._stop()
        reader.stop()
        if reader.trouble:
            raise CrashError(reader.trouble)
        self._check("after the load")
        self.counts["bytes read"] = reader.bytes
        return samples

    def _disturb(self, samples: list[Sample], began: float) -> None:
        """Some time with the server, some without, or with one that stalls or fails."""
        self._wait(self._random.uniform(5, 20), samples, began)
        how = self._random.choice(("dies", "stalls", "fails"))
        self.counts[f"server {how}"] += 1
        if how == "dies":
            self._server.kill()
        elif how == "stalls":
            self._server.pause()
        else:
            set_faults(self._server, 0.3)
        self._wait(self._random.uniform(2, 15), samples, began)
        if how == "dies":
            self._server.start()
        elif how == "stalls":
            self._server.resume()
        else:
            set_faults(self._server, 0.0)

    def _wait(self, seconds: float, samples: list[Sample], began: float) -> None:
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            time.sleep(min(EVERY, rest))
            samples.append(look(self._pid, began))
            print("{:6.0f} s  {:5d} MiB  {} descriptors  {} threads".format(*_shown(samples[-1])), flush=True)


def _shown(sample: Sample) -> tuple[float, int, int, int]:
    return sample.when, sample.memory >> 20, sample.descriptors, sample.threads


def flat(samples: list[Sample]) -> list[str]:
    """What grew: the last fourth of the run held against the second one (the first fills caches)."""
    fourth = len(samples) // 4
    if fourth < 3:
        return []
    before, after = samples[fourth : 2 * fourth], samples[-fourth:]
    lines = []
    old, new = (statistics.median(sample.memory for sample in part) for part in (before, after))
    if new > old * MORE_MEMORY + MORE_BYTES:
        lines.append(f"memory grew from {old / 2**20:.0f} to {new / 2**20:.0f} MiB")
    old, new = (statistics.median(sample.descriptors for sample in part) for part in (before, after))
    if new > old + MORE_DESCRIPTORS:
        lines.append(f"descriptors grew from {old:.0f} to {new:.0f}")
    return lines


def main() -> int:
    """Exit code 1 when something is lost, differs or grows."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    clean_leftovers()
    print(f"seed {arguments.seed}", flush=True)
    try:
        with temporary_directory() as directory, lafsfs_home() as home, lafsfs_home() as fresh:
            soak = Soak(arguments.seed, directory, home, fresh)
            with soak.prepared():
                samples = soak.soak(arguments.minutes)
                left = shutil.disk_usage(home.path / "state").used
                soak.finish()
            problems = flat(samples)
    except CrashError as error:
        print(error, file=sys.stderr)
        return 1
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(soak.counts.items())))
    print(f"local state before the drain: {left >> 20} MiB")
    print("\n".join(problems) or "memory and descriptors are flat")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
