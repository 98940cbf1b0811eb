"""Durable objects and edges that are not on the grid yet (design.md section 3): one SQLite file per mounted root.

States, not operations: an *object* row per inode that is new or changed, an *edge* row per (directory, name) that
differs from the grid, a *content* row for small unpublished contents. Payloads are sealed; names are keyed hashes.
A transaction is in the operating system's hands when `commit` returns (it survives kill -9 of this process), and on
the disk within a second (`sync_loop`) or when `sync` returns. WAL mode with `synchronous=NORMAL`: SQLite itself syncs
only at checkpoints, which run in a worker thread on a connection of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cbor2
import trio

from lafsfs.errors import JournalError, NoSpaceError
from lafsfs.tree.sealing import Sealer, subkey

SYNC_EVERY = 0.5  # seconds between commit and the disk, at most about twice this
CHECKPOINT_BYTES = 16 << 20

_SCHEMA = """
create table if not exists meta (name text primary key, payload blob) without rowid;
create table if not exists object (ino integer primary key, payload blob not null);
create table if not exists content (ino integer primary key, payload blob not null);
create table if not exists edge (dir integer, tag blob, payload blob not null, primary key (dir, tag)) without rowid;
"""


class EdgeRow(NamedTuple):
    """One name that differs from the grid. `ino` None: removed. `base`: digest of the grid's entry that this change
    was made against, None if there was none. `base_ino`: the inode that entry stood for."""

    name: bytes
    ino: int | None
    base: bytes | None
    base_ino: int | None


class Batch:
    """Rows to change in one transaction."""

    def __init__(self) -> None:
        self.objects: dict[int, object | None] = {}  # ino -> CBOR value, None deletes
        self.contents: dict[int, bytes | None] = {}
        self.edges: dict[tuple[int, bytes], EdgeRow | None] = {}
        self.meta: dict[str, object | None] = {}


class Journal:
    """The journal of one root. Used from the trio thread only, but for `sync`."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Open or create; JournalError if the file is no journal of this key."""
        self._path = path
        self._sealer = Sealer(subkey(key, b"journal"))
        self._name_key = subkey(key, b"names")
        self._wal = -1
        self._dirty = trio.Event()
        self.broken: list[str] = []  # rows that could not be read back, by kind and number
        try:
            self._db = _connect(path)
            self._db.executescript(_SCHEMA)
        except sqlite3.OperationalError as problem:
            raise _translated(problem) from None
        except sqlite3.DatabaseError:
            raise JournalError(f"{path} is not a readable journal") from None
        os.chmod(path, 0o600)

    # --- reading back ------------------------------------------------------------------------------

    def objects(self) -> Iterator[tuple[int, object]]:
        """All object rows. Unreadable ones are left out and listed in `broken`."""
        for ino, payload in self._db.execute("select ino, payload from object"):
            plain = self._open(payload, _context(b"o", ino), f"object {ino}")
            if plain is not None:
                yield ino, cbor2.loads(plain)

    def edges(self) -> Iterator[tuple[int, EdgeRow]]:
        """All edge rows, as (directory, row)."""
        for directory, tag, payload in self._db.execute("select dir, tag, payload from edge"):
            plain = self._open(payload, _context(b"e", directory) + tag, f"an entry of directory {directory}")
            if plain is not None:
                yield directory, EdgeRow(*cbor2.loads(plain))

    def content(self, ino: int) -> bytes:
        """The small content of one inode; JournalError if it is damaged or missing."""
        row = self._db.execute("select payload from content where ino = ?", (ino,)).fetchone()
        if row is None:
            raise JournalError("unpublished content is missing from the journal")
        return self._sealer.open(row[0], _context(b"c", ino))

    def meta(self, name: str) -> object:
        """A value kept beside the tree, None if never set."""
        row = self._db.execute("select payload from meta where name = ?", (name,)).fetchone()
        if row is None:
            return None
        plain = self._open(row[0], b"m" + name.encode(), name)
        return None if plain is None else cbor2.loads(plain)

    def _open(self, sealed: bytes, context: bytes, what: str) -> bytes | None:
        try:
            return self._sealer.open(sealed, context)
        except JournalError:
            self.broken.append(what)
            return None

    # --- writing -------------------------------------------------------------------------------------

    def commit(self, batch: Batch) -> None:
        """Make all changes of `batch`, or none: NoSpaceError, JournalError. Survives kill -9 on return."""
        db = self._db
        try:
            db.execute("begin immediate")
            try:
                self._write(batch)
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
        except sqlite3.Error as problem:
            raise _translated(problem) from None
        self._dirty.set()

    def _write(self, batch: Batch) -> None:
        db, seal = self._db, self._sealer.seal
        for ino, value in batch.objects.items():
            if value is None:
                db.execute("delete from object where ino = ?", (ino,))
            else:
                sealed = seal(cbor2.dumps(value), _context(b"o", ino))
                db.execute("insert or replace into object values (?, ?)", (ino, sealed))
        for ino, content in batch.contents.items():
            if content is None:
                db.execute("delete from content where ino = ?", (ino,))
            else:
                db.execute(
                    "insert or replace into content values (?, ?)", (ino, seal(content, _context(b"c", ino)))
                )
        for (directory, name), edge in batch.edges.items():
            tag = self._tag(directory, name)
            if edge is None:
                db.execute("delete from edge where dir = ? and tag = ?", (directory, tag))
            else:
                sealed = seal(cbor2.dumps(tuple(edge)), _context(b"e", directory) + tag)
                db.execute("insert or replace into edge values (?, ?, ?)", (directory, tag, sealed))
        for key, value in batch.meta.items():
            if value is None:
                db.execute("delete from meta where name = ?", (key,))
            else:
                sealed = seal(cbor2.dumps(value), b"m" + key.encode())
                db.execute("insert or replace into meta values (?, ?)", (key, sealed))

    def _tag(self, directory: int, name: bytes) -> bytes:
        keyed = hashlib.blake2b(name, key=self._name_key, salt=directory.to_bytes(8, "big"), digest_size=16)
        return keyed.digest()

    # --- the disk ------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Force every committed transaction to the disk (blocks: call it in a worker thread)."""
        if self._wal < 0:
            self._wal = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CLOEXEC)
        os.fdatasync(self._wal)

    def checkpoint_if_large(self) -> None:
        """Move a long write-ahead log into the database (blocks: call it in a worker thread)."""
        try:
            if os.stat(f"{self._path}-wal").st_size > CHECKPOINT_BYTES:
                with contextlib.closing(_connect(self._path)) as own:
                    own.execute("pragma wal_checkpoint(passive)")
        except (OSError, sqlite3.Error) as problem:
            raise _translated(problem) from None

    async def sync_loop(self) -> None:
        """Keep the promise "on the disk within a second"; runs until cancelled."""
        while True:
            await self._dirty.wait()
            self._dirty = trio.Event()
            await trio.to_thread.run_sync(self.sync)
            await trio.to_thread.run_sync(self.checkpoint_if_large)
            await trio.sleep(SYNC_EVERY)

    def close(self) -> None:
        """Everything committed is on the disk on return."""
        self.sync()
        self._db.close()
        if self._wal >= 0:
            os.close(self._wal)
            self._wal = -1


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = normal")
    db.execute("pragma wal_autocheckpoint = 0")
    db.execute("pragma temp_store = memory")
    return db


def _context(kind: bytes, ino: int) -> bytes:
    return kind + ino.to_bytes(8, "big")


def _translated(problem: Exception) -> JournalError | NoSpaceError:
    if "full" in str(problem) or "disk I/O" in str(problem):
        return NoSpaceError("the local disk is full")
    return JournalError(f"the journal failed: {problem}")
