"""One process per state directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lafsfs.daemon.instance import InstanceLock
from lafsfs.errors import BusyError

HOLD = """
import signal, sys, pathlib
from lafsfs.daemon.instance import InstanceLock
lock = InstanceLock(pathlib.Path(sys.argv[1]), pathlib.Path("/mnt/held"))
lock.acquire()
if sys.argv[2] == "leaving":
    lock.leave()
print("held", flush=True)
sys.stdin.read()
"""


def hold(directory: Path, how: str) -> subprocess.Popen[str]:
    """Another process that holds the lock until its stdin closes, or it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_refusal_names_the_holder(tmp_path: Path) -> None:
    with hold(tmp_path, "staying") as process:
        with pytest.raises(BusyError) as refusal:
            InstanceLock(tmp_path, Path("/mnt/other")).acquire()
        process.kill()
    assert "/mnt/held" in str(refusal.value)
    assert str(process.pid) in str(refusal.value)


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    with hold(tmp_path, "staying") as process:
        process.kill()
    lock = InstanceLock(tmp_path, Path("/mnt/other"))
    lock.acquire()
    lock.release()


def test_a_leaving_holder_is_asked_to_hurry(tmp_path: Path) -> None:
    with hold(tmp_path, "leaving") as process:
        lock = InstanceLock(tmp_path, Path("/mnt/other"))
        lock.acquire()
        assert process.wait(10) < 0
        lock.release()


def test_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        lock = InstanceLock(tmp_path, Path("/mnt/x"))
        lock.acquire()
        with pytest.raises(BusyError):
            InstanceLock(tmp_path, Path("/mnt/y")).acquire()
        lock.release()
