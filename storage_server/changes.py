"""Changes to share files as values: what the journal logs before it is done.

Every change says which bytes are where afterwards, so doing it twice, or a sequence of changes twice from the
start, ends in the same files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from lafsfs.errors import FormatError

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Put:
    """`data` stands at `offset` of the file."""

    offset: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class Zero:
    """`length` zero bytes stand at `offset` of the file."""

    offset: int
    length: int


Edit = Put | Zero


@dataclass(frozen=True, slots=True)
class Create:
    """The share file holds exactly the result of these edits; whatever was there before is gone."""

    storage_index: bytes
    shnum: int
    edits: Sequence[Edit]


@dataclass(frozen=True, slots=True)
class Modify:
    """The edits are made, in order, in the existing share file."""

    storage_index: bytes
    shnum: int
    edits: Sequence[Edit]


@dataclass(frozen=True, slots=True)
class Delete:
    """The share file is gone, and its bucket directory if that was the last one."""

    storage_index: bytes
    shnum: int


Change = Create | Modify | Delete

_KINDS: Final = {Create: 1, Modify: 2, Delete: 3}
_CHANGE: Final = struct.Struct(">B16sQI")
_EDIT: Final = struct.Struct(">BQQ")
_PUT, _ZERO = 1, 2


def encode(changes: Sequence[Change]) -> list[Buffer]:
    """The payload of a journal record, in pieces; the data is not copied."""
    pieces: list[Buffer] = []
    for change in changes:
        edits = () if isinstance(change, Delete) else change.edits
        pieces.append(_CHANGE.pack(_KINDS[type(change)], change.storage_index, change.shnum, len(edits)))
        for edit in edits:
            if isinstance(edit, Put):
                pieces += (_EDIT.pack(_PUT, edit.offset, len(edit.data)), edit.data)
            else:
                pieces.append(_EDIT.pack(_ZERO, edit.offset, edit.length))
    return pieces


def decode(payload: memoryview) -> Iterator[Change]:
    """The changes in the payload of a journal record. FormatError if it is none."""
    position = 0
    try:
        while position < len(payload):
            kind, storage_index, shnum, count = _CHANGE.unpack_from(payload, position)
            edits, position = _decode_edits(payload, position + _CHANGE.size, count)
            if kind == _KINDS[Delete]:
                yield Delete(storage_index, shnum)
            elif kind == _KINDS[Create]:
                yield Create(storage_index, shnum, edits)
            elif kind == _KINDS[Modify]:
                yield Modify(storage_index, shnum, edits)
            else:
                raise FormatError("unknown change in the journal")
    except struct.error:
        raise FormatError("a journal record ends too early") from None


def _decode_edits(payload: memoryview, position: int, count: int) -> tuple[list[Edit], int]:
    edits: list[Edit] = []
    for _ in range(count):
        kind, offset, length = _EDIT.unpack_from(payload, position)
        position += _EDIT.size
        if kind == _ZERO:
            edits.append(Zero(offset, length))
            continue
        if kind != _PUT or position + length > len(payload):
            raise FormatError("malformed edit in the journal")
        edits.append(Put(offset, payload[position : position + length]))
        position += length
    return edits, position
