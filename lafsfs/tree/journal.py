"""Durable objects and edges that are not on the grid yet (design.md section 3): one SQLite file per mounted root.

States, not operations: an *object* row per inode that is new or changed, an *edge* row per (directory, name) that
differs from the grid, a *content* row for small unpublished contents. Payloads are sealed.
A transaction is in the operating system's hands when `commit` returns (it survives kill -9 of this process), and on
the disk when `sync` returns (syncing.py says when that is). WAL mode with `synchronous=NORMAL`: SQLite itself syncs
only at checkpoints, which run in a worker thread on a connection of their own.

Two small files beside it: `journal.mark` holds a number that the journal held when it was last synced, so that a log
of which the end was lost is noticed; `journal.reserve` is space that is given up when a full disk keeps the
publisher from writing down what it finished. Until it can be had again, nothing but the publisher may take space.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cbor2

from lafsfs.errors import JournalError, NoSpaceError
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.database import connect, open_database, translated
from lafsfs.tree.sealing import Sealer, subkey

CHECKPOINT_BYTES = 4 << 20
# A checkpoint may lengthen the database by as much as the log holds: with the reserve it can always be finished.
RESERVE_BYTES = 4 << 20
LOW_SPACE = 16 << 20  # with less than this, a log of LOW_LOG bytes is checkpointed at once
LOW_LOG = 1 << 20
LONG_LOG = 32 << 20  # a log that grows while it is checkpointed is ended at this size
HOLLOW_BYTES = 16 << 20  # so much empty space in a database with next to no rows is given back
_LOOK_EVERY = 16  # commits between two looks at the space
_GENERATION = "generation"


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
    """The journal of one root. Used from the trio thread only, but for `sync` and `checkpoint_if_large`."""

    def __init__(self, path: Path, key: bytes) -> None:
        """Open or create, with everything on the disk. NoSpaceError; JournalError if it cannot be opened."""
        self._path = path
        self._sealer = Sealer(subkey(key, b"journal"))
        # Rows are numbered as they come, so that neighbours in time are neighbours on disk.
        self._edge_ids: dict[tuple[int, bytes], int] = {}
        self._last_edge = 0
        self._mark_path = path.with_suffix(".mark")
        self._reserve_path = path.with_suffix(".reserve")
        self._commits = 0
        self._starved = False  # the disk is so full that the reserve is gone
        self._wal = -1
        self._mark = -1
        self.dirty = True  # whether something was committed since `sync` began
        self.on_commit: Callable[[], None] = _nothing
        try:
            self._db, self.broken = open_database(path)  # broken: what could not be read back
        except NoSpaceError:
            self._reserve_path.unlink(missing_ok=True)
            self._db, self.broken = open_database(path)
        crash_point("journal.open")
        self._generation = self._check_generation()
        self._keep_reserve()
        self.sync()
        _sync_directory(path.parent)

    def _check_generation(self) -> int:
        """The number of the last sync; a journal that is older than its mark has lost its end."""
        held = self.meta(_GENERATION)
        generation = held if isinstance(held, int) else 0
        try:
            plain = self._sealer.open(self._mark_path.read_bytes(), b"mark")
        except (OSError, JournalError):
            return generation  # none yet, or torn: it was being written when the power failed
        marked = int.from_bytes(plain, "big")
        if marked > generation:
            self.broken.append(f"the end of the journal: its last {marked - generation} syncs are missing")
        return max(generation, marked)

    # --- reading back ------------------------------------------------------------------------------

    def objects(self) -> Iterator[tuple[int, object]]:
        """All object rows; None stands for one that cannot be read."""
        for ino, payload in self._db.execute("select ino, payload from object"):
            plain = self._open(payload, _context(b"o", ino))
            yield ino, None if plain is None else cbor2.loads(plain)

    def edges(self) -> Iterator[tuple[int, EdgeRow | None]]:
        """All edge rows, as (directory, row); (0, None) stands for one that cannot be read.

        To be read to the end before the first commit.
        """
        for number, payload in self._db.execute("select id, payload from edge order by id"):
            plain = self._open(payload, _context(b"e", number))
            self._last_edge = number
            if plain is None:
                yield 0, None
                continue
            directory, *row = cbor2.loads(plain)
            edge = EdgeRow(*row)
            self._edge_ids[directory, edge.name] = number
            yield directory, edge

    def damaged_contents(self) -> Iterator[int]:
        """The inodes whose small contents cannot be read."""
        for ino, payload in self._db.execute("select ino, payload from content"):
            if self._open(payload, _context(b"c", ino)) is None:
                yield ino

    def has_content(self, ino: int) -> bool:
        """Whether there is a row for the content of an inode."""
        return self._db.execute("select 1 from content where ino = ?", (ino,)).fetchone() is not None

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
        return self._value(name, row[0])

    def metas(self, prefix: str) -> Iterator[tuple[str, object]]:
        """All values whose names begin with `prefix`."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        for name, payload in self._db.execute(
            "select * from meta where name >= ? and name < ?", (prefix, end)
        ):
            yield name, self._value(name, payload)

    def _value(self, name: str, payload: bytes) -> object:
        plain = self._open(payload, b"m" + name.encode())
        if plain is None:
            self.broken.append(f"a note of the publisher ({name.partition(':')[0]})")
            return None
        return cbor2.loads(plain)

    def _open(self, sealed: bytes, context: bytes) -> bytes | None:
        try:
            return self._sealer.open(sealed, context)
        except JournalError:
            return None

    # --- writing -------------------------------------------------------------------------------------

    def commit(self, batch: Batch, *, freeing: bool = False) -> None:
        """Make all changes of `batch`, or none: NoSpaceError, JournalError. Survives kill -9 on return.

        `freeing`: this commit leads to space being given back, so that it may use the reserve.
        """
        try:
            if self._starved and not freeing:
                raise NoSpaceError("the local disk is full")
            self._commit(batch)
        except NoSpaceError:
            self._make_room(freeing)
            self._commit(batch)
        crash_point("journal.commit")
        self._commits += 1
        if self._commits % _LOOK_EVERY == 0:
            self._mind_space()
        self.dirty = True
        self.on_commit()

    def _commit(self, batch: Batch) -> None:
        db = self._db
        new_edges: dict[tuple[int, bytes], int] = {}
        try:
            db.execute("begin immediate")
            try:
                crash_point("journal.begin")
                self._write(batch, new_edges)
                crash_point("journal.write")
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
        except sqlite3.Error as problem:
            raise translated(problem) from None
        self._edge_ids.update(new_edges)
        for key, edge in batch.edges.items():
            if edge is None:
                self._edge_ids.pop(key, None)

    def _mind_space(self) -> None:
        """Keep the log short while there is little space: it could not be moved into the database later."""
        space = os.statvfs(self._path.parent)
        if space.f_bavail * space.f_frsize < LOW_SPACE and os.stat(f"{self._path}-wal").st_size > LOW_LOG:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("pragma wal_checkpoint(truncate)")

    def _make_room(self, freeing: bool) -> None:
        """The disk is full: a checkpointed log takes less. That may need the reserve for a moment. NoSpaceError."""
        self._reserve_path.unlink(missing_ok=True)
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("pragma wal_checkpoint(truncate)")
            self._shrink(LOW_LOG)
        if not freeing and not self._keep_reserve():
            raise NoSpaceError("the local disk is full")

    def starved(self) -> bool:
        """Whether the disk has no space for anything but publishing. In any thread."""
        return self._starved and not self._keep_reserve()

    def _keep_reserve(self) -> bool:
        """Take the reserve (again); False if the disk has not so much."""
        try:
            number = os.open(self._reserve_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(number).st_blocks * 512 < RESERVE_BYTES:
                    os.posix_fallocate(number, 0, RESERVE_BYTES)
            finally:
                os.close(number)
            self._starved = False
        except OSError:
            self._reserve_path.unlink(missing_ok=True)
            self._starved = True
        return not self._starved

    def _write(self, batch: Batch, new_edges: dict[tuple[int, bytes], int]) -> None:
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
            number = self._edge_ids.get((directory, name))
            if edge is not None:
                if number is None:
                    number = self._last_edge = self._last_edge + 1
                    new_edges[directory, name] = number
                sealed = seal(cbor2.dumps((directory, *edge)), _context(b"e", number))
                db.execute("insert or replace into edge values (?, ?)", (number, sealed))
            elif number is not None:
                db.execute("delete from edge where id = ?", (number,))
        for key, value in batch.meta.items():
            if value is None:
                db.execute("delete from meta where name = ?", (key,))
            else:
                sealed = seal(cbor2.dumps(value), b"m" + key.encode())
                db.execute("insert or replace into meta values (?, ?)", (key, sealed))

    # --- the disk ------------------------------------------------------------------------------------

    def count_sync(self, batch: Batch) -> int:
        """Commit `batch` with the number of the sync that is about to begin; that number, for `sync`."""
        batch.meta[_GENERATION] = self._generation + 1
        with contextlib.suppress(NoSpaceError):  # then this sync goes without a number
            self.commit(batch)
            self._generation += 1
        self.dirty = False
        return self._generation

    def sync(self, generation: int | None = None) -> None:
        """Force every committed transaction to the disk. OSError. Blocks: call it in a worker thread."""
        if self._wal < 0:
            self._wal = os.open(f"{self._path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fdatasync(self._wal)
        crash_point("journal.sync")
        if generation is not None:
            self._write_mark(generation)
            crash_point("journal.mark")

    def _write_mark(self, generation: int) -> None:
        if self._mark < 0:
            self._mark = os.open(self._mark_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with contextlib.suppress(OSError):  # the mark only helps to notice damage
            os.pwrite(self._mark, self._sealer.seal(generation.to_bytes(8, "big"), b"mark"), 0)

    def checkpoint_if_large(self) -> None:
        """Move a long write-ahead log into the database (blocks: call it in a worker thread)."""
        try:
            if os.stat(f"{self._path}-wal").st_size > CHECKPOINT_BYTES:
                with contextlib.closing(connect(self._path)) as own:
                    own.execute("pragma wal_checkpoint(passive)")
                crash_point("journal.checkpoint")
        except (OSError, sqlite3.Error) as problem:
            raise translated(problem) from None

    def tidy(self) -> None:
        """What `checkpoint_if_large` must leave to the loop's thread: end a log that grew meanwhile, take the reserve
        again, give back the space of a database that was emptied.
        """
        with contextlib.suppress(sqlite3.Error, FileNotFoundError):  # a full disk: later
            if os.stat(f"{self._path}-wal").st_size > LONG_LOG:
                self._db.execute("pragma wal_checkpoint(truncate)")
            self._keep_reserve()
            self._shrink(HOLLOW_BYTES)

    def _shrink(self, least: int) -> None:
        """Give back the space of a database that has next to no rows, if it is at least so much. sqlite3.Error."""
        size, pages, free = (
            self._db.execute(f"pragma {name}").fetchone()[0]
            for name in ("page_size", "page_count", "freelist_count")
        )
        if free * size > least and (pages - free) * size < HOLLOW_BYTES // 16:
            self._db.execute("vacuum")
            self._db.execute("pragma wal_checkpoint(truncate)")

    def close(self) -> None:
        """Everything committed is on the disk on return."""
        try:
            self.sync()
        finally:
            self._db.close()
            for number in (self._wal, self._mark):
                if number >= 0:
                    os.close(number)
            self._wal = self._mark = -1


def _nothing() -> None:
    """Nobody wants to know."""


def _sync_directory(path: Path) -> None:
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _context(kind: bytes, ino: int) -> bytes:
    return kind + ino.to_bytes(8, "big")
