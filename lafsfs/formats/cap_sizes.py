"""The size of immutable content, told by the text of its cap alone: a listing asks for nothing else of most caps."""

from __future__ import annotations

import re

# Tahoe's base32 in whole bytes: the bits of the last character that stand for nothing are zero (base32.py).
_LITERAL = re.compile(
    rb"URI:LIT:((?:[a-z2-7]{8})*"
    rb"(?:[a-z2-7][aeimquy4]|[a-z2-7]{3}[aq]|[a-z2-7]{4}[acegikmoqsuwy246]|[a-z2-7]{6}[aiqy])?)"
)
_CHK = re.compile(
    rb"URI:CHK:[a-z2-7]{25}[aeimquy4]:[a-z2-7]{51}[aq]:[0-9]{1,9}:[0-9]{1,9}:([0-9]{1,18})",
)


def immutable_size(text: bytes) -> int | None:
    """The size of the CHK or literal file that `caps.parse(text)` gives, without decoding its keys or data.

    None for all other caps, for what is no cap, and for a few caps that nobody writes: `parse` tells more of those.
    """
    chk = _CHK.fullmatch(text)
    if chk is not None:
        return int(chk[1])
    literal = _LITERAL.fullmatch(text)
    return len(literal[1]) * 5 // 8 if literal is not None else None
