"""Rounds of load, crash, remount and check on one tree; now and then everything is drained and looked at afresh."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lafsfs.config import Encoding, GridProfile
from lafsfs.tree.crashpoints import POINTS
from tests.crash.load import Worker
from tests.crash.model import observed, settle
from tests.support.faulty_server import FAULTY, set_faults
from tests.support.grids import entry_of
from tests.support.mounts import LafsfsHome, MountedTree, is_alive, kill_process, lafsfs_home
from tests.support.power_cut import Recorder
from tests.support.small_disk import resize, small_disk
from tests.support.snapshots import differences, snapshot
from tests.support.storage import StorageServer

WORKERS = 2
DRAIN_EVERY = 8
DISK = 512  # megabytes, of the state directory
OPTIONS = "publish_delay=0.2,staging_wait=0.3"
# What happens in a round, and how often among so many.
KINDS = {"mount": 6, "point": 5, "server": 3, "both": 3, "stalled": 3, "errors": 3, "power": 3, "full": 2}
# What callers see when the mount process dies; EIO when it dies while it takes the request from the kernel.
_DEAD = {errno.ENOTCONN, errno.ECONNABORTED, errno.EIO}


class CrashError(AssertionError):
    """The tree is not what was promised."""


class Campaign:
    """Rounds, all chosen by `seed`. The counters tell what happened."""

    def __init__(self, seed: int, directory: Path, home: LafsfsHome, fresh: LafsfsHome) -> None:
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._random = random.Random(seed)
        self._home, self._fresh = home, fresh
        self._server = StorageServer.create(directory / "server")
        self._server.module = FAULTY
        self._recorder = Recorder.build(directory / "power", home.path / "state")
        self._workers = [Worker(f"{seed}/{number}") for number in range(WORKERS)]
        self._tree: MountedTree | None = None
        self._pid = 0
        self._where = home.mountpoint()
        self._accepted: set[int] = set()  # error numbers that this round's crash explains
        self._bag: list[str] = []

    # --- before and after --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """The server runs, both homes know it and the same directory, which is mounted."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._server.stop)
            self._server.start()
            if os.geteuid() == 0:
                stack.enter_context(small_disk(self._home.path / "state", DISK))
            profile = GridProfile((entry_of(self._server),), Encoding(1, 1, 1))
            for home in (self._home, self._fresh):
                (home.path / "config").mkdir(parents=True, mode=0o700)
                profile.save(home.path / "config" / "grid.yaml")
            self._home.create()
            shutil.copytree(self._home.path / "config", self._fresh.path / "config", dirs_exist_ok=True)
            self._mount()
            for number in range(WORKERS):
                os.mkdir(self._top(number))
            yield

    def finish(self) -> None:
        """Look once more, unmount."""
        self._look_afresh("at the end")
        assert self._tree is not None
        self._tree.unmount()
        self.counts["calls"] = sum(worker.done for worker in self._workers)

    def log(self) -> str:
        """The last lines of the mount's log."""
        logs = sorted((self._home.path / "state").rglob("mount.log"))
        return "\n".join(line for path in logs for line in path.read_text().splitlines()[-30:])

    # --- one round -------------------------------------------------------------------------------------

    def round(self, number: int, kind: str | None = None) -> str:
        """Load, crash, remount, check; what was done. CrashError."""
        kind = kind or self._next_kind()
        self._accepted = set()
        what: str = getattr(self, f"_round_{kind}")(self._random.uniform(0.05, 1.5))
        self.counts[kind] += 1
        self._check(f"round {number} ({what})")
        if number % DRAIN_EVERY == DRAIN_EVERY - 1:
            self._look_afresh(f"after round {number} ({what})")
        return what

    def _next_kind(self) -> str:
        """Kinds in random order, each as often as KINDS says."""
        if not self._bag:
            possible = dict(KINDS)
            if self._recorder is None:
                del possible["power"]
            if os.geteuid() != 0:
                del possible["full"]
            self._bag = [kind for kind, times in possible.items() for _ in range(times)]
            self._random.shuffle(self._bag)
        return self._bag.pop()

    def _round_mount(self, pause: float) -> str:
        self._start(pause)
        self._kill()
        self._remount()
        return "mount"

    def _round_server(self, pause: float) -> str:
        """The server dies, or stalls, and comes back; the mount lives, and its callers see nothing of it."""
        self._start(pause)
        stalls = self._random.random() < 0.5
        (self._server.pause if stalls else self._server.kill)()
        time.sleep(self._random.uniform(0.0, 1.0))
        (self._server.resume if stalls else self._server.start)()
        time.sleep(self._random.uniform(0.0, 0.5))
        self._stop()
        return "server stalls" if stalls else "server dies"

    def _round_both(self, pause: float) -> str:
        self._start(pause)
        first, second = self._random.sample([self._kill, self._server.kill], 2)
        first()
        time.sleep(self._random.uniform(0.0, 0.2))
        second()
        self._stop()
        self._server.start()
        self._remount()
        return "both"

    def _round_stalled(self, pause: float) -> str:
        """The server stalls, then the mount dies."""
        self._start(pause)
        self._server.pause()
        time.sleep(self._random.uniform(0.0, 0.5))
        self._kill()
        self._stop()
        self._server.resume()
        self._remount()
        return "stalled"

    def _round_errors(self, pause: float) -> str:
        """A share of the requests fails; in half of the rounds the mount dies meanwhile."""
        share = self._random.choice((0.05, 0.2, 0.5))
        set_faults(self._server, share)
        self._start(2 * pause)
        dies = self._random.random() < 0.5
        if dies:
            self._kill()
        self._stop()
        set_faults(self._server, share if dies else 0.0)
        if dies:
            self._remount()
            set_faults(self._server, 0.0)
        return f"errors, {share:.0%}{', mount dies' if dies else ''}"

    def _round_full(self, pause: float) -> str:
        """The disk of the state directory is full; publishing may or may not make room."""
        state = self._home.path / "state"
        stalls, dies = self._random.random() < 0.5, self._random.random() < 0.5
        used = shutil.disk_usage(state).used
        resize(state, (used >> 20) + self._random.randint(1, 3))
        self._accepted.add(errno.ENOSPC)
        if stalls:
            self._server.pause()
        self._start(2 * pause)
        if dies:
            self._kill()
        self._stop()
        if stalls:
            self._server.resume()
        if dies:
            self._remount()
        full = any(_errno(worker) == errno.ENOSPC for worker in self._workers)
        self.counts["disk was full"] += full
        resize(state, DISK)
        return f"full{', server stalls' if stalls else ''}{', mount dies' if dies else ''}"

    def _round_point(self, pause: float) -> str:
        """The mount ends itself at a named place, or is killed if it does not reach that in time."""
        point = f"{self._random.choice(sorted(POINTS))}:{self._random.choice((1, 1, 2, 5, 20))}"
        self._kill()
        died = not self._mount({"LAFSFS_CRASH_AT": point}, may_die=True)
        if not died:
            self._start(0.0)
            died = _ends_within(self._pid, pause)
            self._kill()
        self._remount()
        self.counts["died at a point"] += died
        return f"{point}, {'died there' if died else 'killed later'}"

    def _round_power(self, pause: float) -> str:
        """What was forced to the disk is there after a power failure, of the rest anything."""
        assert self._recorder is not None
        self._kill()
        self._recorder.begin()
        self._mount(self._recorder.environment)
        self._start(pause)
        self._stop()
        self._settle("before the power fails")
        self._sync_all()
        more = self._random.random() < 0.5
        if more:
            self._start(self._random.uniform(0.0, 0.5))
        self._kill()
        self._stop()
        self._recorder.cut(self._random)
        self._mount()
        if more:  # what was not synced may be there or not: take it as it is
            self._settle("after the power failed", adopt=True)
        return f"power fails {'under load' if more else 'after fsync'}"

    # --- steps of rounds -----------------------------------------------------------------------------------

    def _start(self, pause: float) -> None:
        for number, worker in enumerate(self._workers):
            worker.start(self._top(number))
        time.sleep(pause)

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _kill(self) -> None:
        kill_process(self._pid)
        self._accepted |= _DEAD

    def _remount(self) -> None:
        self._stop()
        self._mount()

    def _mount(self, environment: dict[str, str] | None = None, *, may_die: bool = False) -> bool:
        """Mount the tree; False if the process died, which it must not unless it `may_die`."""
        self._home.extra_environment = environment or {}
        done = self._home.lafsfs("mount", "-o", OPTIONS, "home:", str(self._where), exit_code=None)
        self._home.extra_environment = {}
        if done.returncode and not may_die:
            raise CrashError(f"seed {self._seed}: the tree cannot be mounted: {done.stderr}")
        self._tree = MountedTree(self._home, self._where)
        self._pid = 0
        if done.returncode == 0:
            status = self._home.lafsfs("status", "--json", str(self._where), exit_code=None)
            self._pid = int(status.stdout.partition('"pid": ')[2].partition(",")[0] or 0)
        return self._pid != 0

    def _top(self, number: int) -> Path:
        return self._where / f"w{number}"

    def _sync_all(self) -> None:
        """fsync of every file and directory."""
        for top, _, names in os.walk(self._where):
            for path in [top, *(os.path.join(top, name) for name in names)]:
                if not os.path.islink(path):
                    handle = os.open(path, os.O_RDONLY)
                    os.fsync(handle)
                    os.close(handle)

    # --- checks ----------------------------------------------------------------------------------------

    def _check(self, when: str) -> None:
        self._settle(when)

    def _settle(self, when: str, *, adopt: bool = False) -> None:
        """Every call that returned was done, the one under way in part at most. With `adopt`, whatever is there is
        taken on, provided that nothing is damaged.
        """
        assert self._tree is not None
        problems: list[str] = []
        for number, worker in enumerate(self._workers):
            if worker.failure is not None and worker.failure.errno not in self._accepted:
                text = worker.step.text if worker.step else "?"
                problems.append(f"w{number}: {text}: {worker.failure.strerror}")
            if adopt:
                worker.model = observed(self._top(number))
            else:
                worker.model, lines = settle(worker.model, worker.step, self._top(number))
                problems += [f"w{number}/{line}" for line in lines]
            worker.step, worker.failure = None, None
        errors = [line for line in self._tree.status()["errors"] if not line.startswith("offline:")]
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


def _errno(worker: Worker) -> int | None:
    return worker.failure.errno if worker.failure is not None else None


def _ends_within(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not is_alive(pid):
            return True
        time.sleep(0.01)
    return False


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory for servers and helpers, gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="lafsfs-crash-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run(
    seed: int,
    rounds: int,
    *,
    kinds: Sequence[str] = (),
    verbose: bool = False,
    go_on: Callable[[], bool] = lambda: True,
) -> Counter[str]:
    """A whole campaign. CrashError at the first thing that is wrong.

    `kinds`: of these only, in this order, as long as they last. `go_on` is asked before every round.
    """
    with temporary_directory() as directory, lafsfs_home() as home, lafsfs_home() as fresh:
        campaign = Campaign(seed, directory, home, fresh)
        with campaign.prepared():
            try:
                for number in range(rounds):
                    if not go_on():
                        break
                    began = time.monotonic()
                    what = campaign.round(number, kinds[number] if number < len(kinds) else None)
                    campaign.counts["rounds"] += 1
                    if verbose:
                        took = time.monotonic() - began
                        print(f"round {number}: {took:.1f} s, {what}", file=sys.stderr, flush=True)
                campaign.finish()
            except AssertionError:
                if verbose:
                    print(campaign.log(), file=sys.stderr)
                raise
    return campaign.counts
