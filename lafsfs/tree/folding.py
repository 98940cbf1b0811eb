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

_Ready = tuple[Folder, Packed, bytes]
"""A directory that may be folded, and what is to be compressed of it."""


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
        loaded = [(one, one.snapshot.packed) for one in folders if one.snapshot is not None]
        if sum(len(folder) for folder, _ in loaded) <= FEW:
            return
        now = trio.current_time()
        found = [(folder, packed, packed.foldable()) for folder, packed in loaded]
        ready = [(folder, packed, data) for folder, packed, data in found if data]
        for batch in islice(_batches(ready), _IN_A_ROW):
            folded = await trio.to_thread.run_sync(_squeeze, [data for _, _, data in batch])
            for (folder, packed, _), small in zip(batch, folded, strict=True):
                packed.fold(small)
                folder.rest()
        if ready:
            self._freed = True
        elif all(data is not None for _, _, data in found):
            self.done_at = now
            if self._freed:
                self._freed = False
                await trio.to_thread.run_sync(self.give_back)


def _batches(ready: Iterable[_Ready]) -> Iterator[list[_Ready]]:
    batch: list[_Ready] = []
    for one in ready:
        batch.append(one)
        if sum(len(data) for _, _, data in batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _squeeze(several: Iterable[bytes]) -> list[bytes]:
    return [squeeze(data) for data in several]
