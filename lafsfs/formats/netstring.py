"""Netstrings: decimal length, colon, bytes, comma (formats.md section 1)."""

from __future__ import annotations

from lafsfs.errors import FormatError

# 10**18 bytes is more than any buffer holds, so longer length fields are nonsense.
_MAX_DIGITS = 18
_ZERO = ord("0")


def netstring(data: bytes) -> bytes:
    """`data` with its length in front and a comma behind."""
    return b"%d:%b," % (len(data), data)


def read(buf: bytes, pos: int) -> tuple[bytes, int]:
    """The netstring at `buf[pos]` and the position behind it. FormatError if there is none."""
    colon = buf.find(b":", pos, pos + _MAX_DIGITS + 1)
    if colon < 0:
        raise FormatError("netstring without a length")
    digits = buf[pos:colon]
    if not digits.isdigit() or (digits[0] == _ZERO and colon - pos > 1):
        raise FormatError("netstring with a malformed length")
    start = colon + 1
    end = start + int(digits)
    if buf[end : end + 1] != b",":
        raise FormatError("netstring cut short, or without its comma")
    return buf[start:end], end + 1
