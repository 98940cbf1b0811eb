"""A disk that is full soon: a tmpfs of a few megabytes, for tests that run as root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")


def resize(place: Path, megabytes: int) -> None:
    """Give the disk another size."""
    subprocess.run(["mount", "-o", f"remount,size={megabytes}m", place], check=True, timeout=30)


@contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[Path]:
    """`place`, a disk of its own while the block lasts; whoever uses it then keeps it until he lets go."""
    place.mkdir(parents=True, exist_ok=True)
    options = f"size={megabytes}m,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "lafsfs-test", place], check=True, timeout=30)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True, timeout=30)
