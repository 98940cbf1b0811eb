"""Putting complete immutable shares in place: synced first, then visible."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from storage_server.apply import fsync_path, rename_into_place
from storage_server.layout import Layout

_THREADS: Final = 4
_log = logging.getLogger("storage_server.placing")


class Placer:
    """Syncs and renames share files in threads; concurrent syncs share the flushes of the file system."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._threads = ThreadPoolExecutor(_THREADS, "placing")
        self._durable_prefixes: set[str] = set()

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown()

    async def place(self, source: str, key: tuple[bytes, int]) -> None:
        """Move a complete container file into its bucket; durable on return."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._place, source, key)

    def _place(self, source: str, key: tuple[bytes, int]) -> None:
        target = self._layout.share(*key)
        bucket = os.path.dirname(target)
        prefix = os.path.dirname(bucket)
        fsync_path(source)
        rename_into_place(source, target)
        fsync_path(bucket)
        fsync_path(prefix)
        if prefix not in self._durable_prefixes:
            fsync_path(self._layout.shares)
            self._durable_prefixes.add(prefix)
        self._layout.prune_upload(source)

    def flush_early(self, path: str) -> None:
        """Begin syncing a file that is still being written, so that its last sync is short."""
        self._threads.submit(self._flush, path)

    def _flush(self, path: str) -> None:
        try:
            fsync_path(path)
        except OSError as error:  # placing it will meet the same trouble, and say so
            _log.debug("early sync: %s", error)
