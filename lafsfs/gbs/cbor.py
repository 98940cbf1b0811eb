"""CBOR as this protocol uses it: closed maps, tag-258 sets, unsigned numbers (formats.md section 9.3).

Readers check every type: what CBOR could express and the protocol does not is a FormatError.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from typing import Any, Final, cast

import cbor2

from lafsfs.errors import FormatError

MAX_UINT: Final = 2**64 - 1
MAX_SET: Final = 256

UINT, BYTES, TEXT, ARRAY, MAP, TAG = 0, 2, 3, 4, 5, 6
_SET_HEAD: Final = b"\xd9\x01\x02"
_MAX_DEPTH: Final = 16


def head(major: int, value: int) -> bytes:
    """The first bytes of an item of `major` type: its length, count or value in the shortest form."""
    if value < 24:
        return bytes((major << 5 | value,))
    if value < 1 << 8:
        return struct.pack(">BB", major << 5 | 24, value)
    if value < 1 << 16:
        return struct.pack(">BH", major << 5 | 25, value)
    if value < 1 << 32:
        return struct.pack(">BI", major << 5 | 26, value)
    return struct.pack(">BQ", major << 5 | 27, value)


def uint(value: int) -> bytes:
    """An unsigned number."""
    return head(UINT, value)


def text(value: str) -> bytes:
    """A text string."""
    raw = value.encode("utf-8")
    return head(TEXT, len(raw)) + raw


def uint_set(numbers: Iterable[int]) -> bytes:
    """A set of numbers, ascending, under tag 258."""
    ordered = sorted(numbers)
    return b"".join((_SET_HEAD, head(ARRAY, len(ordered)), *map(uint, ordered)))


def loads(data: bytes) -> object:
    """The one CBOR item that `data` holds. FormatError if it is malformed or something follows it."""
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream, max_depth=_MAX_DEPTH).decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FormatError("malformed CBOR") from error
    if stream.tell() != len(data):
        raise FormatError("bytes after the CBOR item")
    return cast("object", value)


def closed_map(value: object, keys: frozenset[str] | frozenset[bytes]) -> dict[Any, Any]:
    """`value` as a map with exactly these keys."""
    if not isinstance(value, dict) or value.keys() != keys:
        raise FormatError("not a map with the keys of the protocol")
    return value


def as_uint(value: object) -> int:
    """`value` as an unsigned number of at most 64 bits."""
    if type(value) is not int or not 0 <= value <= MAX_UINT:
        raise FormatError("not an unsigned number")
    return value


def as_bytes(value: object) -> bytes:
    """`value` as a byte string."""
    if not isinstance(value, bytes):
        raise FormatError("not a byte string")
    return value


def as_list(value: object, limit: int | None = None) -> list[Any]:
    """`value` as an array of at most `limit` items."""
    if not isinstance(value, list) or (limit is not None and len(value) > limit):
        raise FormatError("not an array, or one that is too long")
    return value


def as_uint_set(value: object) -> frozenset[int]:
    """`value` as a tag-258 set of at most 256 numbers; a plain array is refused."""
    if not isinstance(value, set | frozenset) or len(value) > MAX_SET:
        raise FormatError("not a set, or one that is too large")
    return frozenset(as_uint(number) for number in value)
