"""Directories as they were last seen on the grid, kept on the local disk: a tree can be opened without any server.

Sealed like all local state, bounded, and not needed for anything else: losing them loses nothing.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cbor2
import trio

from lafsfs.config.files import sync_directory
from lafsfs.errors import FormatError, JournalError
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Directory, Snapshot, pack
from lafsfs.transfer.servermap import Version
from lafsfs.tree.reserve import LOW_SPACE
from lafsfs.tree.sealing import Sealer, subkey

if TYPE_CHECKING:
    from lafsfs.tree.directories import Folder

log = logging.getLogger(__name__)

LIMIT = 128 << 20  # bytes of all kept directories of a root
LARGEST = 32 << 20  # a larger directory is not kept
_AROUND = 200  # bytes of a record beside the directory itself
EVERY = 5.0  # seconds between two looks at what changed


class Kept(NamedTuple):
    """A directory as it was at Unix time `seen`."""

    snapshot: Snapshot
    seen: float


@dataclass(eq=False, slots=True)
class _Record:
    """A directory that is to be written down."""

    cap: bytes
    version: Version
    data: bytes
    durable: bool


class KeptDirectories:
    """The store of one root. `find` blocks. Damaged records count as absent, and so do outdated ones: what cannot be
    written is removed.
    """

    def __init__(self, directory: Path, key: bytes, limit: int = LIMIT) -> None:
        self._directory = directory
        self._limit = limit
        self._sealer = Sealer(subkey(key, b"directories"))
        self._names = subkey(key, b"directory names")
        self._changed: set[Folder] = set()
        self._used: int | None = None
        self._writing = trio.Lock()
        self._waiting: list[_Record] = []
        self._newest: dict[str, int] = {}  # file -> sequence number written since the start
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- keeping ---------------------------------------------------------------------------------------

    def changed(self, folder: Folder) -> None:
        """The grid holds something newer than what is kept."""
        self._changed.add(folder)

    async def run(self) -> None:
        """Keep what changed, until cancelled."""
        while True:
            await trio.sleep(EVERY)
            await self.keep_changed()

    async def keep_changed(self) -> None:
        """Write down what changed since the last time. A full disk is no reason to fail."""
        for folder in list(self._changed):
            if folder.inode.nlink > 0:
                await self.catch_up(folder)
            else:
                self._changed.discard(folder)

    async def catch_up(self, folder: Folder) -> None:
        """Write down the version last seen, if it is newer than what is kept."""
        if folder in self._changed and folder.snapshot is not None and folder.node is not None:
            self._changed.discard(folder)
            await self.keep(folder.node, folder.snapshot)

    async def keep(self, node: Directory, snapshot: Snapshot) -> None:
        """Write down what the grid holds now, on the disk on return: what the journal forgets after this is found here,
        also when the power fails. Of a new directory without names it forgets none: that is only written.
        """
        data, cap = await pack(snapshot.packed), node.cap.read_cap().to_bytes()
        durable = len(snapshot.packed) > 0 or snapshot.version.seqnum > 1
        record = _Record(cap, snapshot.version, data, durable)
        self._waiting.append(record)
        async with self._writing:
            if record in self._waiting:  # else somebody took it along
                records, self._waiting = self._waiting, []
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(self._save_all, records)

    def _save_all(self, records: Sequence[_Record]) -> None:
        """Of two versions of a directory that overtook each other the newer stays."""
        saved = [path for path in map(self._save, records) if path is not None]
        try:
            if saved:
                sync_directory(self._directory)
        except OSError as problem:
            self._give_up(problem, saved)

    def _save(self, record: _Record) -> Path | None:
        """The file, if its name is to be synced."""
        path = self._path(record.cap)
        version, data = record.version, record.data
        if version.seqnum < self._newest.get(path.name, 0):
            return None
        self._newest[path.name] = version.seqnum
        if len(data) > min(LARGEST, self._limit - _AROUND):
            path.unlink(missing_ok=True)
            return None
        kept = cbor2.dumps([version.seqnum, version.root_hash, version.size, time.time(), data])
        sealed = self._sealer.seal(kept, path.name.encode())
        scratch = path.with_suffix(".new")
        try:
            self._make_room(len(sealed))
            with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(sealed)
                if record.durable:
                    file.flush()
                    os.fsync(file.fileno())
            scratch.rename(path)
        except OSError as problem:
            self._give_up(problem, (scratch, path))
            return None
        return path if record.durable else None

    def _give_up(self, problem: OSError, outdated: Iterable[Path]) -> None:
        log.info("a directory is not kept: %s", problem.strerror)
        for path in outdated:
            path.unlink(missing_ok=True)
        self._used = None

    def _make_room(self, count: int) -> None:
        """Give up what was not written for the longest time. OSError when the disk has little space for others."""
        space = os.statvfs(self._directory)
        if space.f_bavail * space.f_frsize < LOW_SPACE + 2 * count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._used is not None and self._used + count <= self._limit:
            self._used += count
            return
        files = [(entry.stat().st_mtime, entry.stat().st_size, entry) for entry in self._directory.iterdir()]
        used = sum(size for _, size, _ in files) + count
        for _, size, path in sorted(files, key=lambda item: item[0]):
            if used <= self._limit:
                break
            path.unlink(missing_ok=True)
            used -= size
        self._used = used

    # --- finding ---------------------------------------------------------------------------------------

    def find(self, cap: bytes) -> Kept | None:
        """What was kept of the directory with read capability `cap`."""
        path = self._path(cap)
        try:
            record = self._sealer.open(path.read_bytes(), path.name.encode())
            seqnum, root_hash, size, seen, data = cbor2.loads(record)
            return Kept(Snapshot(Version(seqnum, root_hash, size), Packed.parse(data)), seen)
        except FileNotFoundError:
            return None
        except (OSError, JournalError, FormatError, ValueError) as problem:
            log.warning("a kept directory cannot be used: %s", problem)
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def _path(self, cap: bytes) -> Path:
        return self._directory / hashlib.blake2b(cap, key=self._names, digest_size=16).hexdigest()
