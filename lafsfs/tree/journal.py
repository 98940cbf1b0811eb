"""Durable objects and edges that are not on the grid yet (design.md section 3), one journal per mounted root.

States, not operations: an *object* row per inode that is new or changed, an *edge* row per (directory, name) that
differs from the grid, a *content* row for small unpublished contents, and *meta* rows beside them. A commit is one
sealed record of a log (record_log.py); memory knows for each row which record has its newest state. So a commit is one
write(), and what is made and removed again costs nothing more (contrib/doc/adr/journal-log.md).

A commit is in the operating system's hands when `commit` returns (it survives kill -9 of this process), and on the disk
when `sync` returns (syncing.py says when that is). Rows that still count are copied out of old segments now and then
(`tidy`), so that the log stays about as long as what it holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cbor2

from lafsfs.errors import JournalError, NoSpaceError
from lafsfs.tree import record_log
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.record_log import RecordLog, SyncPoint
from lafsfs.tree.reserve import Reserve
from lafsfs.tree.row_index import RowIndex
from lafsfs.tree.rows import (
    CONTENT,
    EDGE,
    GONE,
    META,
    OBJECT,
    EdgeRow,
    pack_edge,
    pack_object,
    row,
    rows_of,
    unpack_edge,
    unpack_object,
)
from lafsfs.tree.sealing import subkey

__all__ = ["Batch", "EdgeRow", "Journal"]

SLACK_BYTES = 8 << 20
"""So much of the log may be rows that do not count any more, and as much as those that do."""
SLACK_SEGMENTS = 8
_SLICE = 128  # records that one step of tidying looks at


class Batch:
    """Rows to change in one transaction. None deletes."""

    def __init__(self, meta: dict[str, object | None] | None = None) -> None:
        self.objects: dict[int, Sequence[Any] | None] = {}  # rows of inodes (Inode.row)
        self.contents: dict[int, bytes | None] = {}
        self.edges: dict[tuple[int, bytes], EdgeRow | None] = {}
        self.meta: dict[str, object | None] = {} if meta is None else meta


class Journal:
    """The journal of one root. Used from the trio thread only, but for `sync` and `starved`."""

    def __init__(self, directory: Path, key: bytes) -> None:
        """Open or create, with everything on the disk. JournalError if it cannot be opened."""
        if directory.with_suffix(".sqlite").exists():
            raise JournalError(
                "the local state is of an older version of lafsfs, which has to publish it first"
            )
        self._reserve = Reserve(directory.with_suffix(".reserve"))
        self._log = RecordLog(directory, subkey(key, b"journal"))
        self._index = RowIndex(self._log)
        self._tidying: Iterator[tuple[int, bytes]] | None = None
        self.dirty = True  # whether something was committed since `sync` began
        self.on_commit: Callable[[], None] = _nothing
        try:
            for reference, record in self._log.read_back():
                self._index.took(reference, record)
            crash_point("journal.open")
            self._reserve.take(self._index.count)
            self.sync(self.sync_point())
        except BaseException as problem:
            self._log.close()
            if isinstance(problem, OSError):
                raise JournalError(f"the journal cannot be opened: {problem.strerror}") from None
            raise
        self.broken = self._log.broken  # what could not be read back

    # --- reading back ------------------------------------------------------------------------------

    def objects(self) -> Iterator[tuple[int, object]]:
        """All object rows; None stands for one that cannot be read. To be read to the end before the next commit."""
        for ino, payload in self._index.payloads(OBJECT):
            try:
                yield ino, None if payload is None else unpack_object(payload)
            except ValueError:
                yield ino, None

    def edges(self) -> Iterator[tuple[int, EdgeRow | None]]:
        """All edge rows, as (directory, row); None stands for one that cannot be read. As `objects`."""
        for directory, payload in self._index.payloads(EDGE):
            yield directory, None if payload is None else unpack_edge(payload)

    def contents(self) -> Iterator[int]:
        """The inodes whose small contents are here."""
        return iter(list(self._index.contents))

    def has_content(self, ino: int) -> bool:
        """Whether there is a row for the content of an inode."""
        return ino in self._index.contents

    def content(self, ino: int) -> bytes:
        """The small content of one inode; JournalError if it is damaged or missing."""
        found = self._index.content(ino)
        if found is None:
            raise JournalError("unpublished content is damaged or missing in the local journal")
        return found

    def meta(self, name: str) -> object:
        """A value kept beside the tree, None if never set."""
        known = self._index.metas.get(name)
        return None if known is None else cbor2.loads(known[1])

    def metas(self, prefix: str) -> Iterator[tuple[str, object]]:
        """All values whose names begin with `prefix`."""
        for name, (_, value) in list(self._index.metas.items()):
            if name.startswith(prefix):
                yield name, cbor2.loads(value)

    # --- writing -------------------------------------------------------------------------------------

    def commit(self, batch: Batch, *, freeing: bool = False) -> None:
        """Make all changes of `batch`, or none: NoSpaceError, JournalError. Survives kill -9 on return.

        `freeing`: this commit leads to space being given back, so that it may use the reserve.
        """
        if not freeing and self.starved():
            raise NoSpaceError("the local disk is full")
        notes = {key: None if value is None else cbor2.dumps(value) for key, value in batch.meta.items()}
        record = self._record(batch, notes)
        if not record:
            return
        reference = self._append_freeing(record) if freeing else self._log.append(record)
        crash_point("journal.commit")
        self._remember(reference, batch, notes)
        self.dirty = True
        self.on_commit()

    def _append_freeing(self, record: bytes) -> int:
        try:
            return self._log.append(record)
        except NoSpaceError:
            with self._reserve.given_up():
                return self._log.append(record)

    def _remember(self, reference: int, batch: Batch, notes: dict[str, bytes | None]) -> None:
        index = self._index
        for ino, value in batch.objects.items():
            index.put_object(ino, None if value is None else reference)
        for ino, content in batch.contents.items():
            index.put_content(ino, None if content is None else reference, len(content or b""))
        for (directory, name), edge in batch.edges.items():
            index.put_edge(directory, name, None if edge is None else reference)
        for key, note in notes.items():
            index.put_meta(key, None if note is None else (reference, note))

    def _record(self, batch: Batch, notes: dict[str, bytes | None]) -> bytes:
        """The rows of a batch. What is deleted and is not there needs none."""
        index, rows = self._index, []
        for ino, value in batch.objects.items():
            if value is not None:
                rows.append(row(OBJECT, ino, pack_object(value)))
            elif ino in index.objects:
                rows.append(row(OBJECT | GONE, ino, b""))
        for ino, content in batch.contents.items():
            if content is not None:
                rows.append(row(CONTENT, ino, content))
            elif ino in index.contents:
                rows.append(row(CONTENT | GONE, ino, b""))
        for (directory, name), edge in batch.edges.items():
            if edge is not None:
                rows.append(row(EDGE, directory, pack_edge(edge)))
            elif name in index.edges.get(directory, ()):
                rows.append(row(EDGE | GONE, directory, name))
        for key, note in notes.items():
            label = key.encode()
            if note is not None:
                rows.append(row(META, len(label), label + note))
            elif key in index.metas:
                rows.append(row(META | GONE, len(label), label))
        return b"".join(rows)

    def starved(self) -> bool:
        """Whether the disk has no space for anything but publishing. In any thread."""
        return self._reserve.gone and self._reserve.missing(self._index.count)

    # --- the disk ------------------------------------------------------------------------------------

    def sync_point(self, batch: Batch | None = None) -> SyncPoint:
        """Commit `batch`, if the disk has room for it, and begin a sync: `sync` makes durable what is there now."""
        if batch is not None:
            # It only helps to notice damage, so it does not use the reserve.
            with contextlib.suppress(NoSpaceError):
                self.commit(batch)
        self.dirty = False
        return self._log.sync_point()

    def sync(self, point: SyncPoint) -> None:
        """Force every transaction up to `point` to the disk. OSError. Blocks: call it in a worker thread."""
        self._log.sync(point)
        self._reserve.take(self._index.count)

    @property
    def wasteful(self) -> bool:
        """Whether the log holds so much that does not count any more that it should be tidied."""
        if self._log.oldest is None:
            return False
        if self._log.oldest.live == 0 or self._tidying is not None:
            return True
        size, needed = self._log.size, self._index.estimate
        slack = needed // 4 + SLACK_BYTES // 32 if self._reserve.gone else needed + SLACK_BYTES
        return (
            size > needed + slack
            or len(self._log.segments) > SLACK_SEGMENTS + size // record_log.SEGMENT_BYTES
        )

    @property
    def shrinks(self) -> bool:
        """Whether it is about to give space back."""
        return self.wasteful or self._log.shrinks

    def tidy(self) -> None:
        """One step of making the log shorter: rows that count are written again, the oldest segment goes after the
        next sync. NoSpaceError, JournalError.
        """
        oldest = self._log.oldest
        if oldest is None:
            return
        if oldest.live:
            self._copy_slice()
        if not oldest.live:
            crash_point("journal.tidy")
            self._tidying = None
            self._log.doom_oldest()
            self.dirty = True

    def _copy_slice(self) -> None:
        oldest = self._log.oldest
        assert oldest is not None
        if self._tidying is None:
            self._tidying = self._log.records_of(oldest)
        kept: list[bytes] = []
        for count, (reference, record) in enumerate(self._tidying, 1):
            kept += [one.packed() for one in rows_of(record) if self._index.counts(one, reference)]
            if count == _SLICE:
                break
        else:
            self._tidying = None
        if kept:
            record = b"".join(kept)
            self._index.took(self._append_freeing(record), record)
            self.dirty = True
        if self._tidying is None and oldest.live:
            raise JournalError("a part of the journal cannot be read any more")

    def close(self) -> None:
        """Everything committed is on the disk on return."""
        try:
            self.sync(self.sync_point())
        finally:
            self._log.close()


def _nothing() -> None:
    """Nobody wants to know."""
