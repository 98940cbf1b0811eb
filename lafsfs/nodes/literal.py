"""Files whose data is in their cap."""

from __future__ import annotations

from lafsfs.formats import caps


class LiteralFile:
    """A file of a few bytes. Reading needs no server."""

    def __init__(self, cap: caps.LiteralCap) -> None:
        self._cap = cap

    @property
    def cap(self) -> caps.LiteralCap:
        return self._cap

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self._cap.data)

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes, fewer only at the end."""
        return self._cap.data[offset : offset + size]
