"""Names that count: "file 9.txt" is followed by "file 10.txt", "007" by "008"."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_NUMBERS = re.compile(rb"([0-9]+)")
_MOST_DIGITS = 18


class Numbered(NamedTuple):
    """A name that counts with one of its numbers."""

    before: bytes
    number: int
    width: int  # digits of a number that is filled up with zeros, else 1
    after: bytes

    @classmethod
    def of_two(cls, first: bytes, second: bytes) -> Self | None:
        """`second`, if it is the name that follows `first` in some way of counting."""
        parts = _NUMBERS.split(second)
        for index in range(1, len(parts), 2):
            digits = parts[index]
            if len(digits) > _MOST_DIGITS or not int(digits):
                continue
            before, after = b"".join(parts[:index]), b"".join(parts[index + 1 :])
            width = len(digits) if digits.startswith(b"0") or _is_filled(first, before, after, digits) else 1
            found = cls(before, int(digits), width, after)
            if found._replace(number=found.number - 1).name == first:
                return found
        return None

    @property
    def name(self) -> bytes:
        return b"%s%0*d%s" % (self.before, self.width, self.number, self.after)

    def next(self) -> Self:
        """The name that follows."""
        return self._replace(number=self.number + 1)


def _is_filled(first: bytes, before: bytes, after: bytes, digits: bytes) -> bool:
    """Whether the name before, as long as this one, begins its number with a zero: 099, 100."""
    return (
        len(first) == len(before) + len(digits) + len(after) and first[len(before) : len(before) + 1] == b"0"
    )
