"""A progress bar on the terminal while a mount publishes what is pending."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def progress_bar() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on stderr while the context lasts; call what it gives with how much is pending."""
    columns = (
        TextColumn("{task.fields[objects]}"),
        BarColumn(bar_width=24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar).show


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
