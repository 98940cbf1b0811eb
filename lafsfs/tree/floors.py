"""The newest version seen of every mutable object, kept across mounts: servers that offer an older one are noticed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import MutableMapping

import trio

from lafsfs.errors import LafsError
from lafsfs.tree.journal import Batch, Journal

log = logging.getLogger(__name__)

EVERY = 5.0  # seconds between two looks at what is new
_KEY = "floor:"


class Floors:
    """Sequence numbers by storage index: `seen` in memory, filled by whoever reads and writes, and in the journal."""

    def __init__(self, journal: Journal, key: bytes, seen: MutableMapping[bytes, int]) -> None:
        """Take what the journal knows into `seen`. `key` hides storage indexes in the names of rows."""
        self._journal = journal
        self._key = key
        self._seen = seen
        self._saved: dict[bytes, int] = {}
        for _, value in journal.metas(_KEY):
            if isinstance(value, list) and len(value) == 2:
                storage_index, seqnum = value
                self._saved[storage_index] = seqnum
                seen[storage_index] = max(seqnum, seen.get(storage_index, 0))

    def save(self) -> None:
        """Write down what was seen since the last time. A full disk is no reason to fail."""
        new = {index: number for index, number in self._seen.items() if number > self._saved.get(index, 0)}
        if not new:
            return
        batch = Batch()
        for index, number in new.items():
            batch.meta[self._name(index)] = [index, number]
        try:
            self._journal.commit(batch)
        except LafsError as problem:
            log.warning("the newest versions seen are not written down: %s", problem)
        else:
            self._saved |= new

    def _name(self, storage_index: bytes) -> str:
        return _KEY + hashlib.blake2b(storage_index, key=self._key, digest_size=16).hexdigest()

    async def run(self) -> None:
        """Save now and then, until cancelled."""
        while True:
            await trio.sleep(EVERY)
            self.save()
