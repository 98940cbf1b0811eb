"""The SQLite file below the journal: opening it, settings, and saving what can be read of a damaged one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lafsfs.errors import JournalError, NoSpaceError

# table -> the column that orders it
KEYS = {"meta": "name", "object": "ino", "content": "ino", "edge": "id"}
_SCHEMA = """
create table if not exists meta (name text primary key, payload blob) without rowid;
create table if not exists object (ino integer primary key, payload blob not null);
create table if not exists content (ino integer primary key, payload blob not null);
create table if not exists edge (id integer primary key, payload blob not null);
"""
_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
_WAL_KEPT = 4 << 20


def connect(path: Path) -> sqlite3.Connection:
    """A connection as the journal wants it: SQLite itself syncs only at checkpoints, which nobody else starts."""
    db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = normal")
    db.execute("pragma wal_autocheckpoint = 0")
    db.execute(f"pragma journal_size_limit = {_WAL_KEPT}")
    db.execute("pragma temp_store = memory")
    return db


def open_database(path: Path) -> tuple[sqlite3.Connection, list[str]]:
    """The database at `path`, made if there is none, and what was found damaged in it.

    A damaged file is kept beside the new one, which holds all rows that could be read. NoSpaceError, JournalError.
    """
    try:
        db = _sound(path)
        if db is None:
            return _rebuilt(path)
    except sqlite3.Error as problem:
        raise translated(problem) from None
    except OSError as problem:
        raise JournalError(f"the journal cannot be opened: {problem.strerror}") from None
    _make_private(path)
    return db, []


def _sound(path: Path) -> sqlite3.Connection | None:
    """The database if SQLite finds its own structures intact. A locked or full disk: sqlite3.Error."""
    db = None
    try:
        db = connect(path)
        db.executescript(_SCHEMA)
        if [row[0] for row in db.execute("pragma quick_check(1)")] == ["ok"]:
            return db
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        pass
    if db is not None:
        db.close()
    return None


def _make_private(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.chmod(f"{path}{suffix}", 0o600)


def _rebuilt(path: Path) -> tuple[sqlite3.Connection, list[str]]:
    """Copy every readable row into a fresh file and put the damaged one aside."""
    fresh_path = path.with_name(f"{path.name}.rebuilt")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{fresh_path}{suffix}").unlink(missing_ok=True)
    fresh = connect(fresh_path)
    fresh.executescript(_SCHEMA)
    count = 0
    fresh.execute("begin immediate")
    for table in KEYS:
        for row in _readable_rows(path, table):
            marks = ",".join("?" * len(row))
            fresh.execute(f"insert or replace into {table} values ({marks})", row)
            count += 1
    fresh.execute("commit")
    fresh.close()
    _aside(path)
    os.rename(fresh_path, path)
    _make_private(path)
    return connect(path), [f"the journal file itself: {count} rows of it could be read"]


def _aside(path: Path) -> None:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", path.with_name(f"damaged-{stamp}-{path.name}{suffix}"))


def _readable_rows(path: Path, table: str) -> Iterator[tuple[Any, ...]]:
    """Rows from both ends of a table, up to the damage."""
    for order in ("asc", "desc"):
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(_reader(path)) as db:
            yield from db.execute(f"select * from {table} order by {KEYS[table]} {order}")


def _reader(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    db.execute("pragma cell_size_check = on")
    return db


def translated(problem: Exception) -> JournalError | NoSpaceError:
    """What a failure of SQLite or of the disk is for the callers of the journal."""
    if getattr(problem, "sqlite_errorname", "") in _FULL:
        return NoSpaceError("the local disk is full")
    return JournalError(f"the journal failed: {problem}")
