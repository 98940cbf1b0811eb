"""The journal's rows as bytes: `kind || number u64 || length u32 || payload`, one after the other in a record.

Objects are written with every change of a file, so the common ones have a fixed form, which is quicker than CBOR.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cbor2

# Kinds, and what their numbers are.
OBJECT = 0x6F  # inode number
CONTENT = 0x63  # inode number
EDGE = 0x65  # inode number of the directory
META = 0x6D  # length of the name, in bytes
GONE = 0x80  # added to a kind: the row was deleted

_HEAD = struct.Struct(">BQI")
_OBJECT = struct.Struct(">B9qqB")  # form, attributes, nlink, where the content is
_EDGE = struct.Struct(">BQQB")  # what is None, inode, base inode, length of the base's digest
_FIXED, _FREE = 1, 2  # forms of an object
_ELSEWHERE, _INLINE = 0, 1  # where a content is, in the fixed form
_NO_INO, _NO_BASE, _NO_BASE_INO = 1, 2, 4


class EdgeRow(NamedTuple):
    """One name that differs from the grid. `ino` None: removed. `base`: digest of the grid's entry that this change
    was made against, None if there was none. `base_ino`: the inode that entry stood for."""

    name: bytes
    ino: int | None
    base: bytes | None
    base_ino: int | None


class Row(NamedTuple):
    """One row of a record, not decoded. `kind` without GONE; `payload` None for a deletion (an edge: its name)."""

    kind: int
    number: int
    gone: bool
    payload: bytes

    def packed(self) -> bytes:
        """As it stands in a record."""
        return row(self.kind | GONE * self.gone, self.number, self.payload)


def rows_of(record: bytes) -> Iterator[Row]:
    """The rows of one record, in their order."""
    position = 0
    while position < len(record):
        kind, number, length = _HEAD.unpack_from(record, position)
        position += _HEAD.size
        yield Row(kind & ~GONE, number, bool(kind & GONE), record[position : position + length])
        position += length


def row(kind: int, number: int, payload: bytes) -> bytes:
    """A row."""
    return _HEAD.pack(kind, number, len(payload)) + payload


# --- objects ---------------------------------------------------------------------------------------------------


def pack_object(fields: Sequence[Any]) -> bytes:
    """An inode's row (`Inode.row`)."""
    attributes, nlink, xattrs, extra, caps, content, parent, born = fields
    if xattrs is None and extra is None and (content is None or content == ["i"]):
        try:
            fixed = _OBJECT.pack(_FIXED, *attributes, nlink, _INLINE if content else _ELSEWHERE)
        except struct.error:  # a time outside of 64 bits
            pass
        else:
            bare = caps is None and parent is None and born is None
            return fixed if bare else fixed + _rest(caps, parent, born)
    return bytes((_FREE,)) + cbor2.dumps([list(attributes), *fields[1:]])


def unpack_object(payload: bytes) -> list[Any]:
    """The reverse. ValueError."""
    if payload[0] == _FREE:
        return list(cbor2.loads(payload[1:]))
    try:
        _, *attributes, nlink, where = _OBJECT.unpack_from(payload)
    except struct.error as problem:
        raise ValueError(str(problem)) from None
    rest = payload[_OBJECT.size :]
    caps, parent, born = cbor2.loads(rest) if rest else (None, None, None)
    return [attributes, nlink, None, None, caps, ["i"] if where == _INLINE else None, parent, born]


@lru_cache(maxsize=512)
def _rest(
    caps: tuple[bytes, bytes] | None, parent: tuple[int, bytes] | None, born: tuple[int, bytes] | None
) -> bytes:
    """What directories have beside attributes: the same with every name that is made in them."""
    return cbor2.dumps((caps, parent, born))


# --- edges ---------------------------------------------------------------------------------------------------


def pack_edge(edge: EdgeRow) -> bytes:
    """A name's row, the name at its end."""
    name, ino, base, base_ino = edge
    missing = (ino is None) * _NO_INO | (base is None) * _NO_BASE | (base_ino is None) * _NO_BASE_INO
    digest = base or b""
    return _EDGE.pack(missing, ino or 0, base_ino or 0, len(digest)) + digest + name


def unpack_edge(payload: bytes) -> EdgeRow:
    """The reverse. struct.error."""
    missing, ino, base_ino, length = _EDGE.unpack_from(payload)
    start = _EDGE.size
    return EdgeRow(
        payload[start + length :],
        None if missing & _NO_INO else ino,
        None if missing & _NO_BASE else payload[start : start + length],
        None if missing & _NO_BASE_INO else base_ino,
    )


def name_in_edge(payload: bytes) -> bytes:
    """The name of an edge, without the rest of it."""
    return payload[_EDGE.size + payload[_EDGE.size - 1] :]
