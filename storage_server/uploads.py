"""The immutable shares in progress of one server (formats.md section 9.5)."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from storage_server import immutable, leases
from storage_server.changes import Create, Put
from storage_server.errors import BadSecretError, ConflictError, DiskFullError, NoShareError
from storage_server.journal import Journal
from storage_server.layout import Layout
from storage_server.leases import LeaseSecrets
from storage_server.locks import SlotLocks
from storage_server.placing import Placer
from storage_server.upload import SMALL, ShareWriter, Upload

INACTIVITY: Final = 30 * 60
"""Seconds without a write after which an upload is dropped."""

_MEMORY_BUDGET: Final = 64 << 20
_FLUSH_EVERY: Final = 16 << 20
_log = logging.getLogger("storage_server.uploads")


class Uploads:
    """Shares in progress by storage index and number."""

    def __init__(
        self,
        layout: Layout,
        journal: Journal,
        locks: SlotLocks,
        placer: Placer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layout = layout
        self._locks = locks
        self._journal = journal
        self._placer = placer
        self._clock = clock
        self._uploads: dict[tuple[bytes, int], Upload] = {}
        self._in_memory = 0
        self.reserved = 0
        """Bytes that the shares in progress will take."""

    def allocate(
        self,
        storage_index: bytes,
        numbers: Iterable[int],
        size: int,
        upload_secret: bytes,
        secrets: LeaseSecrets,
        space: int,
    ) -> set[int]:
        """Begin shares of `size` bytes: the numbers that may be written now with this upload secret.

        `space` bytes are free on the disk. Shares in progress under the same secret are among the answer,
        so that a client whose reply was lost may simply ask again.
        """
        allocated: set[int] = set()
        for shnum in sorted(numbers):
            present = self._uploads.get((storage_index, shnum))
            if present is not None:
                if present.opens_with(upload_secret) and present.size == size and not present.closed:
                    allocated.add(shnum)
            elif size <= space - self.reserved and self._begin(
                (storage_index, shnum), size, upload_secret, secrets
            ):
                allocated.add(shnum)
        return allocated

    def admitted(self, storage_index: bytes, shares: Mapping[int, bytes], space: int) -> dict[int, bytes]:
        """Of whole shares those for which there is room, and that are not in progress anyway."""
        admitted: dict[int, bytes] = {}
        for shnum, data in shares.items():
            space -= len(data)
            if space >= self.reserved and (storage_index, shnum) not in self._uploads:
                admitted[shnum] = data
        return admitted

    def _begin(self, key: tuple[bytes, int], size: int, upload_secret: bytes, secrets: LeaseSecrets) -> bool:
        lease = leases.grant(secrets, leases.UPLOADER, time.time(), immutable.WRITTEN_VERSION)
        in_memory = size <= SMALL and self._in_memory + size <= _MEMORY_BUDGET
        path = None if in_memory else self._layout.upload(*key)
        try:
            upload = Upload(key, size, upload_secret, path, lease)
        except OSError as error:
            _log.error("cannot begin a share: %s", error)
            self._layout.remove_upload(*key)
            return False
        upload.touched = self._clock()
        self._uploads[key] = upload
        self.reserved += size
        self._in_memory += size if in_memory else 0
        return True

    def _find(self, key: tuple[bytes, int], upload_secret: bytes) -> Upload:
        upload = self._uploads.get(key)
        if upload is None or upload.closed:
            raise NoShareError("no such upload")
        if not upload.opens_with(upload_secret):
            raise BadSecretError("wrong upload secret")
        return upload

    @contextmanager
    def writing(
        self, key: tuple[bytes, int], upload_secret: bytes, begin: int, end: int
    ) -> Iterator[tuple[Upload, ShareWriter]]:
        """Write bytes [begin, end) of a share in progress. RefusedError if that is not possible."""
        upload = self._find(key, upload_secret)
        with upload.writing(begin, end) as writer:
            try:
                yield upload, writer
            finally:
                upload.touched = self._clock()

    async def settle(self, upload: Upload) -> bool:
        """Put the share in place if it is complete: then it is durable and visible on return, and true."""
        if upload.missing():
            if upload.closed:
                raise NoShareError("the upload has ended")
            self._flush_early(upload)
            return False
        if upload.placing is None:
            upload.placing = asyncio.create_task(self._complete(upload))
        # Several writers may bring the last bytes, and the one who began placing may go away.
        await asyncio.shield(upload.placing)
        return True

    async def _complete(self, upload: Upload) -> None:
        if upload.closed:
            raise NoShareError("the upload has ended")
        upload.closed = True
        try:
            async with self._locks.hold(upload.key[0]):
                await self._place(upload)
        except BaseException:
            upload.closed, upload.placing = False, None
            raise
        self._forget(upload)

    def _flush_early(self, upload: Upload) -> None:
        if upload.path is not None and upload.unsynced >= _FLUSH_EVERY:
            upload.unsynced = 0
            self._placer.flush_early(upload.path)

    async def _place(self, upload: Upload) -> None:
        storage_index, shnum = upload.key
        if self._layout.holds(storage_index, shnum):
            raise ConflictError("another share has taken this place")
        if upload.path is None:
            await self._journal.commit([Create(storage_index, shnum, [Put(0, upload.container())])])
            return
        if self._journal.holds(upload.key):  # a replay must not touch the new file
            await self._journal.checkpoint()
        try:
            await self._placer.place(upload.path, upload.key)
        except OSError as error:
            raise DiskFullError("the disk does not take the share") from error

    def _forget(self, upload: Upload) -> None:
        del self._uploads[upload.key]
        self.reserved -= upload.size
        if upload.path is None:
            self._in_memory -= upload.size

    def abort(self, key: tuple[bytes, int], upload_secret: bytes) -> None:
        """Give up a share in progress. NoShareError or BadSecretError if it is not the caller's."""
        self._drop(self._find(key, upload_secret))

    def _drop(self, upload: Upload) -> None:
        upload.closed = True
        self._forget(upload)
        if upload.path is not None:
            self._layout.remove_upload(*upload.key)

    def drop_idle(self) -> None:
        """Drop the uploads that nobody has written to for `INACTIVITY` seconds."""
        limit = self._clock() - INACTIVITY
        for upload in [u for u in self._uploads.values() if u.touched < limit and not u.closed]:
            _log.info("an upload timed out")
            self._drop(upload)


async def sweep(uploads: Uploads, interval: float = 60.0) -> None:
    """Drop idle uploads for ever."""
    while True:
        await asyncio.sleep(interval)
        uploads.drop_idle()


def free_space(directory: str, reserve: int) -> int:
    """Bytes that may be used on the file system of `directory`, leaving `reserve` free."""
    space = os.statvfs(directory)
    return max(0, space.f_bavail * space.f_frsize - reserve)
