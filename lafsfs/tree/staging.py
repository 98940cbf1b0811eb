"""Unpublished content on the local disk: one append-only log of sealed records per file.

A record says "these bytes are now at this offset" or "the size is now this". Nothing is ever overwritten, so what was
synced stays readable whatever happens to later writes, a snapshot is a copy of the extent map, and recovery reads the
log front to back: no commit per write is needed. Layout of a log:

    record = head || data          head = nonce(12) || sealed(kind u8, length u32, offset u64, mtime i64) || tag(16)
                                   data = ciphertext(length) || tag(16), absent when length is 0

Head and data are sealed with two keys of the log and the head's nonce, bound to the record's position.
A StagedFile is used by one task at a time (the owner's lock in files.py); snapshots may be read from any thread.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lafsfs.errors import JournalError, NoSpaceError
from lafsfs.tree.extents import ExtentMap
from lafsfs.tree.sealing import NONCE, TAG, subkey

CHUNK = 128 * 1024  # most data bytes in one record: what a small read has to decrypt
_HEAD = struct.Struct(">BIQq")
_HEAD_SIZE = NONCE + _HEAD.size + TAG
_WRITE, _SIZE = 1, 2
_LENGTH_BITS = 18  # a reference is position << 18 | data length

Buffer = bytes | bytearray | memoryview
Placed = tuple[int, int, int]  # first byte, one past the last, reference to the record


class StagingArea:
    """The folder of all logs of one root, and how many bytes they take."""

    def __init__(self, directory: Path, key: bytes, limit: int | None = None) -> None:
        self.directory = directory
        self.limit = limit
        self.used = 0
        self._key = key
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, size: int, base_limit: int) -> StagedFile:
        """A new, empty log over a base of which the first `base_limit` bytes still count."""
        return StagedFile(self, os.urandom(16).hex(), size, base_limit)

    def recover(self, name: str, size: int, base_limit: int, known: int) -> StagedFile:
        """The log called `name`, read from disk; what a crash left half-written at its end is cut off.

        `size` and `base_limit` are what the log started from. Its `mtime` tells of changes past byte `known` only.
        """
        staged = StagedFile(self, name, size, base_limit)
        staged.replay(known)
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

    def reserve(self, count: int) -> None:
        """Account for `count` more bytes; NoSpaceError at the limit."""
        if self.limit is not None and self.used + count > self.limit:
            raise NoSpaceError("the staging limit is reached; content waits to be published")
        self.used += count


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
        self.unsynced = False
        self._heads, self._datas = area.keys_of(name)
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
        for first, last, reference in placed:
            self.extents.insert(first, last, reference)
            self.size = max(self.size, last)
        self.mtime = mtime

    def truncate(self, size: int, mtime: int) -> None:
        """Set the size; bytes beyond it are gone, a growing file reads as zeros."""
        self._append(self._seal(self.length, _SIZE, size, mtime, b""), _HEAD_SIZE)
        self._resize(size)
        self.mtime = mtime

    def _resize(self, size: int) -> None:
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
            written = os.pwritev(self.fd(), parts, self.length)
            if written != count:  # a full disk may cut a write short
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as problem:
            self.area.used -= count
            if self._fd >= 0:
                os.ftruncate(self._fd, self.length)
            if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpaceError("the local disk is full") from None
            raise JournalError(f"staging failed: {problem.strerror}") from None
        self.length += count
        self.unsynced = True

    # --- reading ---------------------------------------------------------------------------------

    def read_record(self, reference: int) -> bytes:
        """All data of one record; JournalError if the disk gives back something else than was written."""
        position, length = reference >> _LENGTH_BITS, reference & ((1 << _LENGTH_BITS) - 1)
        sealed = os.pread(self.fd(), _HEAD_SIZE + length + TAG, position)
        try:
            return self._datas.decrypt(
                sealed[:NONCE], memoryview(sealed)[_HEAD_SIZE:], position.to_bytes(8, "big")
            )
        except (InvalidTag, ValueError):
            raise JournalError("staged content is damaged on the local disk") from None

    def snapshot(self) -> StagedSnapshot:
        """The content as it is now, unaffected by later changes."""
        return StagedSnapshot(self, self.size, self.base_limit, self.extents.copy())

    # --- recovery --------------------------------------------------------------------------------

    def replay(self, known: int) -> None:
        """Read the log from disk. Damage inside marks the file, keeps what is readable, and ends in `damaged`."""
        end = os.fstat(self.fd()).st_size
        good = 0
        for position, kind, length, offset, mtime, intact in self._scan(end):
            good = position + _HEAD_SIZE + (length + TAG if length else 0)
            if kind == _SIZE:
                self._resize(offset)
            else:
                self.extents.insert(offset, offset + length, position << _LENGTH_BITS | length)
                self.size = max(self.size, offset + length)
                self.damaged |= not intact
            if position >= known:
                self.mtime = mtime
        self.damaged |= good < known  # the journal knew more than the disk still has
        if good < end:
            os.ftruncate(self.fd(), good)
        self.length = good
        self.unsynced = True
        self.area.used += good

    def _scan(self, end: int) -> Iterator[tuple[int, int, int, int, int, bool]]:
        """Records as (position, kind, length, offset, mtime, data is intact); stops at the first unreadable head."""
        position = 0
        while position + _HEAD_SIZE <= end:
            head = os.pread(self.fd(), _HEAD_SIZE, position)
            try:
                plain = self._heads.decrypt(head[:NONCE], head[NONCE:], position.to_bytes(8, "big"))
            except InvalidTag:
                # The last write may be torn; anything after it cannot have been acknowledged as synced
                # unless the disk lost it, and then the head of what follows is out of reach as well.
                self.damaged |= end - position > CHUNK + _HEAD_SIZE + TAG
                return
            kind, length, offset, mtime = _HEAD.unpack(plain)
            after = position + _HEAD_SIZE + (length + TAG if length else 0)
            if after > end:
                return
            intact = length == 0 or self._intact(position << _LENGTH_BITS | length)
            if not intact and after == end:
                return
            yield position, kind, length, offset, mtime, intact
            position = after

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

    def sync(self) -> None:
        """Force the log to the disk (blocks: call it in a worker thread)."""
        if self.length and self.unsynced:
            self.unsynced = False
            os.fdatasync(self.fd())

    def idle(self) -> None:
        """Give the descriptor back until the log is used again."""
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
        self.area.used -= self.length
        self.length = 0

    @property
    def wasteful(self) -> bool:
        """Whether rewriting the log would pay: mostly dead bytes, or a great many small records."""
        live = self.extents.live + len(self.extents) * (_HEAD_SIZE + TAG)
        if self.length > 2 * live + (32 << 20):
            return True
        return len(self.extents) > 4096 and self.extents.live < len(self.extents) * 2048


class StagedSnapshot:
    """A StagedFile's content at one moment. Valid while the log is pinned."""

    def __init__(self, staged: StagedFile, size: int, base_limit: int, extents: ExtentMap) -> None:
        self.staged = staged
        self.size = size
        self.base_limit = base_limit
        self.extents = extents
