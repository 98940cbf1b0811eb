"""Disk space that is kept back for the publisher (contrib/doc/durability.md).

While the reserve is gone, nothing but publishing, and removing, may take space.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RESERVE_BYTES = 4 << 20
PER_OBJECT = 512  # what publishing one object writes to the journal, at most, before that gives anything back
LOW_SPACE = 16 << 20  # with less than this on the disk, what can be had again takes none
_STEP = 1 << 20


class Reserve:
    """A file of allocated space. In any thread; one at a time takes it or gives it up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.gone = False

    def take(self, objects: int) -> bool:
        """Have enough for so many objects; False if the disk has not so much."""
        wanted = -(-(RESERVE_BYTES + objects * PER_OBJECT) // _STEP) * _STEP
        with self._lock:
            try:
                self._allocate(wanted)
                self.gone = False
            except OSError:
                self.gone = True  # what there was of it stays, for who gives it up
            return not self.gone

    def _allocate(self, wanted: int) -> None:
        number = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held = os.fstat(number).st_blocks * 512
            if held < wanted:
                try:
                    os.posix_fallocate(number, 0, wanted)
                except OSError:
                    os.ftruncate(number, held)
                    raise
            elif held > 2 * wanted:
                os.ftruncate(number, wanted)
        finally:
            os.close(number)

    @contextmanager
    def given_up(self) -> Iterator[None]:
        """The space is there for what is done in the block: nobody takes it again meanwhile."""
        with self._lock:
            self._path.unlink(missing_ok=True)
            self.gone = True
            yield

    def missing(self, objects: int) -> bool:
        """Whether it is gone, and cannot be had again."""
        return self.gone and not self.take(objects)
