"""When what is written locally gets to the disk, and in which order (contrib/doc/concurrency.md).

1. staged logs, 2. a journal transaction that says how far they are synced, 3. the journal's own log, 4. the mark that
tells how long that must at least be, 5. deletion of logs that no row names, and of old parts of the journal.
Whatever instant the power fails at, what the journal on the disk names is on the disk as well, up to what was written
since the sync before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import trio

from lafsfs.errors import LafsError
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.disk import Disk
from lafsfs.tree.inodes import Inode, Staged
from lafsfs.tree.journal import Batch, Journal
from lafsfs.tree.staging import StagedFile, StagingArea

log = logging.getLogger(__name__)

EVERY = 0.4  # seconds between two syncs; with their own time it must stay within the second that is promised
_AFTER_FAILURE = 2.0
_TIDY_STEPS = 64  # between two syncs
LOG_KEY = "log:"


class Syncer:
    """Syncs the local state of one tree. Several callers at once share a sync."""

    def __init__(self, journal: Journal, staging: StagingArea) -> None:
        self._journal = journal
        self._staging = staging
        self._disk = Disk()
        self._lock = trio.Lock()
        self._begun = 0
        self._ended = 0
        self._wake = trio.Event()
        self._gone: list[str] = []  # logs that were deleted, whose length is not of interest any more
        self.failure = ""  # why the last sync failed
        journal.on_commit = self.wake

    def wake(self) -> None:
        """Something is to be synced."""
        self._wake.set()

    async def sync(self, *logs: StagedFile) -> None:
        """What was committed, and all bytes of `logs`, are on the disk on return. OSError, JournalError."""
        await self._sync_logs(logs)
        if self._disk_has_journal(logs):
            self.wake()  # how far the logs are synced may be written down a little later
            return
        await self._sync_all_rows()

    def _disk_has_journal(self, logs: Sequence[StagedFile]) -> bool:
        """Whether nothing was committed since the last sync, and nothing is to be: as when a database writes again and
        again to one file.
        """
        if self._journal.dirty or self._gone or self._begun != self._ended:
            return False
        return bool(logs) and all(staged.heir_of is None for staged in logs)

    async def _sync_all_rows(self) -> None:
        wanted = self._begun + 1
        async with self._lock:
            if self._ended >= wanted:
                return
            self._begun += 1
            begun = self._begun
            with trio.CancelScope(shield=True):
                await self._sync_journal()
            self._ended = begun

    async def sync_content(self, inode: Inode) -> None:
        """The bytes of a file that is in a log are on the disk on return; nothing else is. OSError."""
        if isinstance(inode.content, Staged) and inode.content.file.length > inode.content.file.synced:
            await self._sync_logs([inode.content.file])

    async def sync_all(self) -> None:
        """Everything acknowledged is on the disk on return. OSError, JournalError."""
        await self._sync_logs(list(self._staging.unsynced))
        await self._sync_all_rows()

    async def run(self) -> None:
        """Keep the promise "on the disk within a second"; until cancelled. A failing disk is reported, not fatal."""
        while True:
            staging = self._staging
            if not (self._journal.dirty or staging.unsynced or staging.synced_lately or staging.retired):
                await self._wake.wait()
            self._wake = trio.Event()
            try:
                await self.sync_all()
                await self._tidy()
                self.failure = ""
            except (OSError, LafsError) as problem:
                if not self.failure:
                    log.error("the local disk does not take what is to be kept: %s", problem)
                self.failure = str(problem)
                await trio.sleep(_AFTER_FAILURE)
            await trio.sleep(EVERY)

    async def _tidy(self) -> None:
        for _ in range(_TIDY_STEPS):
            if not self._journal.wasteful:
                break
            self._journal.tidy()
            await trio.lowlevel.checkpoint()

    async def _sync_logs(self, logs: Sequence[StagedFile]) -> None:
        """All of them in one go: waiting for the disk takes longer than writing to a log."""
        behind = [staged for staged in logs if staged.length > staged.synced]
        for staged in behind:
            staged.pin()
        try:
            if behind:
                size = sum(staged.length - staged.synced for staged in behind)
                await self._disk.wait(partial(self._staging.sync, behind), size)
                self._staging.synced_lately.update(behind)
        finally:
            for staged in behind:
                staged.unpin()
        self._staging.unsynced.difference_update(staged for staged in logs if staged.length <= staged.synced)

    async def _sync_journal(self) -> None:
        retired, self._staging.retired = self._staging.retired, []
        try:
            point = self._journal.sync_point(self._marks())
            await self._disk.wait(partial(self._journal.sync, point), point.size)
        except BaseException:
            self._staging.retired += retired
            self._journal.dirty = True
            raise
        for staged in retired:
            crash_point("staging.remove")
            self._gone.append(staged.name)
            staged.remove()

    def _marks(self) -> Batch:
        """How far each log that changed is synced, so that damage can be told from a torn end later."""
        batch = Batch()
        for name in self._gone:
            batch.meta[LOG_KEY + name] = None
        for staged in self._staging.synced_lately:
            if staged.length and staged.marked < staged.synced:
                batch.meta[LOG_KEY + staged.name] = staged.marked = staged.synced
                if staged.heir_of is not None:
                    batch.contents[staged.heir_of] = None
                    staged.heir_of = None
        self._staging.synced_lately.clear()
        self._gone.clear()
        return batch
