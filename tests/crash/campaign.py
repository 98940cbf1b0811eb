"""Rounds of load, crash, remount and check on one tree; now and then everything is drained and looked at afresh."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from lafsfs.config import Encoding, GridProfile
from lafsfs.tree.crashpoints import POINTS
from tests.crash.load import Worker
from tests.crash.model import settle
from tests.support.grids import entry_of
from tests.support.mounts import LafsfsHome, MountedTree, lafsfs_home, wait_until
from tests.support.snapshots import differences, snapshot
from tests.support.storage import StorageServer, storage_servers

WORKERS = 2
DRAIN_EVERY = 8
VICTIMS = {"mount": 8, "point": 6, "server": 3, "both": 3, "stalled": 2}


class CrashError(AssertionError):
    """The tree is not what was promised."""


class Campaign:
    """`rounds` rounds, all chosen by `seed`. The counters tell what happened."""

    def __init__(self, seed: int, home: LafsfsHome, fresh: LafsfsHome, server: StorageServer) -> None:
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._random = random.Random(seed)
        self._home, self._fresh, self._server = home, fresh, server
        self._workers = [Worker(f"{seed}/{number}") for number in range(WORKERS)]
        self._tree: MountedTree | None = None
        self._where = home.mountpoint()

    # --- preparing -------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Both homes know the server and the same directory."""
        profile = GridProfile((entry_of(self._server),), Encoding(1, 1, 1))
        for home in (self._home, self._fresh):
            (home.path / "config").mkdir(parents=True, mode=0o700)
            profile.save(home.path / "config" / "grid.yaml")
        self._home.create()
        shutil.copytree(self._home.path / "config", self._fresh.path / "config", dirs_exist_ok=True)
        self._mount()
        for number in range(WORKERS):
            os.mkdir(self._top(number))

    def _top(self, number: int) -> Path:
        return self._where / f"w{number}"

    def _mount(self, crash_at: str = "") -> bool:
        """Mount the tree; False if it died of the crash point that it was told of."""
        self._home.extra_environment = {"LAFSFS_CRASH_AT": crash_at} if crash_at else {}
        done = self._home.lafsfs(
            "mount", "-o", "publish_delay=0.2", "home:", str(self._where), exit_code=None
        )
        self._home.extra_environment = {}
        if done.returncode:
            if not crash_at:
                raise CrashError(f"the tree cannot be mounted: {done.stderr}")
            return False
        self._tree = MountedTree(self._home, self._where)
        return True

    # --- one round -------------------------------------------------------------------------------------

    def round(self, number: int) -> None:
        """Load, crash, remount, check. CrashError."""
        (victim,) = self._random.choices(list(VICTIMS), list(VICTIMS.values()))
        self.counts[victim] += 1
        pause = self._random.uniform(0.05, 1.5)
        if victim == "point":
            point = f"{self._random.choice(sorted(POINTS))}:{self._random.choice((1, 1, 2, 5, 20))}"
            died = self._crash_at(point, pause)
            self.counts["died at a point"] += died
            victim = f"{point}, {'died there' if died else 'killed later'}"
        else:
            self._start()
            time.sleep(pause)
            getattr(self, f"_crash_{victim}")()
        self._check(f"round {number} ({victim})")
        if number % DRAIN_EVERY == DRAIN_EVERY - 1:
            self._look_afresh(f"after round {number}")

    def _start(self) -> None:
        for number, worker in enumerate(self._workers):
            worker.start(self._top(number))

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _crash_mount(self) -> None:
        assert self._tree is not None
        self._kill(self._tree.pid)
        self._stop()
        self._mount()

    def _crash_server(self) -> None:
        self._server.kill()
        time.sleep(self._random.uniform(0.0, 0.5))
        self._server.start()
        time.sleep(self._random.uniform(0.0, 0.5))
        self._stop()

    def _crash_both(self) -> None:
        assert self._tree is not None
        pid = self._tree.pid
        first, second = self._random.sample([lambda: self._kill(pid), self._server.kill], 2)
        first()
        time.sleep(self._random.uniform(0.0, 0.2))
        second()
        self._stop()
        self._server.start()
        self._mount()

    def _crash_stalled(self) -> None:
        """The server stalls, then the mount dies."""
        assert self._tree is not None
        pid = self._tree.pid
        self._server.pause()
        time.sleep(self._random.uniform(0.0, 0.5))
        self._kill(pid)
        self._stop()
        self._server.resume()
        self._mount()

    def _crash_at(self, point: str, pause: float) -> bool:
        """Mount so that the process ends itself at a named place; kill it if it does not in time."""
        assert self._tree is not None
        self._kill(self._tree.pid)
        died = not self._mount(point)
        if not died:
            pid = self._pid()
            if pid:
                self._start()
                died = _ends_within(pid, pause)
                self._kill(pid)
                self._stop()
            died = died or not pid
        self._mount()
        return died

    def _pid(self) -> int:
        """The mount process, 0 if it is gone already."""
        assert self._tree is not None
        done = self._home.lafsfs("status", "--json", str(self._tree.path), exit_code=None)
        if done.returncode:
            return 0
        return int(done.stdout.partition('"pid": ')[2].partition(",")[0])

    def _kill(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _is_gone(pid), what="the end of the mount process")

    # --- checks ----------------------------------------------------------------------------------------

    def _check(self, when: str) -> None:
        assert self._tree is not None
        problems = []
        for number, worker in enumerate(self._workers):
            if worker.trouble:
                problems.append(f"w{number}: {worker.trouble}")
            worker.model, lines = settle(worker.model, worker.step, self._top(number))
            problems += [f"w{number}/{line}" for line in lines]
            worker.step = None
        errors = self._tree.status()["errors"]
        if problems or errors:
            raise CrashError("\n".join([f"seed {self._seed}, {when}:", *problems, *errors]))

    def _look_afresh(self, when: str) -> None:
        """Drain; a mount that knows nothing but the cap must show the same tree."""
        assert self._tree is not None
        self._home.lafsfs("flush", "--timeout", "80", str(self._tree.path))
        status = self._tree.status()
        if status["conflicts"] or any(status["pending"].values()):
            raise CrashError(f"seed {self._seed}, {when}: {status['conflicts']} {status['pending']}")
        ours = snapshot(self._tree.path)
        with self._fresh.mounted("home:", "-o", "ro") as other:
            theirs = snapshot(other.path)
        for name in ("state", "cache"):
            shutil.rmtree(self._fresh.path / name)
        lines = differences(ours, theirs)
        if lines:
            raise CrashError("\n".join([f"seed {self._seed}, {when}, a fresh mount differs:", *lines[:20]]))
        self.counts["fresh mounts"] += 1
        self.counts["objects compared"] += len(ours)

    def finish(self) -> None:
        """Look once more, unmount."""
        self._look_afresh("at the end")
        assert self._tree is not None
        self._tree.unmount()
        self.counts["calls"] = sum(worker.done for worker in self._workers)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _ends_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if _is_gone(pid):
            return True
        time.sleep(0.01)
    return False


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="lafsfs-crash-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(seed: int, rounds: int, *, verbose: bool = False) -> Counter[str]:
    """A whole campaign. CrashError at the first thing that is wrong."""
    with (
        _directory() as directory,
        storage_servers(directory, 1) as servers,
        lafsfs_home() as home,
        lafsfs_home() as fresh,
    ):
        campaign = Campaign(seed, home, fresh, servers[0])
        campaign.prepare()
        for number in range(rounds):
            began = time.monotonic()
            campaign.round(number)
            if verbose:
                print(f"round {number}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
        campaign.finish()
        return campaign.counts
