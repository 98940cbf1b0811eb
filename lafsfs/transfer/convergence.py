"""The key of an immutable file, which is a hash of its plaintext (formats.md 4.1): also while that is being written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from lafsfs.formats import keys
from lafsfs.formats.chk import Params, params_for
from lafsfs.formats.hashing import Buffer, TaggedHasher
from lafsfs.grid.servers import Grid
from lafsfs.transfer.concurrent import compute, quiet_threads, together

ReadBatch = Callable[[int], Awaitable[memoryview]]
"""Gives the next part of the plaintext from an offset on; nothing at its end."""

_BEHIND = 8 << 20  # bytes that may wait for being hashed
# Bytes that are collected before the thread gets them: with each visit it comes into the way of who writes.
AT_ONCE = 1 << 20

# The program that writes waits for each answer; it should not wait for a core as well.
_thread = quiet_threads(1, "lafsfs-hash", 10)


@dataclass(frozen=True)
class Beginning:
    """The first `size` bytes of a plaintext, hashed for the key that a file encoded in this way gets.

    Whoever keeps one has to drop it when any of those bytes change: two contents must never have one key.
    """

    encoding: tuple[int, int, int]
    size: int
    _hasher: TaggedHasher = field(repr=False)

    def extended(self, data: Buffer) -> Beginning:
        """This one and the next bytes. Blocks while they are hashed."""
        hasher = self.hasher()
        hasher.update(data)
        return Beginning(self.encoding, self.size + len(data), hasher)

    def hasher(self) -> TaggedHasher:
        """The state of the hash, to go on with."""
        return self._hasher.copy()


class HashedAlong:
    """A plaintext that is hashed while it is written, by a thread of its own, which is a little behind.

    `end` is the offset up to which it was added; of that, less than AT_ONCE at the end is left to the upload. All but
    `known` and `catch_up` are for one thread only.
    """

    def __init__(self, known: Beginning) -> None:
        self.known = known  # what is hashed by now
        self.end = known.size
        self._wanted = True
        self._collected: list[Buffer] = []
        self._given = self.end  # so much the thread has, or had
        self._last: Future[None] | None = None

    def add(self, data: Buffer) -> None:
        """The plaintext goes on with `data`, which must not change, at `end`."""
        self._collected.append(data)
        self.end += len(data)
        if self.end >= self._given + AT_ONCE:
            self._last = _thread.submit(self._hash, self._given, self._collected)
            self._given, self._collected = self.end, []

    @property
    def lags(self) -> bool:
        """Whether `catch_up` would block."""
        return self._given > self.known.size + _BEHIND

    def catch_up(self, behind: int = _BEHIND) -> None:
        """Block as long as the thread has more than `behind` bytes to do."""
        if self._last is not None and self._given > self.known.size + behind:
            self._last.result()

    def rest(self) -> None:
        """Little more may come: what is collected is left to the upload, instead of being kept in memory."""
        self._collected = []
        self.end = self._given

    def stop(self) -> None:
        """Nobody wants to know any more."""
        self._wanted = False
        self._collected = []

    def _hash(self, offset: int, pieces: Sequence[Buffer]) -> None:
        if self._wanted and self.known.size == offset:
            self.known = self.known.extended(pieces[0] if len(pieces) == 1 else b"".join(pieces))


def nothing_yet(grid: Grid, params: Params) -> Beginning:
    """The beginning of any file with these parameters."""
    encoding = params.k, params.n, params.segsize
    return Beginning(encoding, 0, keys.convergence_hasher(grid.secrets.convergence, *encoding))


def of_large_file(grid: Grid) -> Beginning:
    """The beginning of any file that has at least one segment of the full size."""
    encoding = grid.encoding
    size = encoding.max_segment_size
    return nothing_yet(grid, params_for(size, encoding.k, encoding.n, size))


async def convergent_key(
    grid: Grid, params: Params, read: ReadBatch, first: memoryview, known: Beginning | None
) -> bytes:
    """A pass over the plaintext, of which `first` is the first part, or over what comes after the part that is `known`.
    The next batch is read while one is hashed.
    """
    start = nothing_yet(grid, params)
    if known is not None and known.encoding == start.encoding and known.size <= params.size:
        start = known
    hasher, offset = start.hasher(), start.size
    batch = first[offset:] if offset < len(first) else await read(offset)
    while len(batch):
        offset += len(batch)
        _, batch = await together(
            partial(compute, len(batch), partial(hasher.update, batch)), partial(read, offset)
        )
    return hasher.digest()
