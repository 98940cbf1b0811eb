"""How far ahead of a reader to fetch."""

from __future__ import annotations

_MOST = 8 << 20
_SLACK = 1 << 20  # the kernel sends neighbouring reads in any order


class Readahead:
    """Follows the reads of one file. Sequential reading gets a window that doubles up to 8 MiB."""

    def __init__(self) -> None:
        self._expected = 0
        self._run = 0

    def window(self, offset: int, size: int) -> int:
        """Bytes to fetch behind this read."""
        end = offset + size
        if abs(offset - self._expected) > _SLACK:
            self._run = 0
            self._expected = end
            return 0
        self._run += size
        self._expected = max(self._expected, end)
        # The first reads may be all there is: many programs look at the beginning of a file only.
        return 0 if self._run < _SLACK // 2 else min(_MOST, 2 * self._run)
