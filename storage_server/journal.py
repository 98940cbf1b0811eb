"""The journal of the store: acknowledged changes survive kill -9 and power loss, all or nothing.

`commit` logs a list of changes, syncs the log, then makes the changes. Commits that arrive while a sync is
under way share the next one. Two segments alternate: when the active one is large or old enough, the other
takes over, the file system is synced, and the full one is reset. `Journal.open` makes the changes of both
segments again, oldest first (they are idempotent), so it ends where the acknowledged commits had ended.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from lafsfs.errors import JournalError, LafsError
from storage_server import changes as codec
from storage_server.apply import apply, fsync_path
from storage_server.changes import Change
from storage_server.errors import DiskFullError, UnsettledError
from storage_server.layout import Layout
from storage_server.segment import Segment

_SEGMENT_BYTES: Final = 32 << 20
_CHECKPOINT_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 2.0
_MARGIN: Final = 1 << 20
_log = logging.getLogger("storage_server.journal")
_libc = ctypes.CDLL(None, use_errno=True)

Key = tuple[bytes, int]


def sync_file_system(path: str) -> None:
    """syncfs: everything written to the file system of `path` before the call is durable on return."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


class Journal:
    """The journal of one storage directory. One event loop uses it; blocking work is in its own threads."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._writer = ThreadPoolExecutor(1, "journal")
        self._syncer = ThreadPoolExecutor(1, "checkpoint")
        # The first one is written to, the other is empty or waits for its checkpoint.
        self._segments: list[Segment] = []
        self._logged: list[set[Key]] = [set(), set()]
        self._waiting: list[tuple[Sequence[Change], asyncio.Future[None]]] = []
        self._arrived = asyncio.Event()
        self._due = asyncio.Event()
        self._hurry = asyncio.Event()
        self._checkpoint_waiters: list[asyncio.Future[None]] = []
        self._writing = asyncio.Lock()
        self._unapplied: list[Sequence[Change]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    # --- life --------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the logged changes again, sync, and accept commits. OSError or FormatError: do not serve."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._recover)
        self._tasks = [asyncio.create_task(self._write_loop()), asyncio.create_task(self._checkpoint_loop())]

    def _recover(self) -> None:
        self._segments = [Segment(f"{self._layout.journal}/{name}") for name in ("a", "b")]
        self._segments.sort(key=lambda segment: segment.generation)
        redone = 0
        for segment in self._segments:
            for payload in segment.records():
                apply(self._layout, list(codec.decode(payload)))
                redone += 1
        if redone:
            _log.warning("journal: %d commits made again", redone)
        self._forget_all()
        fsync_path(self._layout.journal)

    def _forget_all(self) -> None:
        """Sync what the segments say, then empty them; the first one stays the older."""
        sync_file_system(str(self._layout.root))
        newest = max(segment.generation for segment in self._segments)
        for number, segment in enumerate(self._segments):
            segment.reset(newest + 1 + number, _SEGMENT_BYTES)

    async def close(self) -> None:
        """Finish what was committed, put everything in place durably, and stop."""
        self._closing = True
        self._arrived.set()
        if self._tasks:
            await self._tasks[0]
            self._tasks[1].cancel()
            await asyncio.gather(self._tasks[1], return_exceptions=True)
        for executor in (self._writer, self._syncer):
            executor.shutdown()
        if self._tasks and not self._unapplied:
            self._forget_all()
        for segment in self._segments:
            segment.close()

    # --- commits -----------------------------------------------------------------------------------

    @property
    def stuck(self) -> bool:
        """Whether logged changes wait for a disk that does not take them: files may be half changed."""
        return bool(self._unapplied)

    def holds(self, key: Key) -> bool:
        """Whether the log still has changes of this share, so that a replay would touch its file."""
        return key in self._logged[0] or key in self._logged[1]

    async def commit(self, changes: Sequence[Change]) -> None:
        """Make the changes, atomically and durably: both hold on return.

        DiskFullError: nothing was changed. UnsettledError: nothing more is accepted for now; what was
        logged is certain to come.
        """
        if self._unapplied:
            raise UnsettledError("the disk does not take earlier changes")
        if self._closing:
            raise JournalError("the journal is closed")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((changes, done))
        self._arrived.set()
        await asyncio.shield(done)

    async def _write_loop(self) -> None:
        while not (self._closing and not self._waiting):
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._waiting = self._waiting, []
            if not batch:
                continue
            async with self._writing:
                await self._write_batch(batch)
                await self._settle()
            self._due.set()
            if self._segments[0].size >= _SEGMENT_BYTES:
                self._hurry.set()

    async def _write_batch(self, batch: list[tuple[Sequence[Change], asyncio.Future[None]]]) -> None:
        changes = [entry[0] for entry in batch]
        self._logged[0].update((c.storage_index, c.shnum) for group in changes for c in group)
        loop = asyncio.get_running_loop()
        outcomes = await loop.run_in_executor(self._writer, self._log_and_apply, changes)
        for (_, done), outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                done.set_result(None)
            else:
                done.set_exception(outcome)
                done.exception()  # the request may have gone away; then nobody else would ask

    def _log_and_apply(self, batch: Sequence[Sequence[Change]]) -> list[LafsError | None]:
        """What became of each commit: None, or what to tell the one who asked for it."""
        if self._unapplied:
            return [UnsettledError("the disk does not take earlier changes")] * len(batch)
        pieces = [codec.encode(changes) for changes in batch]
        try:
            self._ensure_space(sum(len(piece) for record in pieces for piece in record))
            self._segments[0].append(pieces)
        except OSError as error:
            if len(batch) > 1:  # a smaller part of it may fit
                return [outcome for changes in batch for outcome in self._log_and_apply([changes])]
            _log.error("journal: cannot log a change: %s", error)
            return [DiskFullError("the disk does not take the change")]
        try:
            for changes in batch:
                apply(self._layout, changes)
        except OSError as error:
            _log.error("journal: cannot make logged changes: %s", error)
            self._unapplied = list(batch)
            return [UnsettledError("the disk does not take the change")] * len(batch)
        return [None] * len(batch)

    def _ensure_space(self, size: int) -> None:
        # Once logged, a change must also fit where it belongs.
        space = os.statvfs(self._layout.root)
        if space.f_bavail * space.f_frsize < 2 * size + _MARGIN:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def _settle(self) -> None:
        """Make logged changes that failed, again and again; after a restart `open` goes on with it."""
        loop = asyncio.get_running_loop()
        while self._unapplied and not self._closing:
            waiting, self._waiting = self._waiting, []
            for _, done in waiting:
                done.set_exception(UnsettledError("the disk does not take earlier changes"))
                done.exception()
            await asyncio.sleep(_RETRY_SECONDS)
            try:
                for changes in self._unapplied:
                    await loop.run_in_executor(self._writer, apply, self._layout, changes)
                self._unapplied = []
            except OSError as error:
                _log.error("journal: still cannot make logged changes: %s", error)

    # --- checkpoints -------------------------------------------------------------------------------

    async def checkpoint(self) -> None:
        """Everything committed so far is in place durably and out of the log on return. OSError if not."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._checkpoint_waiters.append(done)
        self._due.set()
        self._hurry.set()
        await done

    async def _checkpoint_loop(self) -> None:
        while True:
            await self._due.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _CHECKPOINT_SECONDS)
            self._due.clear()
            self._hurry.clear()
            waiters, self._checkpoint_waiters = self._checkpoint_waiters, []
            failure = await self._checkpoint()
            for done in waiters:
                if done.cancelled():
                    continue
                if failure is None:
                    done.set_result(None)
                else:
                    done.set_exception(failure)

    async def _checkpoint(self) -> OSError | None:
        try:
            if self._logged[1]:  # the last checkpoint failed: it comes first
                await self._retire_spare()
            async with self._writing:
                self._segments.reverse()
                self._logged.reverse()
            await self._retire_spare()
        except OSError as error:
            _log.error("journal: checkpoint failed: %s", error)
            self._due.set()
            return error
        return None

    async def _retire_spare(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._syncer, self._retire)
        self._logged[1].clear()

    def _retire(self) -> None:
        sync_file_system(str(self._layout.root))
        self._segments[1].reset(self._segments[0].generation + 1, _SEGMENT_BYTES)
