"""The storage API of one directory, without HTTP (formats.md sections 5 and 9).

One event loop uses a `Store`. Small reads and all decisions happen on it without waiting; what must reach
the disk is waited for. RefusedError subclasses say what a request may not do.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lafsfs.gbs.messages import MAX_MUTABLE_SHARE, Allocated, AllocateRequest, ServerVersion
from storage_server import advisories, immutable, leases, mutable
from storage_server.changes import Change, Create, Modify, Put
from storage_server.errors import (
    AlreadyCompleteError,
    BadContainerError,
    ConflictError,
    NoShareError,
    UnsettledError,
)
from storage_server.immutable import ImmutableContainer
from storage_server.journal import Journal
from storage_server.layout import Kind, Layout, kind_of
from storage_server.leases import LeaseSecrets
from storage_server.locks import SlotLocks
from storage_server.mutable import MutableContainer
from storage_server.placing import Placer
from storage_server.settings import Settings
from storage_server.slots import Slots
from storage_server.uploads import Uploads, free_space, sweep


@dataclass(slots=True)
class ShareReader:
    """An open share: `length` bytes of data that begin at `base` of the file. Close it."""

    fd: int
    base: int
    length: int

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the share data; fewer only where the file was changed meanwhile."""
        return os.pread(self.fd, size, self.base + offset)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


class Store:
    """All shares under one storage directory."""

    def __init__(self, settings: Settings, nodeid: bytes, application: bytes) -> None:
        self._settings = settings
        self._nodeid = nodeid
        self._application = application
        self.layout = Layout(settings.storage_dir)
        self.locks = SlotLocks()
        self.journal = Journal(self.layout)
        self._placer = Placer(self.layout)
        self.uploads = Uploads(self.layout, self.journal, self.locks, self._placer)
        self.slots = Slots(self.layout, self.journal, self.locks, nodeid, settings.read_only)
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Recover what a crash left, forget uploads in progress, begin to serve."""
        self.layout.make()
        self.layout.wipe_incoming()
        await self.journal.open()
        self._sweeper = asyncio.create_task(sweep(self.uploads))

    async def close(self) -> None:
        """Stop; everything acknowledged is in place durably."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        self._placer.close()
        await self.journal.close()

    def version(self) -> ServerVersion:
        """Limits and free space."""
        space = self._space()
        return ServerVersion(space, MAX_MUTABLE_SHARE, space, self._application)

    def _space(self) -> int:
        if self._settings.read_only:
            return 0
        return free_space(str(self.layout.root), self._settings.reserved_space)

    # --- shares ------------------------------------------------------------------------------------

    def share_numbers(self, storage_index: bytes, kind: Kind) -> list[int]:
        """Complete shares; for mutable ones every share of the slot, of whatever kind, as in Tahoe."""
        numbers = self.layout.share_numbers(storage_index)
        if kind is Kind.MUTABLE:
            return numbers
        return [shnum for shnum in numbers if self._kind(storage_index, shnum) is Kind.IMMUTABLE]

    def _kind(self, storage_index: bytes, shnum: int) -> Kind | None:
        try:
            fd = os.open(self.layout.share(storage_index, shnum), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return kind_of(fd)
        finally:
            os.close(fd)

    def open_immutable(self, storage_index: bytes, shnum: int) -> ShareReader:
        """Open a complete immutable share. NoShareError if there is none of that kind."""
        fd = self._open_file(storage_index, shnum)
        try:
            return ShareReader(fd, immutable.DATA_OFFSET, ImmutableContainer.load(fd).data_length)
        except BadContainerError:
            os.close(fd)
            raise NoShareError("no such immutable share") from None

    def open_mutable(self, storage_index: bytes, shnum: int) -> ShareReader:
        """Open a mutable share. NoShareError if there is none of that kind."""
        if self.journal.stuck:
            raise UnsettledError("the disk does not take earlier changes")
        fd = self._open_file(storage_index, shnum)
        try:
            return ShareReader(fd, mutable.DATA_OFFSET, MutableContainer.load(fd).data_length)
        except BadContainerError:
            os.close(fd)
            raise NoShareError("no such mutable share") from None

    def _open_file(self, storage_index: bytes, shnum: int) -> int:
        try:
            return os.open(self.layout.share(storage_index, shnum), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NoShareError("no such share") from None

    # --- changes -----------------------------------------------------------------------------------

    async def allocate(
        self, storage_index: bytes, request: AllocateRequest, upload_secret: bytes, secrets: LeaseSecrets
    ) -> Allocated:
        """Begin immutable shares; those that are complete get their lease renewed or added."""
        async with self.locks.hold(storage_index):
            present = await self._present(storage_index, secrets)
            wanted = request.share_numbers.difference(present)
            allocated = self.uploads.allocate(
                storage_index, wanted, request.allocated_size, upload_secret, secrets, self._space()
            )
            return Allocated(present, frozenset(allocated))

    async def put_shares(
        self,
        storage_index: bytes,
        shares: Mapping[int, bytes],
        secrets: LeaseSecrets,
    ) -> Allocated:
        """Take whole shares: those in the answer are complete and durable on return.

        As with `allocate`, but that shares in progress stay so, whoever began them.
        """
        async with self.locks.hold(storage_index):
            present = await self._present(storage_index, secrets)
            fresh = {n: data for n, data in shares.items() if n not in present}
            fresh = self.uploads.admitted(storage_index, fresh, self._space())
            if fresh:
                lease = leases.grant(secrets, leases.UPLOADER, time.time(), immutable.WRITTEN_VERSION)
                await self.journal.commit(
                    [
                        Create(storage_index, n, [Put(0, immutable.container(data, lease))])
                        for n, data in fresh.items()
                    ]
                )
            return Allocated(present.union(fresh), frozenset())

    async def _present(self, storage_index: bytes, secrets: LeaseSecrets) -> frozenset[int]:
        """The complete immutable shares, after their leases were renewed. The caller holds the lock."""
        present = self.layout.share_numbers(storage_index)
        if present:
            if any(self._kind(storage_index, shnum) is not Kind.IMMUTABLE for shnum in present):
                raise ConflictError("the storage index holds mutable shares")
            await self._renew(storage_index, present, secrets)
        return frozenset(present)

    def abort(self, storage_index: bytes, shnum: int, upload_secret: bytes) -> None:
        """Give up a share in progress. AlreadyCompleteError, NoShareError, BadSecretError."""
        try:
            self.uploads.abort((storage_index, shnum), upload_secret)
        except NoShareError:
            if self._kind(storage_index, shnum) is Kind.IMMUTABLE:
                raise AlreadyCompleteError("the share is complete") from None
            raise

    async def add_lease(self, storage_index: bytes, secrets: LeaseSecrets) -> None:
        """Renew or add a lease on every share of the storage index. NoShareError if there is none."""
        async with self.locks.hold(storage_index):
            numbers = self.layout.share_numbers(storage_index)
            if not numbers:
                raise NoShareError("no shares")
            await self._renew(storage_index, numbers, secrets)

    async def _renew(self, storage_index: bytes, numbers: Iterable[int], secrets: LeaseSecrets) -> None:
        changes: list[Change] = []
        for shnum in numbers:
            fd = self._open_file(storage_index, shnum)
            try:
                change = self._lease_change(fd, storage_index, shnum, secrets)
            finally:
                os.close(fd)
            if change is not None:
                changes.append(change)
        if changes:
            await self.journal.commit(changes)

    def _lease_change(
        self, fd: int, storage_index: bytes, shnum: int, secrets: LeaseSecrets
    ) -> Change | None:
        kind = kind_of(fd)
        if kind is Kind.IMMUTABLE:
            edits = ImmutableContainer.load(fd).lease_edits(fd, secrets, time.time())
            return Modify(storage_index, shnum, edits) if edits else None
        if kind is Kind.MUTABLE:
            container = MutableContainer.load(fd)
            container.lease(secrets, time.time(), self._nodeid)
            return Modify(storage_index, shnum, container.edits())
        return None

    def advise_corrupt(self, kind: Kind, storage_index: bytes, shnum: int, reason: str) -> None:
        """Keep a client's report on a share. NoShareError if there is no such share of that kind."""
        if self._kind(storage_index, shnum) is not kind:
            raise NoShareError("no such share")
        advisories.store(self.layout, kind, storage_index, shnum, reason)
