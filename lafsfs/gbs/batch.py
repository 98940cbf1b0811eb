"""Several small requests in the body of one (adr/batches.md): ours only, `POST batch`.

    request:  [[method, path, [name, value, name, value ...], body] ...]
    answer:   [[status, [name, value ...], body] ...]    in the order of the requests

Methods, paths, names and values are text, bodies are bytes. What a part means is what it would mean by itself; the
swissnum is given once, with the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from lafsfs.errors import FormatError
from lafsfs.gbs import cbor

MAX_BODY: Final = 1 << 20
"""Bytes of a request with all its parts."""
MAX_PARTS: Final = 64
PART_OVERHEAD: Final = 1024
"""Bytes that a part takes at most beside its body: method, path, headers."""
_MAX_HEADERS: Final = 16
_STATUSES: Final = range(200, 600)

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Part:
    """One request."""

    method: str
    path: str
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a part was answered."""

    status: int
    headers: Headers
    body: bytes


def encode_parts(parts: Sequence[Part]) -> bytes:
    """The body of a request."""
    return cbor2.dumps([[part.method, part.path, _flat(part.headers), part.body] for part in parts])


def decode_parts(body: bytes) -> list[Part]:
    """The parts of a request: at least one. FormatError."""
    items = cbor.as_list(cbor.loads(body), MAX_PARTS)
    if not items:
        raise FormatError("a batch of nothing")
    return [_part(item) for item in items]


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    """The body of an answer."""
    return cbor2.dumps([[outcome.status, _flat(outcome.headers), outcome.body] for outcome in outcomes])


def decode_outcomes(body: bytes, count: int) -> list[Outcome]:
    """The outcomes of `count` parts. FormatError."""
    items = cbor.as_list(cbor.loads(body), count)
    if len(items) != count:
        raise FormatError("not as many answers as questions")
    return [_outcome(item) for item in items]


def _flat(headers: Iterable[tuple[str, str]]) -> list[str]:
    return [word for pair in headers for word in pair]


def _headers(value: object) -> Headers:
    words = [_text(word) for word in cbor.as_list(value, 2 * _MAX_HEADERS)]
    if len(words) % 2:
        raise FormatError("a header without a value")
    return list(zip(words[::2], words[1::2], strict=True))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isascii():
        raise FormatError("not ASCII text")
    return value


def _part(value: object) -> Part:
    method, path, headers, body = _sized(value, 4)
    return Part(_text(method), _text(path), _headers(headers), cbor.as_bytes(body))


def _outcome(value: object) -> Outcome:
    number, headers, body = _sized(value, 3)
    status = cbor.as_uint(number)
    if status not in _STATUSES:
        raise FormatError("not a final status")
    return Outcome(status, _headers(headers), cbor.as_bytes(body))


def _sized(value: object, size: int) -> list[Any]:
    items = cbor.as_list(value, size)
    if len(items) != size:
        raise FormatError("not a part of a batch")
    return items
