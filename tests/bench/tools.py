"""What is measured with other people's programs: tar, find, git, rm, SQLite."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import tarfile
from pathlib import Path

from tests.bench.running import Run, check

_GIT = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*", "-c", "gc.auto=0"]
_LONG = 900.0


def _tool(*command: str | Path, cwd: Path) -> bytes:
    done = subprocess.run(command, cwd=cwd, capture_output=True, timeout=_LONG, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[-300:].decode(errors='replace')}")
    return done.stdout


def _digests(archive: Path) -> dict[str, bytes]:
    """SHA-256 of every regular file of a tar archive."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isreg() and (content := tar.extractfile(member)) is not None:
                found[member.name] = hashlib.sha256(content.read()).digest()
    return found


def source_tree(run: Run) -> None:
    """A source tree: unpacked, searched, under git, removed."""
    archive, top = run.sizes.tree, run.directory / "tree"
    assert archive is not None
    digests = _digests(archive)
    count = len(digests)
    top.mkdir()
    with run.timed("tar x", "files", count):
        _tool("tar", "xf", archive, "-C", top, "--no-same-owner", cwd=top)
    if run.cold():
        with run.timed("read a tree, cold", "files", count):
            _compare(top, digests)
    _compare(top, digests)
    with run.timed("find", "files", count):
        check(_tool("find", top, "-type", "f", "-printf", ".", cwd=top).count(b".") == count, "find")
    with run.timed("git add", "files", count):
        _tool(*_GIT, "init", "-q", cwd=top)
        _tool(*_GIT, "add", "-A", cwd=top)
    with run.timed("git commit", "files", count):
        _tool(*_GIT, "commit", "-qm", "all", cwd=top)
    with run.timed("git status", "files", count):
        check(_tool(*_GIT, "status", "--porcelain", cwd=top) == b"", "git status")
    with run.timed("rm -r", "files", count):
        _tool("rm", "-rf", top, cwd=run.directory)
    check(not top.exists(), "rm -r")


def _compare(top: Path, digests: dict[str, bytes]) -> None:
    for name, digest in digests.items():
        check(hashlib.sha256((top / name).read_bytes()).digest() == digest, name)


def sqlite(run: Run) -> None:
    """Transactions of one small row."""
    for mode in ("delete", "wal"):
        path = run.directory / f"{mode}.db"
        with sqlite3.connect(path, isolation_level=None) as database:
            if database.execute(f"PRAGMA journal_mode={mode}").fetchone()[0] != mode:
                continue
            database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")

            def transaction(number: int, database: sqlite3.Connection = database) -> None:
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT INTO t VALUES (?, ?)", (number, os.urandom(200)))
                database.execute("COMMIT")

            done = run.each(f"sqlite, {mode}", "ops", range(run.sizes.operations // 2), transaction)
        database.close()
        with sqlite3.connect(path) as database:
            check(database.execute("PRAGMA integrity_check").fetchone()[0] == "ok", "integrity_check")
            check(database.execute("SELECT count(*) FROM t").fetchone()[0] == done, "rows")
        database.close()
