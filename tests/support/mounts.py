"""Real mounts for tests: a LAFSFS_HOME of its own, the bundled server, the lafsfs command, and a sure
clean-up.

    with lafsfs_home() as home:
        home.lafsfs("create")
        with home.mounted("home:") as tree:
            (tree.path / "a").write_text("b")

Everything lives under one temporary directory named after the test process. Leaving the context unmounts
what is mounted and ends every process that was started with that home, also after a failure; what a
killed test run left is cleaned by the next one (`clean_leftovers`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from lafsfs.cli.main import cli
from lafsfs.config import Paths
from lafsfs.daemon import client

_PREFIX = "lafsfs-test-"
_BASE = Path("/tmp")  # short, so that socket paths below it are short enough
COMMAND_TIMEOUT = 90.0


def wait_until(condition: Callable[[], Any], deadline: float = 30.0, what: str = "the condition") -> Any:
    """Polls until `condition()` is true and returns it. AssertionError after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come true within {deadline} s"
        time.sleep(0.02)
    return value


@dataclass
class MountedTree:
    """A mount that works. `home` made it."""

    home: LafsfsHome
    path: Path

    def status(self) -> dict[str, Any]:
        """What `lafsfs status --json` prints, without the time that its process takes to start."""
        with client.connect(Paths.discover(self.home.environment), self.path.resolve()) as mount:
            return mount.request("status")

    @property
    def pid(self) -> int:
        """The mount process."""
        return int(self.status()["pid"])

    def unmount(self) -> None:
        """`lafsfs unmount`: drains, must succeed."""
        self.home.run_here("unmount", str(self.path))

    def flush(self) -> None:
        """`lafsfs flush`, must succeed."""
        self.home.run_here("flush", str(self.path))

    def kill(self) -> None:
        """kill -9 of the mount process; leaves the dead mountpoint as it is."""
        kill_process(self.pid)


@dataclass
class LafsfsHome:
    """A LAFSFS_HOME below `directory`, with everything that tests do with it."""

    directory: Path
    extra_environment: Mapping[str, str] = field(default_factory=dict)
    grid: Mapping[str, Any] | None = None

    @property
    def path(self) -> Path:
        """LAFSFS_HOME."""
        return self.directory / "home"

    @property
    def environment(self) -> dict[str, str]:
        """What commands run with."""
        return {
            **os.environ,
            "LAFSFS_HOME": str(self.path),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            **self.extra_environment,
        }

    def command(self, *arguments: str) -> list[str]:
        """The command line of `lafsfs ARGUMENTS`."""
        return [sys.executable, "-m", "lafsfs.cli.main", *arguments]

    def lafsfs(
        self, *arguments: str, stdin: str = "", exit_code: int | None = 0, timeout: float = COMMAND_TIMEOUT
    ) -> subprocess.CompletedProcess[str]:
        """Runs `lafsfs ARGUMENTS` and checks its exit code (None: any)."""
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout,
            env=self.environment,
            check=False,
        )
        if exit_code is not None:
            assert done.returncode == exit_code, f"lafsfs {arguments[0]}: {done.returncode}\n{done.stderr}"
        return done

    def run_here(self, *arguments: str) -> str:
        """What `lafsfs ARGUMENTS` prints, run in this process: starting one takes longer than most commands.

        For commands that a test needs but is not about. They raise what the command would have complained of.
        """
        printed = io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            cli.main([*arguments], prog_name="lafsfs", standalone_mode=False)
        return printed.getvalue()

    def mountpoint(self, name: str = "mnt") -> Path:
        """An empty directory to mount on."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path

    def mount(self, what: str = "home:", *options: str, name: str = "mnt") -> MountedTree:
        """`lafsfs mount`; the caller unmounts, or leaves it to the clean-up."""
        path = self.mountpoint(name)
        self.lafsfs("mount", *options, what, str(path))
        return MountedTree(self, path)

    @contextlib.contextmanager
    def mounted(self, what: str = "home:", *options: str, name: str = "mnt") -> Iterator[MountedTree]:
        """Mounted while the context lasts, unmounted (drained) after it when it went well."""
        tree = self.mount(what, *options, name=name)
        yield tree
        tree.unmount()

    def create(self, alias: str = "home") -> str:
        """A new directory; its write cap."""
        return self.run_here("create", "--show-cap", alias).strip()

    def forget(self) -> None:
        """Nothing is left but the configuration and the bundled server's data, as on another machine."""
        for name in ("state", "cache"):
            _remove(self.path / name)

    def reset(self) -> None:
        """As if new, but for the bundled server, which goes on if it runs, and keeps its data."""
        _clean(self.directory, spare=b"storage_server")
        for path in self.directory.iterdir():
            if path.name not in ("home", "run"):
                _remove(path)
        for name in ("config", "state", "cache"):
            _remove(self.path / name)
        self.configure()

    def configure(self) -> None:
        """Name the servers of `grid`, if it is given."""
        if self.grid is not None:
            file = self.path / "config" / "grid.yaml"
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.write_text(json.dumps(self.grid))  # JSON is YAML
            file.chmod(0o600)


@contextlib.contextmanager
def lafsfs_home(
    extra_environment: Mapping[str, str] | None = None, grid: Mapping[str, Any] | None = None
) -> Iterator[LafsfsHome]:
    """A fresh home; everything of it is gone afterwards. `grid`: what a grid file says, else the bundled server."""
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_BASE))
    (directory / "run").mkdir(mode=0o700)
    try:
        made = LafsfsHome(directory, extra_environment or {}, grid)
        made.configure()
        yield made
    finally:
        _clean(directory)
        shutil.rmtree(directory, ignore_errors=True)


def clean_leftovers() -> None:
    """Removes what test runs that are gone left mounted or running."""
    for directory in _BASE.glob(f"{_PREFIX}*"):
        match = re.match(rf"{_PREFIX}(\d+)-", directory.name)
        if match is not None and not is_alive(int(match[1])):
            _clean(directory)
            shutil.rmtree(directory, ignore_errors=True)


def processes_of(directory: Path) -> list[int]:
    """The processes whose LAFSFS_HOME is below `directory`."""
    marker = b"LAFSFS_HOME=" + os.fsencode(directory) + b"/"
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if any(item.startswith(marker) for item in (entry / "environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
    return found


def mounts_below(directory: Path) -> list[str]:
    """The mountpoints below `directory`, the innermost first."""
    places = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return sorted((place for place in places if place.startswith(f"{directory}/")), key=len, reverse=True)


def _clean(directory: Path, spare: bytes = b"") -> None:
    """Unmounts all below `directory` and ends its processes, but those with `spare` in their command line."""

    def processes() -> list[int]:
        return [pid for pid in processes_of(directory) if not spare or spare not in _command_line(pid)]

    for place in mounts_below(directory):
        subprocess.run(["fusermount3", "-u", "-z", place], capture_output=True, timeout=30, check=False)
    for pid in processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in processes()), what="the end of all processes")


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_process(pid: int) -> None:
    """SIGKILL, and wait until the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        if pid:
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), what="the end of the mount process")
