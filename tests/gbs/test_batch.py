"""Batches: round trips, and refusal of everything else."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.errors import FormatError
from lafsfs.gbs import batch
from lafsfs.gbs.batch import Outcome, Part

texts = st.text(st.characters(max_codepoint=127), max_size=40)
headers = st.lists(st.tuples(texts, texts), max_size=8)
parts = st.builds(Part, texts, texts, headers, st.binary(max_size=200))
outcomes = st.builds(Outcome, st.integers(200, 599), headers, st.binary(max_size=200))


@given(st.lists(parts, min_size=1, max_size=batch.MAX_PARTS))
def test_parts(many: list[Part]) -> None:
    assert batch.decode_parts(batch.encode_parts(many)) == many


@given(st.lists(outcomes, max_size=batch.MAX_PARTS))
def test_outcomes(many: list[Outcome]) -> None:
    encoded = batch.encode_outcomes(many)
    assert batch.decode_outcomes(encoded, len(many)) == many
    for count in (len(many) - 1, len(many) + 1):
        with pytest.raises(FormatError):
            batch.decode_outcomes(encoded, count)


PART: list[Any] = ["GET", "/path", [], b""]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        b"",
        [PART] * (batch.MAX_PARTS + 1),
        [PART, []],
        [PART[:3]],
        [[*PART, b""]],
        [["GET", "/path", ["Accept"], b""]],
        [["GET", "/path", ["Accept", b"text"], b""]],
        [["GET", "/path", ["a", "b"] * 17, b""]],
        [["GET", "/path", {}, b""]],
        [["GET", "/path", [], "text"]],
        [[b"GET", "/path", [], b""]],
        [["GET", "/päth", [], b""]],
    ],
)
def test_what_is_no_batch(body: object) -> None:
    with pytest.raises(FormatError):
        batch.decode_parts(cbor2.dumps(body))


@pytest.mark.parametrize(
    "body", [{}, [[200, []]], [[100, [], b""]], [[600, [], b""]], [["200", [], b""]], [[200, [], ""]]]
)
def test_what_is_no_answer(body: object) -> None:
    with pytest.raises(FormatError):
        batch.decode_outcomes(cbor2.dumps(body), 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    for decode in (batch.decode_parts, lambda body: batch.decode_outcomes(body, 1)):
        try:
            decode(data)
        except FormatError:
            continue
