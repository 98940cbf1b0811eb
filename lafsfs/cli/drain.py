"""Waiting for a mount to publish what is pending, with a progress bar on a terminal."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lafsfs.daemon.client import MountClient


def drain(mount: MountClient, operation: str, timeout: float | None) -> None:
    """Runs "unmount" or "flush". Raises what the mount raises: PendingError with a list of what is left."""
    if not sys.stderr.isatty():
        mount.request(operation, timeout=timeout)
        return
    columns = (
        TextColumn("{task.fields[objects]}"),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        progress = _Bar(bar)
        mount.request(operation, progress=progress.show, timeout=timeout)


class _Bar:
    """Turns "so much is pending" into "so much of all is done"; what is added meanwhile adds to the whole."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("drain", total=None, objects="looking what is left")
        self._total = 0
        self._pending = 0

    def show(self, pending: dict[str, Any]) -> None:
        """Shows the latest numbers."""
        size = int(pending["bytes"])
        if size > self._pending:
            self._total += size - self._pending
        self._pending = size
        objects = f"{pending['files']} files, {pending['directories']} directories to go"
        self._bar.update(self._task, total=self._total or None, completed=self._total - size, objects=objects)
