"""Mutable slots: read-test-write, atomic over all shares of a storage index (formats.md section 9.7)."""

from __future__ import annotations

import hmac
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from lafsfs.gbs.messages import ReadTestWrite, ReadTestWriteAnswer, TestWrite
from storage_server import mutable
from storage_server.changes import Change, Create, Delete, Modify
from storage_server.errors import (
    BadContainerError,
    BadSecretError,
    ConflictError,
    DiskFullError,
    ReadOnlyStoreError,
    UnsettledError,
)
from storage_server.journal import Journal
from storage_server.layout import Layout
from storage_server.leases import LeaseSecrets
from storage_server.locks import SlotLocks
from storage_server.mutable import MutableContainer
from storage_server.uploads import free_space


@dataclass(slots=True)
class _Share:
    """An existing share of the slot, its file open."""

    fd: int
    container: MutableContainer

    def read(self, offset: int, size: int) -> bytes:
        size = min(size, self.container.data_length - offset)
        return os.pread(self.fd, size, mutable.DATA_OFFSET + offset) if size > 0 else b""


@dataclass(slots=True)
class SlotRequest:
    """Everything a read-test-write request brings."""

    storage_index: bytes
    write_enabler: bytes = field(repr=False)
    secrets: LeaseSecrets
    body: ReadTestWrite


class Slots:
    """The mutable shares of a store."""

    def __init__(
        self, layout: Layout, journal: Journal, locks: SlotLocks, nodeid: bytes, read_only: bool = False
    ) -> None:
        self._layout = layout
        self._journal = journal
        self._locks = locks
        self._nodeid = nodeid
        self._read_only = read_only

    async def read_test_write(self, request: SlotRequest) -> ReadTestWriteAnswer:
        """Carry out the request atomically; changes are durable on return. RefusedError changes nothing."""
        async with self._locks.hold(request.storage_index):
            if self._journal.stuck:
                raise UnsettledError("the disk does not take earlier changes")
            with ExitStack() as files:
                shares = dict(self._open(request.storage_index, files))
                self._check_enabler(shares, request.write_enabler)
                answer = _evaluate(shares, request.body)
                changes = list(self._changes(shares, request)) if answer.success else []
            if changes:
                await self._journal.commit(changes)
            return answer

    def _open(self, storage_index: bytes, files: ExitStack) -> Iterator[tuple[int, _Share]]:
        for shnum in self._layout.share_numbers(storage_index):
            fd = os.open(self._layout.share(storage_index, shnum), os.O_RDONLY | os.O_CLOEXEC)
            files.callback(os.close, fd)
            try:
                yield shnum, _Share(fd, MutableContainer.load(fd))
            except BadContainerError:
                raise ConflictError("the storage index holds a share that is not mutable") from None

    def _check_enabler(self, shares: dict[int, _Share], write_enabler: bytes) -> None:
        for share in shares.values():
            if not hmac.compare_digest(share.container.write_enabler, write_enabler):
                raise BadSecretError("wrong write enabler")

    def _changes(self, shares: dict[int, _Share], request: SlotRequest) -> Iterator[Change]:
        now = time.time()
        space = free_space(str(self._layout.root), 0)
        for shnum, vector in request.body.vectors.items():
            share = shares.get(shnum)
            if vector.new_length == 0:
                if share is not None:
                    yield Delete(request.storage_index, shnum)
                continue
            if share is None and self._read_only:
                raise ReadOnlyStoreError("this server takes no new shares")
            container = (
                share.container if share else MutableContainer.new(self._nodeid, request.write_enabler)
            )
            before = container.extra_offset
            _apply_vector(container, vector)
            space -= container.extra_offset - before
            if space < 0:
                raise DiskFullError("not enough space")
            container.lease(request.secrets, now, self._nodeid)
            kind = Modify if share else Create
            yield kind(request.storage_index, shnum, container.edits())


def _evaluate(shares: dict[int, _Share], body: ReadTestWrite) -> ReadTestWriteAnswer:
    """The answer: tests on the listed shares, reads from all that exist."""
    success = all(
        (shares[shnum].read(offset, size) if shnum in shares else b"") == specimen
        for shnum, vector in body.vectors.items()
        for offset, size, specimen in vector.tests
    )
    data = {
        shnum: [share.read(offset, size) for offset, size in body.read_vector]
        for shnum, share in shares.items()
    }
    return ReadTestWriteAnswer(success, data)


def _apply_vector(container: MutableContainer, vector: TestWrite) -> None:
    for offset, data in vector.writes:
        container.write(offset, data)
    if vector.new_length is not None:
        container.truncate(vector.new_length)
