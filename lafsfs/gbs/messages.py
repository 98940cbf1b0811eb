"""Bodies of the storage protocol as typed values (formats.md sections 9.4 to 9.7).

`encode_*` make the exact bytes, `decode_*` check everything and raise FormatError. Lists and sets are
bounded as in the protocol's schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lafsfs.errors import FormatError
from lafsfs.gbs import cbor

Range = tuple[int, int]
"""Half-open (begin, end) or (offset, size), as the field says."""

Buffer = bytes | bytearray | memoryview

MAX_VECTORS: Final = 30
MAX_SHARES: Final = 256
MAX_ALLOCATE_BODY: Final = 8192
MAX_WHOLE_SHARES: Final = 128 << 10
MAX_PUT_BODY: Final = MAX_WHOLE_SHARES + 8192
MAX_CORRUPT_BODY: Final = 32768
MAX_REASON: Final = 32765
MAX_MUTABLE_SHARE: Final = 69105 * 10**12

_V1: Final = b"http://allmydata.org/tahoe/protocols/storage/v1"
_APPLICATION: Final = b"application-version"
_MAX_IMMUTABLE: Final = b"maximum-immutable-share-size"
_MAX_MUTABLE: Final = b"maximum-mutable-share-size"
_AVAILABLE: Final = b"available-space"


# --- version ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """What a server says of itself; sizes and space in bytes."""

    max_immutable: int
    max_mutable: int
    available: int
    application: bytes


def encode_version(version: ServerVersion) -> bytes:
    """Answer of GET version. Keys are byte strings here, and only here."""
    pairs = (
        (_MAX_IMMUTABLE, version.max_immutable),
        (_MAX_MUTABLE, version.max_mutable),
        (_AVAILABLE, version.available),
    )
    pieces = [cbor.head(cbor.MAP, 2), _byte_string(_V1), cbor.head(cbor.MAP, len(pairs))]
    for key, value in pairs:
        pieces += (_byte_string(key), cbor.uint(value))
    pieces += (_byte_string(_APPLICATION), _byte_string(version.application))
    return b"".join(pieces)


def decode_version(body: bytes) -> ServerVersion:
    """The answer of GET version."""
    outer = cbor.closed_map(cbor.loads(body), frozenset({_V1, _APPLICATION}))
    inner = cbor.closed_map(outer[_V1], frozenset({_MAX_IMMUTABLE, _MAX_MUTABLE, _AVAILABLE}))
    return ServerVersion(
        max_immutable=cbor.as_uint(inner[_MAX_IMMUTABLE]),
        max_mutable=cbor.as_uint(inner[_MAX_MUTABLE]),
        available=cbor.as_uint(inner[_AVAILABLE]),
        application=cbor.as_bytes(outer[_APPLICATION]),
    )


def _byte_string(value: bytes) -> bytes:
    return cbor.head(cbor.BYTES, len(value)) + value


# --- immutable shares --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AllocateRequest:
    """Share numbers wanted, and the size in bytes that each will have."""

    share_numbers: frozenset[int]
    allocated_size: int


@dataclass(frozen=True, slots=True)
class Allocated:
    """Complete shares that the server holds, asked for or not, and shares that may be written now."""

    already_have: frozenset[int]
    allocated: frozenset[int]


@dataclass(frozen=True, slots=True)
class Required:
    """Half-open ranges that a share in progress still lacks."""

    missing: tuple[Range, ...]


def encode_allocate(request: AllocateRequest) -> bytes:
    """Body of POST immutable/SI."""
    return b"".join(
        (
            cbor.head(cbor.MAP, 2),
            cbor.text("share-numbers"),
            cbor.uint_set(request.share_numbers),
            cbor.text("allocated-size"),
            cbor.uint(request.allocated_size),
        )
    )


def encode_whole_shares(shares: Mapping[int, Buffer]) -> bytes:
    """Body of PUT immutable/SI, which is not Tahoe's (adr/whole-shares.md). The data is copied once."""
    pieces: list[Buffer] = [cbor.head(cbor.MAP, len(shares))]
    for shnum, data in shares.items():
        pieces += (cbor.uint(shnum), cbor.head(cbor.BYTES, _size(data)), data)
    return b"".join(pieces)


def decode_whole_shares(body: bytes) -> dict[int, bytes]:
    """Body of PUT immutable/SI: at least one share, all of one size, together at most MAX_WHOLE_SHARES bytes."""
    fields = cbor.loads(body)
    if not isinstance(fields, dict) or not 0 < len(fields) <= MAX_SHARES:
        raise FormatError("not a map of shares")
    shares = {cbor.as_uint(shnum): cbor.as_bytes(data) for shnum, data in fields.items()}
    if len(set(map(len, shares.values()))) > 1 or sum(map(len, shares.values())) > MAX_WHOLE_SHARES:
        raise FormatError("shares of different sizes, or too many bytes of them")
    return shares


def decode_allocate(body: bytes) -> AllocateRequest:
    """Body of POST immutable/SI."""
    fields = cbor.closed_map(cbor.loads(body), frozenset({"share-numbers", "allocated-size"}))
    return AllocateRequest(cbor.as_uint_set(fields["share-numbers"]), cbor.as_uint(fields["allocated-size"]))


def encode_allocated(answer: Allocated) -> bytes:
    """Answer of POST immutable/SI."""
    return b"".join(
        (
            cbor.head(cbor.MAP, 2),
            cbor.text("already-have"),
            cbor.uint_set(answer.already_have),
            cbor.text("allocated"),
            cbor.uint_set(answer.allocated),
        )
    )


def decode_allocated(body: bytes) -> Allocated:
    """Answer of POST immutable/SI."""
    fields = cbor.closed_map(cbor.loads(body), frozenset({"already-have", "allocated"}))
    return Allocated(cbor.as_uint_set(fields["already-have"]), cbor.as_uint_set(fields["allocated"]))


def encode_required(answer: Required) -> bytes:
    """Answer of PATCH immutable/SI/N."""
    pieces = [cbor.head(cbor.MAP, 1), cbor.text("required"), cbor.head(cbor.ARRAY, len(answer.missing))]
    for begin, end in answer.missing:
        pieces += (cbor.head(cbor.MAP, 2), cbor.text("begin"), cbor.uint(begin))
        pieces += (cbor.text("end"), cbor.uint(end))
    return b"".join(pieces)


def decode_required(body: bytes) -> Required:
    """Answer of PATCH immutable/SI/N."""
    items = cbor.as_list(cbor.closed_map(cbor.loads(body), frozenset({"required"}))["required"])
    keys = frozenset({"begin", "end"})
    maps = [cbor.closed_map(item, keys) for item in items]
    return Required(tuple((cbor.as_uint(item["begin"]), cbor.as_uint(item["end"])) for item in maps))


def encode_shares(numbers: Iterable[int]) -> bytes:
    """Answer of GET shares."""
    return cbor.uint_set(numbers)


def decode_shares(body: bytes) -> frozenset[int]:
    """Answer of GET shares."""
    return cbor.as_uint_set(cbor.loads(body))


def encode_corrupt(reason: str) -> bytes:
    """Body of POST corrupt; a reason that is too long is cut."""
    limit = MAX_CORRUPT_BODY - 11
    raw = reason.encode("utf-8", "replace")[:limit].decode("utf-8", "ignore") or "unspecified"
    return cbor.head(cbor.MAP, 1) + cbor.text("reason") + cbor.text(raw)


def decode_corrupt(body: bytes) -> str:
    """The reason in a corruption report: never empty."""
    reason = cbor.closed_map(cbor.loads(body), frozenset({"reason"}))["reason"]
    if not isinstance(reason, str) or not 0 < len(reason) <= MAX_REASON:
        raise FormatError("not a reason")
    return reason


# --- mutable slots -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TestWrite:
    """Conditions on one share and the change to make if those of all shares hold."""

    __test__ = False  # the name is the protocol's, not pytest's

    tests: Sequence[tuple[int, int, Buffer]] = ()
    """(offset, size, specimen)"""
    writes: Sequence[tuple[int, Buffer]] = ()
    """(offset, data), applied in order"""
    new_length: int | None = None
    """Truncate to this length after writing; 0 deletes the share."""


@dataclass(frozen=True, slots=True)
class ReadTestWrite:
    """A whole request: changes by share number; the (offset, size) to read from every share of the slot."""

    vectors: Mapping[int, TestWrite]
    read_vector: Sequence[Range]


@dataclass(frozen=True, slots=True)
class ReadTestWriteAnswer:
    """Whether all tests held; what was there before the writes, one value per read vector."""

    success: bool
    data: Mapping[int, Sequence[bytes]]


_TEXTS: Final = {
    word: cbor.text(word)
    for word in (
        "test-write-vectors",
        "read-vector",
        "test",
        "write",
        "new-length",
        "offset",
        "size",
        "specimen",
        "data",
        "success",
    )
}


def encode_read_test_write(request: ReadTestWrite) -> bytes:
    """Body of POST read-test-write. The data is copied once."""
    pieces: list[Buffer] = [cbor.head(cbor.MAP, 2), _TEXTS["test-write-vectors"]]
    pieces.append(cbor.head(cbor.MAP, len(request.vectors)))
    for shnum, vector in request.vectors.items():
        pieces += (cbor.uint(shnum), cbor.head(cbor.MAP, 3), _TEXTS["test"])
        pieces.append(cbor.head(cbor.ARRAY, len(vector.tests)))
        for offset, size, specimen in vector.tests:
            pieces += (cbor.head(cbor.MAP, 3), _TEXTS["offset"], cbor.uint(offset))
            pieces += (_TEXTS["size"], cbor.uint(size), _TEXTS["specimen"])
            pieces += (cbor.head(cbor.BYTES, _size(specimen)), specimen)
        pieces += (_TEXTS["write"], cbor.head(cbor.ARRAY, len(vector.writes)))
        for offset, data in vector.writes:
            pieces += (cbor.head(cbor.MAP, 2), _TEXTS["offset"], cbor.uint(offset))
            pieces += (_TEXTS["data"], cbor.head(cbor.BYTES, _size(data)), data)
        pieces.append(_TEXTS["new-length"])
        pieces.append(b"\xf6" if vector.new_length is None else cbor.uint(vector.new_length))
    pieces += (_TEXTS["read-vector"], cbor.head(cbor.ARRAY, len(request.read_vector)))
    for offset, size in request.read_vector:
        pieces += (cbor.head(cbor.MAP, 2), _TEXTS["offset"], cbor.uint(offset))
        pieces += (_TEXTS["size"], cbor.uint(size))
    return b"".join(pieces)


def _size(data: Buffer) -> int:
    return data.nbytes if isinstance(data, memoryview) else len(data)


def decode_read_test_write(body: bytes) -> ReadTestWrite:
    """Body of POST read-test-write."""
    fields = cbor.closed_map(cbor.loads(body), frozenset({"test-write-vectors", "read-vector"}))
    vectors = fields["test-write-vectors"]
    if not isinstance(vectors, dict) or len(vectors) > MAX_SHARES:
        raise FormatError("test-write-vectors is not a map of at most 256 shares")
    return ReadTestWrite(
        {cbor.as_uint(shnum): _decode_test_write(vector) for shnum, vector in vectors.items()},
        _decode_read_vector(fields["read-vector"]),
    )


def _decode_read_vector(value: object) -> list[Range]:
    keys = frozenset({"offset", "size"})
    maps = [cbor.closed_map(item, keys) for item in cbor.as_list(value, MAX_VECTORS)]
    return [(cbor.as_uint(item["offset"]), cbor.as_uint(item["size"])) for item in maps]


def _decode_test_write(value: object) -> TestWrite:
    fields = cbor.closed_map(value, frozenset({"test", "write", "new-length"}))
    test_keys, write_keys = frozenset({"offset", "size", "specimen"}), frozenset({"offset", "data"})
    tests = [cbor.closed_map(item, test_keys) for item in cbor.as_list(fields["test"], MAX_VECTORS)]
    writes = [cbor.closed_map(item, write_keys) for item in cbor.as_list(fields["write"])]
    new_length = fields["new-length"]
    return TestWrite(
        tests=[
            (cbor.as_uint(t["offset"]), cbor.as_uint(t["size"]), cbor.as_bytes(t["specimen"])) for t in tests
        ],
        writes=[(cbor.as_uint(w["offset"]), cbor.as_bytes(w["data"])) for w in writes],
        new_length=None if new_length is None else cbor.as_uint(new_length),
    )


def encode_read_test_write_answer(answer: ReadTestWriteAnswer) -> bytes:
    """Answer of POST read-test-write."""
    pieces: list[Buffer] = [cbor.head(cbor.MAP, 2), _TEXTS["success"], b"\xf5" if answer.success else b"\xf4"]
    pieces += (_TEXTS["data"], cbor.head(cbor.MAP, len(answer.data)))
    for shnum, values in answer.data.items():
        pieces += (cbor.uint(shnum), cbor.head(cbor.ARRAY, len(values)))
        for value in values:
            pieces += (cbor.head(cbor.BYTES, len(value)), value)
    return b"".join(pieces)


def decode_read_test_write_answer(body: bytes) -> ReadTestWriteAnswer:
    """Answer of POST read-test-write."""
    fields = cbor.closed_map(cbor.loads(body), frozenset({"success", "data"}))
    success, data = fields["success"], fields["data"]
    if not isinstance(success, bool) or not isinstance(data, dict):
        raise FormatError("not an answer to read-test-write")
    return ReadTestWriteAnswer(
        success,
        {
            cbor.as_uint(shnum): [cbor.as_bytes(value) for value in cbor.as_list(values)]
            for shnum, values in data.items()
        },
    )
