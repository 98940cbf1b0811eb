"""One file of the journal's log (record_log.py): sealed records, one after the other.

    segment = record || record ...       sealed with a key of its own, made from its number
    record  = MAGIC || length u32 || nonce(12) || ciphertext || tag(16)       bound to its position in the segment

The first record says where the segment before ended. Zeros may follow the last one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from lafsfs.errors import JournalError, NoSpaceError
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.padding import Padding
from lafsfs.tree.sealing import OVERHEAD, Sealer, subkey

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAGIC = b"\xf5LJ\x01"
_HEAD = struct.Struct(">4sI")
_BEFORE = struct.Struct(">Q")


class Segment:
    """`length` is where the next record goes, `synced` how much of it is on the disk, `live` counts what the owner
    still needs of it; `damaged`: something in it cannot be read. OSError when the file cannot be opened.
    """

    def __init__(self, path: Path, number: int, key: bytes, *, ending: int | None = None) -> None:
        """Open a segment; with `ending`, the end of the one before, make a new one. OSError; NoSpaceError."""
        new = os.O_CREAT | os.O_TRUNC if ending is not None else 0
        self.path = path
        self.number = number
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | new, 0o600)
        self.length = os.fstat(self.fd).st_size
        self.synced = 0
        self.live = 0
        self.damaged = False
        self._padding = Padding()
        self._sealer = Sealer(subkey(key, b"segment:" + number.to_bytes(8, "big")))
        if ending is not None:
            try:
                self.append(_BEFORE.pack(ending))
            except BaseException:
                self.close()
                path.unlink()
                raise

    def before(self) -> int | None:
        """Where the segment before ended; None if that cannot be read."""
        try:
            return int(_BEFORE.unpack(self.record(0)[0])[0])
        except (JournalError, struct.error):
            return None

    def append(self, plain: bytes) -> int:
        """The position of a new record. NoSpaceError, JournalError: then it is as it was."""
        position = self.length
        sealed = self._sealer.seal(plain, position.to_bytes(8, "big"))
        record = _HEAD.pack(_MAGIC, len(sealed)) + sealed
        crash_point("journal.torn", lambda: os.pwrite(self.fd, record[: len(record) // 2], position))
        self._write(record, position)
        self.length = position + len(record)
        return position

    def _write(self, record: bytes, position: int) -> None:
        padding = self._padding
        try:
            written = os.pwritev(
                self.fd, [record, *padding.behind(self.fd, position + len(record))], position
            )
            if written >= len(record):
                padding.filled = max(padding.filled, position + written)
                return
            number = errno.ENOSPC  # a full disk may cut a write short
        except OSError as failure:
            number = failure.errno or errno.EIO
        with contextlib.suppress(OSError):  # or it is overwritten by the next one
            os.ftruncate(self.fd, position)
            padding.filled = position
        if number in FULL:
            raise NoSpaceError("the local disk is full")
        raise JournalError(f"the journal failed: {os.strerror(number)}")

    def force(self, length: int) -> None:
        """Have the disk take the first `length` bytes. OSError. Blocks."""
        os.fdatasync(self.fd)
        self._padding.synced(length - self.synced)

    def record(self, position: int) -> tuple[bytes, int]:
        """(plaintext, position of the next record); JournalError if no readable record begins there."""
        head = os.pread(self.fd, _HEAD.size, position)
        magic, length = _HEAD.unpack(head.ljust(_HEAD.size, b"\0"))
        start = position + _HEAD.size
        if magic != _MAGIC or length < OVERHEAD or start + length > self.length:
            raise JournalError("a record of the journal is damaged")
        sealed = os.pread(self.fd, length, start)
        return self._sealer.open(sealed, position.to_bytes(8, "big")), start + length

    def scan(self, end: int, synced: int) -> Iterator[tuple[int, bytes | None, int]]:
        """Records up to `end`, as (position, plaintext, where it ends); None for what is damaged.

        Something unreadable at or after `synced` ends it.
        """
        position = 0
        while position < end:
            plain: bytes | None
            try:
                plain, after = self.record(position)
            except JournalError:
                if position >= synced:
                    return
                plain, after = None, self._next_readable(position + 1, end)
            yield position, plain, after
            position = after

    def _next_readable(self, position: int, end: int) -> int:
        """Where the first readable record at or after `position` begins; `end` if none does before it."""
        data = os.pread(self.fd, max(end - position, 0), position)
        at = data.find(_MAGIC)
        while at >= 0:
            with contextlib.suppress(JournalError):
                self.record(position + at)
                return position + at
            at = data.find(_MAGIC, at + 1)
        return end

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)
