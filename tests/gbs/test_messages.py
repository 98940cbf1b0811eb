"""Messages: round trips, and refusal of everything that the protocol does not allow."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.errors import FormatError
from lafsfs.gbs import cbor, messages
from lafsfs.gbs.messages import (
    Allocated,
    AllocateRequest,
    ReadTestWrite,
    ReadTestWriteAnswer,
    Required,
    ServerVersion,
    TestWrite,
)

uints = st.integers(0, 2**64 - 1)
uint_sets = st.frozensets(uints, max_size=256)
ranges = st.tuples(uints, uints)
test_writes = st.builds(
    TestWrite,
    tests=st.lists(st.tuples(uints, uints, st.binary(max_size=300)), max_size=3),
    writes=st.lists(st.tuples(uints, st.binary(max_size=300)), max_size=3),
    new_length=st.none() | uints,
)


@given(uints, uints, uints, st.binary())
def test_version(a: int, b: int, c: int, application: bytes) -> None:
    version = ServerVersion(a, b, c, application)
    assert messages.decode_version(messages.encode_version(version)) == version


@given(uint_sets, uints)
def test_allocate(numbers: frozenset[int], size: int) -> None:
    request = AllocateRequest(numbers, size)
    assert messages.decode_allocate(messages.encode_allocate(request)) == request


@given(st.dictionaries(uints, st.just(b"four"), min_size=1, max_size=256))
def test_whole_shares(shares: dict[int, bytes]) -> None:
    body = messages.encode_whole_shares({shnum: memoryview(data) for shnum, data in shares.items()})
    assert messages.decode_whole_shares(body) == cbor2.loads(body) == shares


@pytest.mark.parametrize(
    "shares",
    [
        {},
        [b"share"],
        {0: b"one", 1: b"three"},
        {0: "text"},
        {-1: b"x"},
        {"0": b"x"},
        {0: bytes(messages.MAX_WHOLE_SHARES + 1)},
        {0: bytes(1 + messages.MAX_WHOLE_SHARES // 2), 1: bytes(1 + messages.MAX_WHOLE_SHARES // 2)},
        dict.fromkeys(range(257), b"x"),
    ],
    ids=lambda shares: repr(shares)[:20],
)
def test_what_are_no_whole_shares(shares: object) -> None:
    with pytest.raises(FormatError):
        messages.decode_whole_shares(cbor2.dumps(shares))


@given(uint_sets, uint_sets)
def test_allocated(have: frozenset[int], allocated: frozenset[int]) -> None:
    answer = Allocated(have, allocated)
    body = messages.encode_allocated(answer)
    assert messages.decode_allocated(body) == answer
    assert cbor2.loads(body) == {"already-have": set(have), "allocated": set(allocated)}


@given(st.lists(ranges, max_size=40))
def test_required(missing: list[tuple[int, int]]) -> None:
    answer = Required(tuple(missing))
    assert messages.decode_required(messages.encode_required(answer)) == answer


@given(uint_sets)
def test_shares(numbers: frozenset[int]) -> None:
    assert messages.decode_shares(messages.encode_shares(numbers)) == numbers


@given(st.text(min_size=1, max_size=40_000))
def test_corrupt(reason: str) -> None:
    body = messages.encode_corrupt(reason)
    assert len(body) <= messages.MAX_CORRUPT_BODY
    decoded = messages.decode_corrupt(body)
    sendable = reason.encode("utf-8", "replace").decode()
    assert decoded
    assert decoded == "unspecified" or sendable.startswith(decoded)


@given(st.dictionaries(uints, test_writes, max_size=4), st.lists(ranges, max_size=30))
def test_read_test_write(vectors: dict[int, TestWrite], read_vector: list[tuple[int, int]]) -> None:
    request = ReadTestWrite(vectors, read_vector)
    body = messages.encode_read_test_write(request)
    assert messages.decode_read_test_write(body) == request
    assert set(cbor2.loads(body)) == {"test-write-vectors", "read-vector"}


@given(st.booleans(), st.dictionaries(uints, st.lists(st.binary(max_size=99), max_size=4), max_size=4))
def test_read_test_write_answer(success: bool, data: dict[int, list[bytes]]) -> None:
    answer = ReadTestWriteAnswer(success, data)
    assert messages.decode_read_test_write_answer(messages.encode_read_test_write_answer(answer)) == answer


def test_buffers_of_every_kind_are_byte_strings() -> None:
    data = bytearray(b"0123456789")
    request = ReadTestWrite({0: TestWrite([(0, 4, memoryview(data)[2:6])], [(1, data)])}, [])
    decoded = messages.decode_read_test_write(messages.encode_read_test_write(request))
    assert decoded.vectors[0].tests == [(0, 4, b"2345")]
    assert decoded.vectors[0].writes == [(1, b"0123456789")]


VECTOR: dict[str, Any] = {"test": [], "write": [], "new-length": None}
RANGE = {"offset": 0, "size": 1}


@pytest.mark.parametrize(
    ("decode", "value"),
    [
        (messages.decode_allocate, {"share-numbers": [1], "allocated-size": 1}),
        (messages.decode_allocate, {"share-numbers": {1}, "allocated-size": 1, "more": 1}),
        (messages.decode_allocate, {"share-numbers": {1}}),
        (messages.decode_allocate, {"share-numbers": {-1}, "allocated-size": 1}),
        (messages.decode_allocate, {"share-numbers": {True}, "allocated-size": 1}),
        (messages.decode_allocate, {"share-numbers": {2**64}, "allocated-size": 1}),
        (messages.decode_allocate, {"share-numbers": {"1"}, "allocated-size": 1}),
        (messages.decode_allocate, {"share-numbers": set(range(257)), "allocated-size": 1}),
        (messages.decode_allocate, {"share-numbers": {1}, "allocated-size": -1}),
        (messages.decode_allocate, {"share-numbers": {1}, "allocated-size": 1.0}),
        (messages.decode_allocate, [1, 2]),
        (messages.decode_shares, [1]),
        (messages.decode_corrupt, {"reason": ""}),
        (messages.decode_corrupt, {"reason": b"bytes"}),
        (messages.decode_corrupt, {"reason": "x" * 32766}),
        (messages.decode_read_test_write, {"test-write-vectors": {}}),
        (messages.decode_read_test_write, {"test-write-vectors": [], "read-vector": []}),
        (messages.decode_read_test_write, {"test-write-vectors": {}, "read-vector": [RANGE] * 31}),
        (messages.decode_read_test_write, {"test-write-vectors": {"0": VECTOR}, "read-vector": []}),
        (
            messages.decode_read_test_write,
            {"test-write-vectors": dict.fromkeys(range(257), VECTOR), "read-vector": []},
        ),
        (
            messages.decode_read_test_write,
            {"test-write-vectors": {0: {"test": [], "write": []}}, "read-vector": []},
        ),
        (
            messages.decode_read_test_write,
            {"test-write-vectors": {0: {**VECTOR, "new-length": -1}}, "read-vector": []},
        ),
        (
            messages.decode_read_test_write,
            {
                "test-write-vectors": {0: {**VECTOR, "write": [{"offset": 0, "data": "text"}]}},
                "read-vector": [],
            },
        ),
        (messages.decode_read_test_write_answer, {"success": 1, "data": {}}),
        (messages.decode_version, {b"application-version": b""}),
    ],
)
def test_refused(decode: Any, value: Any) -> None:
    with pytest.raises(FormatError):
        decode(cbor2.dumps(value))


@pytest.mark.parametrize("body", [b"", b"\xff", b"{}", b"\xa1", b"\x81" * 4000 + b"\x00", b"\x00\x00"])
def test_malformed(body: bytes) -> None:
    with pytest.raises(FormatError):
        cbor.loads(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    for decode in (
        messages.decode_version,
        messages.decode_allocate,
        messages.decode_allocated,
        messages.decode_required,
        messages.decode_shares,
        messages.decode_corrupt,
        messages.decode_read_test_write,
        messages.decode_read_test_write_answer,
    ):
        try:
            decode(body)
        except FormatError:
            continue
