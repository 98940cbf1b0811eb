"""Unpublished content on the local disk: one append-only log of sealed records per file.

A record says "these bytes are now at this offset" or "the size is now this". Nothing is ever overwritten, so what was
synced stays readable whatever happens to later writes, a snapshot is a copy of the extent map, and recovery reads the
log front to back: no commit per write is needed. Layout of a log:

    record = head || data          head = nonce(12) || sealed(kind u8, length u32, offset u64, mtime i64) || tag(16)
                                   data = ciphertext(length) || tag(16), absent when length is 0

Head and data are sealed with two keys of the log and the head's nonce, bound to the record's position. Zeros may follow
the last record.
A StagedFile is used by one task at a time (the owner's lock in files.py); snapshots may be read from any thread.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lafsfs.config.files import sync_directory
from lafsfs.errors import JournalError, NoSpaceError
from lafsfs.transfer.convergence import Beginning, HashedAlong
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.extents import ExtentMap
from lafsfs.tree.padding import Padding
from lafsfs.tree.sealing import NONCE, TAG, subkey

CHUNK = 64 * 1024  # most data bytes in one record: what a small read has to decrypt
_HEAD = struct.Struct(">BIQq")
_HEAD_SIZE = NONCE + _HEAD.size + TAG
_FULL = _HEAD_SIZE + CHUNK + TAG  # bytes of the longest record
_WRITE, _SIZE = 1, 2
_MANY = 4096  # records of a log that should be joined, if they are small
_LENGTH_BITS = 18  # a reference is position << 18 | data length
_LENGTH_MASK = (1 << _LENGTH_BITS) - 1
AT_HAND = os.RWF_NOWAIT  # read only what the system has in memory

Buffer = bytes | bytearray | memoryview
Placed = tuple[int, int, int]  # first byte, one past the last, reference to the record


class StagingArea:
    """The folder of all logs of one root, and how many bytes unpublished contents take, there and in the journal.

    `unsynced` are the logs with bytes that are not on the disk, `synced_lately` those that the journal has to be told
    of, `retired` those that no journal row names any more: they are deleted when the disk has the transaction that
    said so (syncing.py).
    """

    def __init__(self, directory: Path, key: bytes, limit: int | None = None) -> None:
        self.directory = directory
        self.limit = limit
        self.used = 0
        self.inline: dict[int, int] = {}  # inode number -> bytes of its content in the journal
        self.inline_used = 0
        self.unsynced: set[StagedFile] = set()
        self.synced_lately: set[StagedFile] = set()
        self.retired: list[StagedFile] = []
        self.freed = trio.Event()  # replaced whenever space is given back
        self.starved: Callable[[], bool] = _never  # whether the disk has no space for anything but publishing
        self._key = key
        self._accounts = threading.Lock()  # appending may happen in worker threads
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, size: int, base_limit: int) -> StagedFile:
        """A new, empty log over a base of which the first `base_limit` bytes still count."""
        return StagedFile(self, os.urandom(16).hex(), size, base_limit)

    def recover(self, name: str, size: int, base_limit: int, known: int, synced: int = 0) -> StagedFile:
        """The log called `name`, read from disk; what a crash left half-written at its end is cut off.

        `size` and `base_limit` are what the log started from. Its `mtime` tells of changes past byte `known` only.
        Its first `synced` bytes were on the disk: whatever is missing of them is damage.
        """
        staged = StagedFile(self, name, size, base_limit)
        staged.replay(known, synced)
        return staged

    def remove_all_but(self, names: set[str]) -> None:
        """Delete logs that no journal row names (a crash came between the two)."""
        for path in self.directory.iterdir():
            if path.name not in names:
                path.unlink()

    def keys_of(self, name: str) -> tuple[AESGCM, AESGCM]:
        """The head key and the data key of one log."""
        key = subkey(self._key, b"log:" + name.encode())
        return AESGCM(subkey(key, b"head")), AESGCM(subkey(key, b"data"))

    # --- space ---------------------------------------------------------------------------------------

    def has_room(self, count: int) -> bool:
        """Whether `count` more bytes of content stay within the limit."""
        return not self.starved() and (
            self.limit is None or self.used + self.inline_used + count <= self.limit
        )

    def reserve(self, count: int) -> None:
        """Account for `count` more bytes; NoSpaceError at the limit."""
        with self._accounts:
            if not self.has_room(count):
                raise NoSpaceError("the staging limit is reached, or the disk is full")
            self.used += count

    def release(self, count: int) -> None:
        """`count` bytes of logs are free again."""
        self.unreserve(count)
        self._announce()

    def unreserve(self, count: int) -> None:
        """Undo a `reserve` (in any thread)."""
        with self._accounts:
            self.used -= count

    def account_inline(self, ino: int, size: int | None) -> None:
        """The content of an inode takes `size` bytes of the journal; None: it is not there any more."""
        before = self.inline.pop(ino, 0)
        if size is not None:
            self.inline[ino] = size
        self.inline_used += (size or 0) - before
        if before > (size or 0):
            self._announce()

    def sync(self, logs: Sequence[StagedFile]) -> None:
        """Force logs to the disk, all or none of them as far as they know. OSError. Blocks: call it in a worker thread,
        with the logs pinned.
        """
        synced = [(staged, staged.force()) for staged in logs if staged.length > staged.synced]
        if any(staged.synced == 0 for staged, _ in synced):
            sync_directory(self.directory)
        for staged, length in synced:
            staged.synced = max(staged.synced, length)

    def _announce(self) -> None:
        freed, self.freed = self.freed, trio.Event()
        freed.set()

    def retire(self, staged: StagedFile) -> None:
        """Delete a log after the next sync; until then a power cut may bring back the row that names it."""
        self.unsynced.discard(staged)
        staged.heir_of = None
        self.retired.append(staged)


class StagedFile:
    """One file's unpublished content over its base (the content on the grid, if any)."""

    def __init__(self, area: StagingArea, name: str, size: int, base_limit: int) -> None:
        self.area = area
        self.name = name
        self.path = area.directory / name
        self.first_size = size  # what the log starts from
        self.first_limit = base_limit
        self.size = size
        self.base_limit = base_limit
        self.mtime: int | None = None  # of the last change in the log
        self.extents = ExtentMap()
        self.damaged = False  # a record could not be read back
        self.length = 0  # bytes in the log
        self.synced = 0  # so many bytes of it are on the disk
        self.marked = 0  # and so many of them the journal knows of
        # The inode whose small content the journal still has, until this log is synced.
        self.heir_of: int | None = None
        self.hashed: HashedAlong | None = None  # the content, if it is hashed while it is written
        self._heads, self._datas = area.keys_of(name)
        self._padding = Padding()
        self._many = _MANY
        self._fd = -1
        self._pins = 0
        self._doomed = False

    # --- writing ---------------------------------------------------------------------------------

    def write(self, offset: int, data: Buffer, mtime: int) -> None:
        """Put `data` at `offset`. On return it survives a crash of this process; NoSpaceError leaves all as it was."""
        self.place(self.append(offset, data, mtime), mtime)

    def append(self, offset: int, data: Buffer, mtime: int) -> list[Placed]:
        """The part of `write` that works on the disk: may run in a worker thread while readers go on."""
        view = memoryview(data)
        parts: list[bytes] = []
        placed: list[Placed] = []
        position = self.length
        for start in range(0, len(view), CHUNK):
            chunk = view[start : start + CHUNK]
            parts += self._seal(position, _WRITE, offset + start, mtime, chunk)
            first = offset + start
            placed.append((first, first + len(chunk), position << _LENGTH_BITS | len(chunk)))
            position += _HEAD_SIZE + len(chunk) + TAG
        self._append(parts, position - self.length)
        return placed

    def place(self, placed: list[Placed], mtime: int) -> None:
        """The part of `write` that makes appended records visible."""
        self.area.unsynced.add(self)
        for first, last, reference in placed:
            self._changed_from(first)
            self.extents.insert(first, last, reference)
            self.size = max(self.size, last)
        self.mtime = mtime

    def truncate(self, size: int, mtime: int) -> None:
        """Set the size; bytes beyond it are gone, a growing file reads as zeros."""
        self._append(self._seal(self.length, _SIZE, size, mtime, b""), _HEAD_SIZE)
        self.area.unsynced.add(self)
        self._resize(size)
        self.mtime = mtime

    def _changed_from(self, offset: int) -> None:
        """Bytes from there on are not what they were, if they were anything."""
        if self.hashed is not None and self.hashed.end > offset:
            self.hashed.stop()
            self.hashed = None

    def _resize(self, size: int) -> None:
        self._changed_from(size)
        self.extents.remove(size, max(self.extents.end, size))
        self.base_limit = min(self.base_limit, size)
        self.size = size

    def _seal(self, position: int, kind: int, offset: int, mtime: int, data: Buffer) -> list[bytes]:
        nonce = os.urandom(NONCE)
        bound = position.to_bytes(8, "big")
        head = self._heads.encrypt(nonce, _HEAD.pack(kind, len(data), offset, mtime), bound)
        if not len(data):
            return [nonce, head]
        return [nonce, head, self._datas.encrypt(nonce, data, bound)]

    def _append(self, parts: list[bytes], count: int) -> None:
        self.area.reserve(count)
        try:
            crash_point(
                "staging.torn", lambda: os.pwrite(self.fd(), b"".join(parts)[: count // 2], self.length)
            )
            padding = self._padding.behind(self.fd(), self.length + count)
            written = os.pwritev(self.fd(), [*parts, *padding], self.length)
            if written < count:  # a full disk may cut a write short
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as problem:
            self.area.unreserve(count)
            if self._fd >= 0:
                os.ftruncate(self._fd, self.length)
                self._padding.filled = self.length
            if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpaceError("the local disk is full") from None
            raise JournalError(f"staging failed: {problem.strerror}") from None
        self._padding.filled = max(self._padding.filled, self.length + written)
        self.length += count
        crash_point("staging.append")

    # --- reading ---------------------------------------------------------------------------------

    def read_record(self, reference: int, flags: int = 0) -> bytes:
        """All data of one record; JournalError if the disk gives back something else than was written. `flags` are for
        preadv(2); with AT_HAND, OSError if the disk would have to be waited for.
        """
        sealed, bound = self._sealed(reference, flags)
        try:
            return self._datas.decrypt(sealed[:NONCE], sealed[_HEAD_SIZE:], bound)
        except (InvalidTag, ValueError):
            raise JournalError("staged content is damaged on the local disk") from None

    def read_record_into(self, reference: int, skip: int, target: memoryview, flags: int = 0) -> None:
        """Fill `target` from a record, leaving out its first `skip` bytes. Errors and `flags` as for `read_record`."""
        if skip or len(target) != reference & _LENGTH_MASK:
            target[:] = memoryview(self.read_record(reference, flags))[skip : skip + len(target)]
            return
        sealed, bound = self._sealed(reference, flags)
        try:
            self._datas.decrypt_into(sealed[:NONCE], sealed[_HEAD_SIZE:], bound, target)
        except (InvalidTag, ValueError):
            raise JournalError("staged content is damaged on the local disk") from None

    def _sealed(self, reference: int, flags: int) -> tuple[memoryview, bytes]:
        """A record as the log has it, until the next one is read in the same thread; and what it is bound to."""
        position, length = reference >> _LENGTH_BITS, reference & _LENGTH_MASK
        sealed = _room()[: _HEAD_SIZE + length + TAG]
        count = os.preadv(self.fd(), [sealed], position, flags)
        if count < len(sealed) and flags & AT_HAND:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return sealed[:count], position.to_bytes(8, "big")

    def snapshot(self) -> StagedSnapshot:
        """The content as it is now, unaffected by later changes."""
        known = None if self.hashed is None else self.hashed.known
        return StagedSnapshot(self, self.size, self.base_limit, self.extents.copy(), known)

    # --- recovery --------------------------------------------------------------------------------

    def replay(self, known: int, synced: int) -> None:
        """Read the log from disk. Damage inside marks the file, keeps what is readable, and ends in `damaged`."""
        end = os.fstat(self.fd()).st_size
        good = 0
        for position, kind, length, offset, mtime, intact in self._scan(end, synced):
            good = position + _HEAD_SIZE + (length + TAG if length else 0)
            if kind == _SIZE:
                self._resize(offset)
            else:
                self.extents.insert(offset, offset + length, position << _LENGTH_BITS | length)
                self.size = max(self.size, offset + length)
                self.damaged |= not intact
            if position >= known:
                self.mtime = mtime
        self.damaged |= good < synced
        if good < end:
            os.ftruncate(self.fd(), good)
        self.length = self._padding.filled = good
        self.synced = self.marked = min(good, synced)
        self.area.used += good
        if good > self.synced:
            self.area.unsynced.add(self)

    def _scan(self, end: int, synced: int) -> Iterator[tuple[int, int, int, int, int, bool]]:
        """Records as (position, kind, length, offset, mtime, data is intact).

        Past byte `synced` the first unreadable record is the end: a write that was torn. Before it, it is damage, and
        the next readable record is looked for.
        """
        position = 0
        while position + _HEAD_SIZE <= end:
            head = self._head(position)
            after = end + 1
            if head is not None:
                kind, length, offset, mtime = head
                after = position + _HEAD_SIZE + (length + TAG if length else 0)
            if head is None or after > end:
                if position >= synced:
                    return
                self.damaged = True
                position = self._next_head(position, min(end, synced))
                continue
            intact = length == 0 or self._intact(position << _LENGTH_BITS | length)
            if not intact and after > synced:
                return
            yield position, kind, length, offset, mtime, intact
            position = after

    def _head(self, position: int) -> tuple[int, int, int, int] | None:
        """(kind, length, offset, mtime) of the record at `position`, None if none begins there."""
        head = os.pread(self.fd(), _HEAD_SIZE, position)
        try:
            plain = self._heads.decrypt(head[:NONCE], head[NONCE:], position.to_bytes(8, "big"))
        except (InvalidTag, ValueError):
            return None
        kind, length, offset, mtime = _HEAD.unpack(plain)
        return kind, length, offset, mtime

    def _next_head(self, position: int, end: int) -> int:
        """Where the next readable record after a damaged one begins; `end` if none is found.

        Anywhere within the length of a record; past that, where it would be if all that is damaged are full ones.
        """
        last = min(end, position + _FULL)
        places = itertools.chain(range(position + _HEAD_SIZE, last + 1), range(position + _FULL, end, _FULL))
        return next((at for at in places if self._head(at) is not None), end)

    def _intact(self, reference: int) -> bool:
        try:
            self.read_record(reference)
        except JournalError:
            return False
        return True

    # --- the file itself ---------------------------------------------------------------------------

    def fd(self) -> int:
        """The open log (created on first use)."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return self._fd

    def force(self) -> int:
        """Force what was written to the disk (the name of a new log is not); how many bytes that were. OSError."""
        length = self.length
        os.fdatasync(self.fd())
        self._padding.synced(length - self.synced)
        return length

    def sync(self) -> None:
        """Force the log to the disk. OSError. Blocks: call it in a worker thread, with the log pinned."""
        self.area.sync([self])

    def idle(self) -> None:
        """Give back what only a log that is used needs."""
        if self.hashed is not None:
            self.hashed.rest()
        if self._fd >= 0 and not self._pins:
            os.close(self._fd)
            self._fd = -1

    def pin(self) -> None:
        """Keep the log readable, although somebody may remove it, until `unpin`."""
        self._pins += 1

    def unpin(self) -> None:
        """Undo one `pin`."""
        self._pins -= 1
        if self._pins == 0 and self._doomed:
            self.remove()

    def remove(self) -> None:
        """Delete the log, as soon as nobody has it pinned: its content is on the grid, or nobody wants it."""
        self._doomed = True
        if self._pins:
            return
        self.idle()
        self.path.unlink(missing_ok=True)
        self.area.unsynced.discard(self)
        self.area.synced_lately.discard(self)
        self.area.release(self.length)
        self.length = self.synced = 0

    @property
    def wasteful(self) -> bool:
        """Whether rewriting the log would pay: mostly dead bytes, or a great many small records."""
        live = self.extents.live + len(self.extents) * (_HEAD_SIZE + TAG)
        if self.length > 2 * live + (32 << 20):
            return True
        return len(self.extents) > self._many and self.extents.live < len(self.extents) * 2048

    def rewritten(self) -> None:
        """It was just written anew: that many records as it has now are not worth doing it again."""
        self._many = max(_MANY, 2 * len(self.extents))


class StagedSnapshot:
    """A StagedFile's content at one moment. Valid while the log is pinned."""

    def __init__(
        self,
        staged: StagedFile,
        size: int,
        base_limit: int,
        extents: ExtentMap,
        beginning: Beginning | None = None,
    ) -> None:
        self.staged = staged
        self.beginning = beginning
        self.size = size
        self.base_limit = base_limit
        self.extents = extents


_rooms = threading.local()


def _room() -> memoryview:
    """Where this thread may put one sealed record."""
    try:
        room: memoryview = _rooms.room
    except AttributeError:
        room = _rooms.room = memoryview(bytearray(_FULL))
    return room


def _never() -> bool:
    """The disk has space."""
    return False
