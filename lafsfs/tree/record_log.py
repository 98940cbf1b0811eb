"""An append-only log of sealed records, in numbered files (segment.py), below the journal.

Records are only ever appended, and segments only removed from the oldest end, so what is read back is a prefix of what
was written:

* an unreadable record that the disk need not have had yet is where the log ends: what follows was not synced either;
* an unreadable record that was synced is damage: it is told, and reading goes on with the next readable one.

The mark, a small file beside the segments, tells how far the log was synced when it was last synced. A record is in
the operating system's hands when `append` returns (it survives kill -9), and on the disk when `sync` of a later
`sync_point` returns.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from lafsfs.config.files import sync_directory
from lafsfs.errors import JournalError, NoSpaceError
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.sealing import Sealer, subkey
from lafsfs.tree.segment import FULL, Segment

SEGMENT_BYTES = 1 << 20  # a segment that is longer is followed by another,
_PARTS = 32  # unless it is a smaller part of a long log than this
_MARK = struct.Struct(">QQQ")
POSITION_BITS = 40  # a reference is number << 40 | position
_POSITION = (1 << POSITION_BITS) - 1


class Mark(NamedTuple):
    """What was on the disk after a sync: numbers of the oldest and the newest segment, bytes of the newest."""

    oldest: int
    newest: int
    length: int


class SyncPoint(NamedTuple):
    """What was in the log at one moment: what a `sync` makes durable, and removes after that."""

    segments: list[tuple[Segment, int]]
    doomed: list[Segment]
    mark: Mark | None

    @property
    def size(self) -> int:
        """Bytes that were written since the sync before."""
        return sum(length - segment.synced for segment, length in self.segments)


class RecordLog:
    """The log in one directory. Used from one thread, but for `sync`, which may run in another.

    Its owner first takes all records from `read_back`. `broken` lists damage, in words. What is written goes to
    segments of its own, so that a log of which nothing is to be changed needs no space to be opened.
    """

    def __init__(self, directory: Path, key: bytes) -> None:
        """Open, or make an empty one. JournalError."""
        self._directory = directory
        self._key = key
        self._mark_path = directory / "mark"
        self._mark_sealer = Sealer(subkey(key, b"mark"))
        self._mark_fd = -1
        self._tip: Segment | None = None  # the segment that is being written
        self._doomed: list[Segment] = []
        self._names_synced = False
        self.broken: list[str] = []
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            numbers = sorted(int(path.stem, 16) for path in directory.glob("????????.seg"))
            self.segments = {number: Segment(self._path(number), number, key) for number in numbers}
            if not numbers and self._marked() is None:
                self._write_mark(Mark(1, 0, 0), durable=True)
                sync_directory(directory)
                sync_directory(directory.parent)
        except OSError as problem:
            raise JournalError(f"the journal cannot be opened: {problem.strerror}") from None

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:08x}.seg"

    # --- reading back ----------------------------------------------------------------------------------

    def read_back(self) -> Iterator[tuple[int, bytes]]:
        """All readable records, oldest first, with the references by which `read` finds them again.

        What was not synced and comes after an unreadable record is given up. To be read to its end.
        """
        mark = self._marked()
        if mark is not None:  # they were doomed, and power failed before all of them were gone
            self._give_up([number for number in self.segments if number < mark.oldest])
        numbers = list(self.segments)
        expected = mark.oldest if mark is not None else numbers[0] if numbers else 1
        for index, number in enumerate(numbers):
            if number > expected and mark is not None and expected > mark.newest:
                self._give_up(numbers[index:])  # power failed before the disk had what comes before
                break
            if number > expected:
                self.broken.append("a part of it is missing")
            expected = number + 1
            segment, last = self.segments[number], number == numbers[-1]
            end = segment.length if last else self._end_of(segment)
            torn = yield from self._read_segment(segment, end, _synced(segment, end, mark, last))
            if torn and mark is not None and (not last or not segment.length):
                # What was written later cannot stand without what is missing here.
                self._give_up(numbers[index + bool(segment.length) :])
                break
        tip = next(reversed(self.segments.values()), None)
        if mark is not None and (tip.number if tip else 0, tip.length if tip else 0) < mark[1:]:
            self.broken.append("its end is missing")

    def _end_of(self, segment: Segment) -> int:
        """Where a segment ended when the next one was begun."""
        following = self.segments.get(segment.number + 1)
        before = following.before() if following is not None else None
        return segment.length if before is None else before

    def _marked(self) -> Mark | None:
        """The mark of the last sync, None if that is not known."""
        try:
            return Mark(*_MARK.unpack(self._mark_sealer.open(self._mark_path.read_bytes(), b"mark")))
        except (OSError, JournalError):
            return None

    def _read_segment(
        self, segment: Segment, end: int, synced: int
    ) -> Generator[tuple[int, bytes], None, bool]:
        """The records of a segment as it was found; its `length` is where they end, then. Whether that is too early."""
        good = 0
        for position, plain, after in segment.scan(end, synced):
            if plain is None:
                segment.damaged = True
                self.broken.append(
                    f"{after - position} bytes of it cannot be read: what they changed is lost, or older than it was"
                )
            elif position:
                yield segment.number << POSITION_BITS | position, plain
            good = after
        segment.length = min(good, segment.length)
        segment.synced = min(synced, segment.length)
        return good < end

    def _give_up(self, numbers: list[int]) -> None:
        for number in numbers:
            segment = self.segments.pop(number)
            segment.path.unlink()
            segment.close()
        if numbers:
            sync_directory(self._directory)

    # --- writing ---------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes in all segments."""
        return sum(segment.length for segment in self.segments.values())

    def append(self, plain: bytes) -> int:
        """The reference of a new record. NoSpaceError, JournalError: then all is as it was."""
        segment = self._tip
        if segment is None:
            segment = self._begin()
        elif segment.length > SEGMENT_BYTES and segment.length * _PARTS > self.size:
            with contextlib.suppress(NoSpaceError):  # then this one gets longer
                segment = self._begin()
        return segment.number << POSITION_BITS | segment.append(plain)

    def _begin(self) -> Segment:
        """A segment for what will be written from now on. NoSpaceError, JournalError."""
        before = next(reversed(self.segments.values()), None)
        mark = self._marked() if before is None else None
        number = 1 + (before.number if before else mark.newest if mark else 0)
        try:
            segment = Segment(self._path(number), number, self._key, ending=before.length if before else 0)
        except OSError as problem:
            if problem.errno in FULL:
                raise NoSpaceError("the local disk is full") from None
            raise JournalError(f"the journal failed: {problem.strerror}") from None
        self.segments[number] = self._tip = segment
        self._names_synced = False
        crash_point("journal.segment")
        return segment

    # --- reading ---------------------------------------------------------------------------------------

    def read(self, reference: int) -> bytes:
        """The record at `reference`; JournalError if the disk gives back something else than was written."""
        return self.segment_of(reference).record(reference & _POSITION)[0]

    def segment_of(self, reference: int) -> Segment:
        """The segment that holds a record."""
        return self.segments[reference >> POSITION_BITS]

    def records_of(self, segment: Segment) -> Iterator[tuple[int, bytes]]:
        """The readable records of a segment."""
        for position, plain, _ in segment.scan(segment.length, segment.length):
            if plain is not None and position:
                yield segment.number << POSITION_BITS | position, plain

    # --- the disk --------------------------------------------------------------------------------------

    @property
    def oldest(self) -> Segment | None:
        """The segment that can be removed next; None if there is none but the one being written."""
        segment = next(iter(self.segments.values()), None)
        return None if segment is self._tip else segment

    @property
    def shrinks(self) -> bool:
        """Whether segments go with the next sync."""
        return bool(self._doomed)

    def doom_oldest(self) -> None:
        """Nothing in the oldest segment counts any more: it goes with the next sync."""
        segment = self.oldest
        if segment is not None:
            del self.segments[segment.number]
            self._doomed.append(segment)

    def sync_point(self) -> SyncPoint:
        """What is there now."""
        segments = list(self.segments.values())
        if not segments:
            return SyncPoint([], [], None)
        unsynced = [(one, one.length) for one in segments if one.length > one.synced]
        mark = Mark(segments[0].number, segments[-1].number, segments[-1].length)
        return SyncPoint(unsynced, list(self._doomed), mark)

    def sync(self, point: SyncPoint) -> None:
        """All records up to `point` are on the disk on return, in their order. OSError. Blocks."""
        for segment, length in point.segments:
            segment.force(length)
            if not self._names_synced:
                self._names_synced = True
                sync_directory(self._directory)
            segment.synced = max(segment.synced, length)
        crash_point("journal.sync")
        if point.mark is not None:
            self._write_mark(point.mark, durable=bool(point.doomed))
        crash_point("journal.mark")
        for segment in point.doomed:
            crash_point("journal.remove")
            self._remove(segment)
        if point.doomed:
            sync_directory(self._directory)

    def _write_mark(self, mark: Mark, *, durable: bool) -> None:
        if self._mark_fd < 0:
            self._mark_fd = os.open(self._mark_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(self._mark_fd, self._mark_sealer.seal(_MARK.pack(*mark), b"mark"), 0)
        except OSError as problem:
            if durable or problem.errno not in FULL:  # otherwise it only helps to notice damage
                raise
        if durable:
            os.fdatasync(self._mark_fd)

    def _remove(self, segment: Segment) -> None:
        """Delete a segment; one with damage in it is kept under another name."""
        if segment.damaged:
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            segment.path.rename(segment.path.with_name(f"damaged-{stamp}-{segment.path.name}"))
        else:
            segment.path.unlink(missing_ok=True)
        segment.close()
        self._doomed.remove(segment)

    def close(self) -> None:
        """Close all files; sync before."""
        for segment in [*self.segments.values(), *self._doomed]:
            segment.close()
        if self._mark_fd >= 0:
            os.close(self._mark_fd)
        self.segments, self._doomed, self._mark_fd = {}, [], -1


def _synced(segment: Segment, end: int, mark: Mark | None, last: bool) -> int:
    """How much of a segment the disk must have. Without a mark: all of it, but for a torn end."""
    if mark is None:
        if not last:
            return end
        readable = (after for _, plain, after in segment.scan(end, end) if plain is not None)
        return max(readable, default=0)
    return end if segment.number < mark.newest else mark.length if segment.number == mark.newest else 0
