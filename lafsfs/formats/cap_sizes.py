"""The size of immutable content, told by the text of its cap alone: a listing asks for nothing else of most caps."""

from __future__ import annotations

import re

# Tahoe's base32 in whole bytes: the bits of the last character that stand for nothing are zero (base32.py).
IMMUTABLE = (
    rb"URI:(?:"
    rb"LIT:((?:[a-z2-7]{8})*"
    rb"(?:[a-z2-7][aeimquy4]|[a-z2-7]{3}[aq]|[a-z2-7]{4}[acegikmoqsuwy246]|[a-z2-7]{6}[aiqy])?)|"
    rb"CHK:[a-z2-7]{25}[aeimquy4]:[a-z2-7]{51}[aq]:[0-9]{1,9}:[0-9]{1,9}:([0-9]{1,18}))"
)
"""Pattern of a CHK or literal cap, but for a few that nobody writes. Its two groups are for `size_of_groups`."""

_IMMUTABLE = re.compile(IMMUTABLE)


def immutable_size(text: bytes) -> int | None:
    """The size of the CHK or literal file that `caps.parse(text)` gives, without decoding its keys or data.

    None for all other caps, for what is no cap, and for those that `IMMUTABLE` leaves out: `parse` tells more of them.
    """
    found = _IMMUTABLE.fullmatch(text)
    return None if found is None else size_of_groups(found[1], found[2])


def size_of_groups(literal: bytes | None, size: bytes) -> int:
    """The size that a match of `IMMUTABLE` tells."""
    return int(size) if literal is None else len(literal) * 5 // 8
