"""Waiting for a mount to publish what is pending, with a progress bar on a terminal."""

from __future__ import annotations

import sys

from lafsfs.daemon.client import MountClient


def drain(mount: MountClient, operation: str, timeout: float | None) -> None:
    """Runs "unmount" or "flush". Raises what the mount raises: PendingError with a list of what is left."""
    if not sys.stderr.isatty():
        mount.request(operation, timeout=timeout)
        return
    # Imported late: what draws the bar takes as long to load as all the rest of the command.
    from lafsfs.cli.progress import progress_bar

    with progress_bar() as show:
        mount.request(operation, progress=show, timeout=timeout)
