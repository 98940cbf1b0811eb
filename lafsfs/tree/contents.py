"""Reading content that is not on the grid yet, for readers and for uploads."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from lafsfs.errors import NotEnoughSharesError, UncoordinatedWriteError
from lafsfs.nodes.maker import FileNode
from lafsfs.nodes.mutable import MutableFile
from lafsfs.tree.extents import Piece
from lafsfs.tree.staging import AT_HAND, StagedFile, StagedSnapshot
from lafsfs.tree.torn import readable

_SMALL = 64 * 1024  # up to this, a single record is not copied
_FEW = 64  # records that may be read in the loop, and 4 MiB therefore; the kernel wants a megabyte at most


async def read_staged(
    staged: StagedFile | StagedSnapshot, base: FileNode | None, start: int, end: int, *, at_once: bool = True
) -> bytes | bytearray:
    """Bytes [start, end) of staged content; what the log does not hold comes from `base`, or is zero. `at_once`: what
    the system has of it in memory is read in the loop.
    """
    log = staged if isinstance(staged, StagedFile) else staged.staged
    pieces = staged.extents.cover(start, end)
    log.pin()
    try:
        return await _read_pieces(log, pieces, base, staged.base_limit, start, end, at_once=at_once)
    finally:
        log.unpin()


async def _read_pieces(
    log: StagedFile,
    pieces: list[Piece],
    base: FileNode | None,
    base_limit: int,
    start: int,
    end: int,
    *,
    at_once: bool,
) -> bytes | bytearray:
    if len(pieces) == 1 and pieces[0].record is not None and end - start < _SMALL:
        record, skip = await _read_record(log, pieces[0].record), pieces[0].skip
        return record if len(record) == end - start else record[skip : skip + end - start]
    out = bytearray(end - start)
    parts = _parts(pieces, memoryview(out), start)
    await _fill(log, parts, at_once=at_once)
    for piece, part in parts:
        if piece.record is None and base is not None and piece.start < base_limit:
            got = await read_node(base, piece.start, min(piece.end, base_limit) - piece.start)
            part[: len(got)] = got
    return out


def _parts(pieces: list[Piece], buf: memoryview, start: int) -> list[tuple[Piece, memoryview]]:
    """Each piece with its place in `buf`, which begins at `start` of the file."""
    return [(piece, buf[piece.start - start : piece.end - start]) for piece in pieces]


async def _read_record(log: StagedFile, reference: int) -> bytes:
    try:
        return log.read_record(reference, AT_HAND)
    except OSError:
        return await trio.to_thread.run_sync(log.read_record, reference)


async def _fill(log: StagedFile, parts: list[tuple[Piece, memoryview]], *, at_once: bool) -> None:
    """Fill the parts that are in the log: if `at_once`, those at hand; the rest in one visit to a worker thread."""
    logged = [(piece, part) for piece, part in parts if piece.record is not None]
    at_hand = 0
    if at_once and len(logged) <= _FEW:
        with suppress(OSError):
            for piece in logged:
                _read_records(log, [piece], AT_HAND)
                at_hand += 1
    if at_hand < len(logged):
        await trio.to_thread.run_sync(_read_records, log, logged[at_hand:])


async def read_node(node: FileNode, offset: int, size: int) -> bytes:
    """Read what is on the grid. Of a mutable file that was overwritten since it was opened, the newest version that can
    be recovered.
    """
    try:
        return await node.read(offset, size)
    except (NotEnoughSharesError, UncoordinatedWriteError):
        if not isinstance(node, MutableFile):
            raise
        await readable(node)
        return await node.read(offset, size)


class InlineSource:
    """A small content, ready for upload."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def read_into(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` from `offset`."""
        buf[:] = self._data[offset : offset + len(buf)]


class StagedSource:
    """A snapshot of staged content, ready for upload."""

    def __init__(self, snapshot: StagedSnapshot, base: FileNode | None) -> None:
        self._snapshot = snapshot
        self._base = base
        self.size = snapshot.size

    async def read_into(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` from `offset`."""
        log, base = self._snapshot.staged, self._base
        parts = _parts(self._snapshot.extents.cover(offset, offset + len(buf)), buf, offset)
        log.pin()
        try:
            await _fill(log, parts, at_once=False)
        finally:
            log.unpin()
        for piece, part in parts:
            if piece.record is None:
                end = max(piece.start, min(piece.end, self._snapshot.base_limit))
                old = b"" if base is None else await read_node(base, piece.start, end - piece.start)
                part[: len(old)] = old
                part[len(old) :] = bytes(len(part) - len(old))

    @property
    def snapshot(self) -> StagedSnapshot:
        """What was written."""
        return self._snapshot

    def ranges(self) -> list[tuple[int, int]]:
        """[start, end) of everything that was written, neighbours joined."""
        joined: list[tuple[int, int]] = []
        for piece in self._snapshot.extents:
            if joined and joined[-1][1] == piece.start:
                joined[-1] = joined[-1][0], piece.end
            else:
                joined.append((piece.start, piece.end))
        return joined

    def over(self, base: FileNode, base_limit: int, size: int) -> StagedSource:
        """The same writes over another base, of which the first `base_limit` bytes count, in a file of `size` bytes."""
        mine = self._snapshot
        return StagedSource(StagedSnapshot(mine.staged, size, base_limit, mine.extents), base)


class PatientSource:
    """A source that waits for `give_way` before each piece is read from it."""

    def __init__(self, source: InlineSource | StagedSource, give_way: Callable[[], Awaitable[None]]) -> None:
        self._source = source
        self._give_way = give_way
        self.size = source.size

    async def read_into(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` from `offset`."""
        await self._give_way()
        await self._source.read_into(offset, buf)


def _read_records(log: StagedFile, parts: list[tuple[Piece, memoryview]], flags: int = 0) -> None:
    for piece, part in parts:
        assert piece.record is not None
        log.read_record_into(piece.record, piece.skip, part, flags)
