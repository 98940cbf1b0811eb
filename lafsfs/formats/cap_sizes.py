"""The size of immutable content, told by the text of its cap alone: a listing asks for nothing else of most caps."""

from __future__ import annotations

import re

_CHK = rb"[a-z2-7]{25}[aeimquy4]:[a-z2-7]{51}[aq]:[0-9]{1,9}:[0-9]{1,9}:([0-9]{1,18})"
IMMUTABLE = rb"URI:(?:LIT:([a-z2-7]*)|CHK:" + _CHK + rb")"
"""Pattern of CHK and literal caps, but for a few that nobody writes. Its two groups are for `size_of_groups`."""

_IMMUTABLE = re.compile(IMMUTABLE)
# The last characters that base32 of whole bytes can have, by its length modulo 8: unused bits are zero (base32.py).
_LAST = (
    b"abcdefghijklmnopqrstuvwxyz234567",
    b"",
    b"aeimquy4",
    b"",
    b"aq",
    b"acegikmoqsuwy246",
    b"",
    b"aiqy",
)


def immutable_size(text: bytes) -> int | None:
    """The size of the CHK or literal file that `caps.parse(text)` gives, without decoding its keys or data.

    None for all other caps, for what is no cap, and for those that `IMMUTABLE` leaves out: `parse` tells more of them.
    """
    found = _IMMUTABLE.fullmatch(text)
    return None if found is None else size_of_groups(found[1], found[2])


def size_of_groups(literal: bytes | None, size: bytes) -> int | None:
    """The size that a match of `IMMUTABLE` tells; None if it is no cap after all."""
    if literal is None:
        return int(size)
    count = len(literal)
    return count * 5 // 8 if literal[-1:] in _LAST[count & 7] else None
