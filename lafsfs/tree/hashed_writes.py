"""Large writes: what is written in order is hashed for the key of the file meanwhile, by another thread.

An upload has to hash the whole plaintext before it can encrypt anything; what is hashed already it need not read for
that. No write waits for its own hash: while the next one is received and stored, a core is to spare.
"""

from __future__ import annotations

import trio

from lafsfs.transfer.convergence import HashedAlong
from lafsfs.tree.staging import Buffer, Placed, StagedFile

_WORTH_IT = 4 << 10  # bytes; smaller pieces are left to the upload


async def append_and_hash(staged: StagedFile, offset: int, data: Buffer, mtime: int) -> None:
    """`staged.write` in a worker thread; `data` must not change any more. The caller has the content's lock."""
    hashed = staged.hashed
    placed = await trio.to_thread.run_sync(_append, staged, hashed, offset, data, mtime)
    staged.place(placed, mtime)
    _hash_along(staged, hashed, offset, data)


def write_and_hash(staged: StagedFile, offset: int, data: Buffer, mtime: int) -> None:
    """`staged.write`, at once; `data` must not change any more."""
    hashed = staged.hashed
    staged.write(offset, data, mtime)
    if len(data) >= _WORTH_IT:
        _hash_along(staged, hashed, offset, data)


def _hash_along(staged: StagedFile, hashed: HashedAlong | None, offset: int, data: Buffer) -> None:
    """`data` was written: it is the next to be hashed if what was there before it is, and still stands."""
    if hashed is not None and staged.hashed is hashed and hashed.end == offset:
        hashed.add(data)


def lags(staged: StagedFile) -> bool:
    """Whether so much waits for being hashed that the next write should wait for it."""
    return staged.hashed is not None and staged.hashed.lags


def _append(
    staged: StagedFile, hashed: HashedAlong | None, offset: int, data: Buffer, mtime: int
) -> list[Placed]:
    if hashed is not None:
        hashed.catch_up()
    return staged.append(offset, data, mtime)
