"""Ciphertext segments on local disk (design.md section 5).

Nothing is trusted: whoever reads a part checks it again, and what fails is discarded. Names are tagged
hashes, so that neither storage indexes nor caps can be read off the directory. Several processes may use
one directory; a lock file makes one of them write at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lafsfs.formats import base32, hashing
from lafsfs.formats.hashing import Buffer

_NAME_TAG = b"lafsfs_segment_cache_name_v1"
_NAME_SIZE = 20
_LOCK = "lock"
_TEMPORARY = "incoming"  # in the folder of the part, as ext4 is slow in making many files in one place
_NEW = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_TOTAL = struct.Struct(">Q")
_DISK_BLOCK = 4096
_LOW_WATER = 0.9  # evict down to this share of the limit, so that not every write has to look for victims
_SMALL = 64 << 10  # bytes
_TOUCH_AFTER = 60.0  # seconds; a younger entry is recent enough as it is


@dataclass(frozen=True)
class CacheUsage:
    """Bytes on disk and the hard limit."""

    used: int
    limit: int


class Part(NamedTuple):
    """What is to be kept, under which name."""

    storage_index: bytes
    ueb_hash: bytes
    name: str
    pieces: Sequence[Buffer]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(len(piece) for piece in self.pieces)


class SegmentCache:
    """A bounded store of parts of immutable files, least recently used out first. Methods block if they do not say
    otherwise.

    A part is named by (storage index, UEB hash, part name), so it never becomes stale. Space is counted in
    disk blocks, temporary files included, and the limit holds at every moment. A full or failing disk only
    means that nothing is kept.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit = limit_bytes
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def has(self, storage_index: bytes, ueb_hash: bytes, part: str) -> bool:
        """Whether a part is here. Does not block for long."""
        return os.access(self._path(storage_index, ueb_hash, part), os.F_OK)

    def get(self, storage_index: bytes, ueb_hash: bytes, part: str) -> bytes | None:
        """The bytes of a part, if it is here; unchecked."""
        path = self._path(storage_index, ueb_hash, part)
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.read()
                if time.time() - os.fstat(file.fileno()).st_mtime > _TOUCH_AFTER:
                    os.utime(file.fileno())
        except OSError:
            return None
        return data

    def peek(self, storage_index: bytes, ueb_hash: bytes, part: str) -> bytes | None:
        """As `get`, but only a small part that the system has in memory. Does not block for long."""
        try:
            with open(self._path(storage_index, ueb_hash, part), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if status.st_size > _SMALL or time.time() - status.st_mtime > _TOUCH_AFTER:
                    return None
                data = bytearray(status.st_size)
                count = os.preadv(file.fileno(), [data], 0, os.RWF_NOWAIT)
        except OSError:
            return None
        return bytes(data) if count == len(data) else None

    def put(self, parts: Sequence[Part]) -> int:
        """Keep parts, evicting others for them; how many were kept, or were here already."""
        kept = 0
        with contextlib.suppress(OSError), self._locked() as lock:
            total = _total(lock)
            # Counted before it is written: after a crash in between, the total is too high until an eviction.
            _set_total(lock, min(self._limit, total + sum(_on_disk(part.size) for part in parts)))
            try:
                for part in parts:
                    present, total = self._put_one(total, part)
                    kept += present
            finally:
                _set_total(lock, total)
        return kept

    def discard(self, storage_index: bytes, ueb_hash: bytes, part: str) -> None:
        """Forget a part that proved to be damaged."""
        path = self._path(storage_index, ueb_hash, part)
        with contextlib.suppress(OSError), self._locked() as lock:
            size = _on_disk(os.stat(path).st_size)
            os.unlink(path)
            _set_total(lock, max(0, _total(lock) - size))

    def usage(self) -> CacheUsage:
        """How full it is. Does not wait for others, unless there is no count yet."""
        try:
            raw = (self._directory / _LOCK).read_bytes()
            if len(raw) == _TOTAL.size:
                return CacheUsage(int(_TOTAL.unpack(raw)[0]), self._limit)
            with self._locked() as lock:
                return CacheUsage(_total(lock), self._limit)
        except OSError:
            return CacheUsage(0, self._limit)

    # --- inside the lock -----------------------------------------------------------------------------

    def _put_one(self, total: int, part: Part) -> tuple[bool, int]:
        """Whether a part is here now, and how many bytes are here with it; `total` are without. OSError: as before."""
        path = self._path(part.storage_index, part.ueb_hash, part.name)
        size = _on_disk(part.size)
        if os.access(path, os.F_OK):
            return True, total
        if size > self._limit:
            return False, total
        if total + size > self._limit:
            total = self._evict(int(self._limit * _LOW_WATER) - size)
            if total + size > self._limit:
                return False, total
        self._write(path, part.pieces)
        return True, total + size

    def _write(self, path: str, pieces: Sequence[Buffer]) -> None:
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, _TEMPORARY)
        try:
            try:
                fd = os.open(temporary, _NEW, 0o600)
            except FileNotFoundError:
                os.mkdir(folder, 0o700)
                fd = os.open(temporary, _NEW, 0o600)
            try:
                _write_all(fd, pieces)
            finally:
                os.close(fd)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _evict(self, target: int) -> int:
        """Remove the least recently used parts until at most `target` bytes are left; how many are left."""
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= target:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size
        return total

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        """(time of last use, bytes on disk, path) of everything here but the lock. What a crash left is removed."""
        for folder in os.scandir(self._directory):
            if not folder.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(folder.path):
                with contextlib.suppress(FileNotFoundError):
                    if entry.name == _TEMPORARY:
                        os.unlink(entry.path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    yield status.st_mtime, _on_disk(status.st_size), entry.path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """The lock file, locked: other threads and processes wait. A new one begins with a count."""
        lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_size != _TOTAL.size:
                _set_total(lock, sum(size for _, size, _ in self._entries()))
            yield lock
        finally:
            os.close(lock)

    def _path(self, storage_index: bytes, ueb_hash: bytes, part: str) -> str:
        name = hashing.tagged(_NAME_TAG, storage_index + ueb_hash + part.encode(), _NAME_SIZE)
        text = base32.encode(name)
        return os.path.join(self._directory, text[:2], text[2:])


def _write_all(fd: int, pieces: Sequence[Buffer]) -> None:
    written = os.writev(fd, pieces)
    if written < sum(len(piece) for piece in pieces):
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(fd, rest) :]


def _on_disk(size: int) -> int:
    return -(-size // _DISK_BLOCK) * _DISK_BLOCK


def _total(lock: int) -> int:
    return int(_TOTAL.unpack(os.pread(lock, _TOTAL.size, 0))[0])


def _set_total(lock: int, total: int) -> None:
    os.pwrite(lock, _TOTAL.pack(total), 0)
