"""Where the workloads run: mounted filesystems, each with its processes, and how to make it cold.

A place keeps nothing in memory that a mount or unmount changes: workloads run in child processes of the benchmark and
may remount. Its processes are found by their command lines, which name the mountpoint.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.processes import cpu_of

START_SECONDS = 60.0
IDLE_SECONDS = 90.0
GRID = "grid"
"""The group of workloads for which there must be servers."""

_TURN = 0.05


class Place:
    """A directory to work in."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path

    def suits(self, group: str) -> bool:
        """Whether this group of workloads makes sense here."""
        return group != GRID

    def clients(self) -> list[int]:
        """The processes that serve the mount."""
        return []

    def servers(self) -> list[int]:
        """The processes behind those."""
        return []

    def cold(self) -> bool:
        """Forget everything that was read; False where that is not possible."""
        return False

    def flush(self) -> bool:
        """Return when everything written is where it belongs in the end; False where that is nowhere else."""
        return False

    def rest(self) -> None:
        """Wait until its processes do nothing any more, so that they do not disturb the next place."""
        self.flush()
        end = time.monotonic() + IDLE_SECONDS
        while time.monotonic() < end:
            pids = self.clients() + self.servers()
            before = cpu_of(pids)
            time.sleep(0.5)
            if cpu_of(pids) - before < 0.02:
                return


class LocalDisk(Place):
    """An ordinary directory."""


def processes_naming(word: str) -> list[int]:
    """Processes with an argument that is `word`, or begins or ends with it; not this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(word) in arguments:
                    found.append(int(entry.name))
    return found


def is_mounted(path: Path) -> bool:
    """Whether something is mounted there."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ")[4] == str(path) for line in lines)


def wait_until_mounted(path: Path) -> None:
    """AssertionError if nothing is mounted there in time."""
    end = time.monotonic() + START_SECONDS
    while not is_mounted(path):
        assert time.monotonic() < end, f"nothing was mounted at {path}"
        time.sleep(_TURN)


def unmount(path: Path) -> None:
    """Unmount in order, or by force when that takes too long; its processes have ended on return."""
    pids = [pid for pid in processes_naming(str(path)) if Path(f"/proc/{pid}").exists()]
    done = subprocess.run(["fusermount3", "-u", path], capture_output=True, check=False)
    if done.returncode and is_mounted(path):
        subprocess.run(["fusermount3", "-uz", path], capture_output=True, check=False)
    end = time.monotonic() + START_SECONDS
    while any(_runs(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(_TURN)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Command(Place):
    """A filesystem that a command mounts and serves in the foreground, the mountpoint among its arguments."""

    def __init__(self, name: str, path: Path, command: Sequence[str], environment: dict[str, str]) -> None:
        super().__init__(name, path)
        self._command = [*command]
        self._environment = environment

    def start(self) -> None:
        """Mount it."""
        log = self.path.parent / f"{self.path.name}.log"
        with log.open("ab") as output:
            subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **self._environment},
            )
        wait_until_mounted(self.path)

    def clients(self) -> list[int]:
        return processes_naming(str(self.path))

    def cold(self) -> bool:
        unmount(self.path)
        self.start()
        return True


class MemoryPlace(Command):
    """The floor. Unmounting it would lose all."""

    def cold(self) -> bool:
        return False


@contextmanager
def mounted(place: Command) -> Iterator[Command]:
    """Mounted while the context lasts."""
    try:
        place.start()
        yield place
    finally:
        unmount(place.path)
