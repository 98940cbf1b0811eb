"""One process per state directory.

The lock is `flock` on a file in the directory, so the kernel drops it with its holder, however that
ended: a stale lock does not exist. The file's content names the holder for whoever is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from lafsfs.errors import BusyError

LOCK_NAME = "lock"
_POLL = 0.05


@dataclass(frozen=True)
class Holder:
    """Who holds a state directory. `leaving`: its tree is unmounted already and it only finishes
    publishing.
    """

    pid: int
    mountpoint: str
    leaving: bool = False


class InstanceLock:
    """The exclusive right to a state directory.

    A holder that is leaving is asked to hurry (SIGTERM) and waited for, `patience` seconds at most. Raises
    BusyError that names the holder.
    """

    def __init__(self, state_dir: Path, mountpoint: Path, patience: float = 30.0) -> None:
        self._path = state_dir / LOCK_NAME
        self._mountpoint = str(mountpoint)
        self._patience = patience
        self._descriptor = -1

    def acquire(self) -> None:
        """Takes the lock, at once or when a leaving holder is gone. Blocks. BusyError."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait_for_lock()
            self._write(leaving=False)
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Gives the lock back."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def leave(self) -> None:
        """From now on whoever wants the directory may ask us to hurry."""
        self._write(leaving=True)

    def _wait_for_lock(self) -> None:
        deadline = time.monotonic() + self._patience
        asked: int | None = None
        while not self._try():
            holder = read_holder(self._path)
            if holder is None or not holder.leaving or time.monotonic() > deadline:
                raise BusyError(_refusal(holder))
            if asked != holder.pid:
                asked = holder.pid
                _hurry(holder.pid)
            time.sleep(_POLL)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _write(self, *, leaving: bool) -> None:
        text = json.dumps({"pid": os.getpid(), "mountpoint": self._mountpoint, "leaving": leaving})
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)


def read_holder(path: Path) -> Holder | None:
    """What the lock file says; None when it says nothing usable (its writer may be at it just now)."""
    try:
        raw = json.loads(path.read_bytes())
        return Holder(int(raw["pid"]), str(raw["mountpoint"]), bool(raw["leaving"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refusal(holder: Holder | None) -> str:
    if holder is None:
        return "this directory is already in use by another lafsfs process"
    return f"this directory is already mounted at {holder.mountpoint} by process {holder.pid}"


def _hurry(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise BusyError(f"process {pid}, of another user, still holds this directory") from error
