"""Large writes: what is written in order is hashed for the key of the file meanwhile, by another thread.

A program that writes waits for one write after the other, so there is a core to spare. An upload has to hash the whole
plaintext before it can encrypt anything; what is hashed already it need not read for that.
"""

from __future__ import annotations

from functools import partial

import trio

from lafsfs.transfer.concurrent import together
from lafsfs.tree.staging import Buffer, StagedFile


async def append_and_hash(staged: StagedFile, offset: int, data: Buffer, mtime: int) -> None:
    """`staged.write` in worker threads. The caller has the content's lock."""
    append = partial(trio.to_thread.run_sync, staged.append, offset, data, mtime)
    beginning = staged.beginning
    if beginning is None or beginning.size != offset:
        staged.place(await append(), mtime)
        return
    placed, longer = await together(append, partial(trio.to_thread.run_sync, beginning.extended, data))
    staged.place(placed, mtime)
    if staged.beginning is beginning:
        staged.beginning = longer
