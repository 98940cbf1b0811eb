"""The bundled storage server on loopback: the grid when no other is configured (design: one server, 1-of-1).

It is a process of its own that outlives mounts and commands. Whoever starts it hands it an open, locked file:
the kernel keeps the lock as long as the process lives, so "is it running" has no stale answer.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lafsfs.config import Encoding, GridProfile, Paths, ServerEntry
from lafsfs.config.files import locked, make_private_directory, write_private
from lafsfs.errors import BusyError, ConfigError, FormatError, ServerTimeoutError, ServerUnreachableError
from lafsfs.formats import base32
from lafsfs.gbs.nurl import Furl, Nurl

ENCODING: Final = Encoding(1, 1, 1)
NICKNAME: Final = "local"
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
_POLL: Final = 0.05


@dataclass(frozen=True)
class LocalStatus:
    """The bundled server: its directory, whether it was ever made, and the pid if it runs."""

    directory: Path
    created: bool
    pid: int | None


def own_grid(paths: Paths) -> GridProfile:
    """The configured grid, or the bundled server alone, 1-of-1. The bundled server is started if it is part.

    Blocks for as long as a start takes. ConfigError, ServerUnreachableError, ServerTimeoutError.
    """
    if paths.grid_file.exists():
        profile = GridProfile.load(paths.grid_file)
        if profile.servers:
            local = describe(paths) if _directory(paths).exists() else None
            if local and any(entry.server_id == local.server_id for entry in profile.servers):
                ensure_running(paths)
            return profile
    return GridProfile((ensure_running(paths),), ENCODING)


def ensure_running(paths: Paths) -> ServerEntry:
    """Make the bundled server if there is none, start it if it does not run, return when it answers.

    Several processes may call this at once. Blocks.
    """
    make_private_directory(paths.data)
    with locked(paths.data / ".start.lock"):
        if not _directory(paths).exists():
            _create(paths)
        entry = describe(paths)
        with _running_file(paths) as number:
            if _lock(number):
                _start(paths, number)
        return entry


def describe(paths: Paths) -> ServerEntry:
    """The bundled server's entry. ConfigError if it was never made."""
    directory = _directory(paths)
    if not directory.exists():
        raise ConfigError("there is no bundled server yet; `lafsfs grid server start` makes one")
    try:
        facts: dict[str, Any] = json.loads(_description(paths))
        return ServerEntry(
            str(facts["server_id"]),
            (Nurl.parse(facts["nurl"]),),
            Furl.parse(facts["furl"]),
            base32.decode(facts["permutation_seed"]),
            NICKNAME,
        )
    except (ValueError, KeyError, FormatError) as error:
        raise ConfigError(f"the bundled server in {directory} does not describe itself") from error


def _description(paths: Paths) -> str:
    """What `lafs-storage info` says, remembered until its settings change: asking takes a process."""
    directory = _directory(paths)
    memory = paths.data / ".description.json"
    with contextlib.suppress(OSError):
        if memory.stat().st_mtime_ns > (directory / "server.toml").stat().st_mtime_ns:
            return memory.read_text("utf-8")
    text = _server_command("info", str(directory), "--json")
    write_private(memory, text.encode("utf-8"))
    return text


def status(paths: Paths) -> LocalStatus:
    """What is known without starting anything. Waits for a start or stop that is under way."""
    directory = _directory(paths)
    if not directory.exists():
        return LocalStatus(directory, created=False, pid=None)
    with locked(paths.data / ".start.lock"), _running_file(paths) as number:
        return LocalStatus(directory, created=True, pid=None if _lock(number) else _pid(number))


def stop(paths: Paths) -> bool:
    """Stop the bundled server and wait until it has ended. False if it did not run. BusyError if it stays."""
    if not _directory(paths).exists():
        return False
    with locked(paths.data / ".start.lock"), _running_file(paths) as number:
        if _lock(number):
            return False
        pid = _pid(number)
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            # The lock says that the process lives, so that the pid is still its own.
            if pid is not None:
                os.kill(pid, signal_number)
            deadline = time.monotonic() + _STOP_SECONDS
            while time.monotonic() < deadline:
                if _lock(number):
                    return True
                time.sleep(_POLL)
    raise BusyError("the bundled server does not end")


def _directory(paths: Paths) -> Path:
    return paths.data / "server"


def _server_command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "storage_server", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_START_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ConfigError(f"the bundled server: {_last_line(done.stderr)}")
    return done.stdout


def _create(paths: Paths) -> None:
    """Make the server beside its place and move it there, so that it is there whole or not at all."""
    scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=paths.data))
    try:
        _server_command("create", str(scratch / "server"), "--listen", "127.0.0.1:0")
        (scratch / "server").rename(_directory(paths))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _running_file(paths: Paths) -> Iterator[int]:
    """The file that the running server holds locked, open. It holds the pid."""
    number = os.open(paths.data / ".running", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield number
    finally:
        os.close(number)


def _lock(number: int) -> bool:
    """Lock the running file; False if a server holds it. To be called under the start lock."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid(number: int) -> int | None:
    text = os.pread(number, 20, 0).strip()
    return int(text) if text.isdigit() else None


def _start(paths: Paths, running: int) -> None:
    """Start the server, which inherits the locked file `running`, and wait until it answers requests."""
    log_path = paths.data / "server.log"
    reader, writer = os.pipe()
    with open(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as log_file:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "storage_server",
                "run",
                str(_directory(paths)),
                "--ready-fd",
                str(writer),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            pass_fds=(running, writer),
            start_new_session=True,
            cwd="/",
        )
    os.close(writer)
    os.ftruncate(running, 0)
    os.pwrite(running, b"%d\n" % process.pid, 0)
    try:
        ready = bool(select.select([reader], [], [], _START_SECONDS)[0])
        if not ready:
            raise ServerTimeoutError(f"the bundled server did not start in time; see {log_path}")
        if not os.read(reader, 16):
            process.wait(_STOP_SECONDS)
            reason = _last_line(log_path.read_text("utf-8", "replace"))
            raise ServerUnreachableError(f"the bundled server did not start: {reason}")
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        os.close(reader)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given"
