"""What directories say is kept compressed where nobody looks at it: entries are much alike, and most of the memory.

Of FEW names nothing is. A directory is folded when nobody looked at an entry of it between two looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import trio

from lafsfs.formats.packed import Packed, squeeze
from lafsfs.tree.directories import Folder

FEW = 2_000
_AT_ONCE = 2 << 20  # bytes, in one visit to a thread
_IN_A_ROW = 8  # such visits, in one look


class Folding:
    """Folds the directories of one tree. Used from the trio thread only.

    `done_at` is the time of the last look that found nothing left to do; `give_back` returns freed memory to the
    system, and may block.
    """

    def __init__(self) -> None:
        self.done_at = float("-inf")
        self.give_back: Callable[[], None] = lambda: None
        self._freed = False

    async def look(self, folders: Iterable[Folder]) -> None:
        """Fold those that may be, up to some MiB."""
        loaded = [folder for folder in folders if folder.snapshot is not None]
        if sum(map(len, loaded)) <= FEW:
            return
        now, waiting = trio.current_time(), _Waiting()
        visits = 0
        for batch in islice(_batches(loaded, waiting), _IN_A_ROW):
            folded = await trio.to_thread.run_sync(_squeeze, [data for _, data in batch])
            for (packed, _), small in zip(batch, folded, strict=True):
                packed.fold(small)
            visits += 1
        self._freed |= visits > 0
        if not visits and not waiting.some:
            self.done_at = now
            if self._freed:
                self._freed = False
                await trio.to_thread.run_sync(self.give_back)


class _Waiting:
    """Whether there are directories that somebody looked at lately."""

    some = False


def _batches(folders: Iterable[Folder], waiting: _Waiting) -> Iterator[list[tuple[Packed, bytes]]]:
    batch: list[tuple[Packed, bytes]] = []
    for folder in folders:
        if folder.snapshot is None:
            continue
        packed = folder.snapshot.packed
        data = packed.foldable()
        waiting.some |= data is None
        if data:
            folder.rest()
            batch.append((packed, data))
        if sum(len(data) for _, data in batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _squeeze(several: Iterable[bytes]) -> list[bytes]:
    return [squeeze(data) for data in several]
