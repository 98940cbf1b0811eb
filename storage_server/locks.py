"""One lock per storage index, made when needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SlotLocks:
    """Mutual exclusion over all shares of a storage index."""

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[asyncio.Lock, list[None]]] = {}

    def busy(self, storage_index: bytes) -> bool:
        """Whether somebody holds or awaits the lock."""
        return storage_index in self._locks

    @asynccontextmanager
    async def hold(self, storage_index: bytes) -> AsyncIterator[None]:
        """Own all shares of the storage index."""
        lock, users = self._locks.setdefault(storage_index, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._locks[storage_index]
