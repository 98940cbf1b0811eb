"""Tahoe's base32: RFC 4648 bit order, lower case, no padding (formats.md section 1)."""

from __future__ import annotations

import base64

from lafsfs.errors import FormatError

ALPHABET = b"abcdefghijklmnopqrstuvwxyz234567"

_TO_DIGITS = bytes.maketrans(ALPHABET, b"0123456789abcdefghijklmnopqrstuv")
_IMPOSSIBLE_LENGTHS = frozenset({1, 3, 6})
# Unused low bits in the last character, by the length of the text modulo 8.
_UNUSED_BITS = {0: 0, 2: 2, 4: 4, 5: 1, 7: 3}


def encode(data: bytes) -> str:
    """The text of `data`, ceil(8 * len / 5) characters."""
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def decode(text: str) -> bytes:
    """The bytes of `text`. FormatError for anything that `encode` could not have made."""
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError:
        raise FormatError("base32 text holds a character outside the alphabet") from None
    length = len(raw) % 8
    if length in _IMPOSSIBLE_LENGTHS:
        raise FormatError("base32 text has an impossible length")
    if raw.translate(None, ALPHABET):
        raise FormatError("base32 text holds a character outside the alphabet")
    if not raw:
        return b""
    value, unused = int(raw.translate(_TO_DIGITS), 32), _UNUSED_BITS[length]
    if value & ((1 << unused) - 1):
        raise FormatError("base32 text has non-zero bits after its end")
    return (value >> unused).to_bytes(len(raw) * 5 // 8, "big")
