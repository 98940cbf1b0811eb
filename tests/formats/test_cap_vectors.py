"""caps.json and lit.json: every cap string, with what follows from it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from lafsfs.formats import base32, caps, chk
from tests import vectors_support as vectors
from tests.vectors_support import every_leaf_of, reads

CAPS = vectors.load("caps.json")
LITERALS = vectors.load("lit.json")["vectors"]

ERRORS = {
    "BadURIError": caps.BadCapStringError,
    "MustBeReadonlyError": caps.MustBeReadonlyError,
    "MustBeDeepImmutableError": caps.MustBeDeepImmutableError,
}
BINARY_FIELDS = {
    "key_b32": "key",
    "uri_extension_hash_b32": "ueb_hash",
    "fingerprint_b32": "fingerprint",
    "readkey_b32": "readkey",
    "writekey_b32": "writekey",
}
NUMBER_FIELDS = {"needed_shares": "k", "total_shares": "n", "size": "size"}


def _check_known(v: Any) -> None:
    """Everything that a vector says about a usable cap."""
    cap = caps.parse(v["cap"])
    assert not isinstance(cap, caps.UnknownCap)
    assert caps.parse(v["cap"].encode()) == cap
    assert cap.to_string() == v["normal"]
    assert cap.to_bytes() == v["normal"].encode()
    assert v["normal"].startswith(v["kind"] + ":")
    assert caps.parse(v["normal"]) == cap
    assert (cap.is_mutable, not cap.is_writable) == (v["mutable"], v["readonly"])
    assert cap.is_verifier == v["kind"].endswith("-Verifier")
    assert cap.read_cap().to_string() == v["readcap"]
    verifier = cap.verify_cap()
    assert (verifier and verifier.to_string()) == v["verifycap"]
    assert (cap.storage_index and base32.encode(cap.storage_index)) == v["storage_index"]
    assert isinstance(cap, caps.DirCap) == v["kind"].startswith("URI:DIR2")
    file = cap.file if isinstance(cap, caps.DirCap) else cap
    for name, attribute in BINARY_FIELDS.items():
        if name in v:
            assert base32.encode(getattr(file, attribute)) == v[name]
    for name, attribute in NUMBER_FIELDS.items():
        if name in v:
            assert getattr(file, attribute) == v[name]
    secret = v["normal"].split(":")[2]
    assert not secret or secret not in repr(cap)


def _check_unknown(cap: caps.Cap, text: str, error: str | None) -> None:
    assert isinstance(cap, caps.UnknownCap)
    assert cap.text == text.encode()
    assert type(cap.error) is (type(None) if error is None else ERRORS[error])
    assert repr(cap) == "UnknownCap()"


@reads("caps.json", "good")
@pytest.mark.parametrize("vector", CAPS["good"], ids=vectors.names(CAPS["good"]))
def test_good(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        _check_known(v)


@reads("caps.json", "odd")
@pytest.mark.parametrize("vector", CAPS["odd"], ids=vectors.names(CAPS["odd"]))
def test_odd(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        if v["kind"] == "unknown":
            _check_unknown(caps.parse(v["cap"]), v["cap"], v["error"])
        else:
            _check_known(v)


@reads("caps.json", "deep_immutable")
@pytest.mark.parametrize("vector", CAPS["deep_immutable"], ids=vectors.names(CAPS["deep_immutable"]))
def test_deep_immutable(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        cap = caps.parse(v["cap"], deep_immutable=True)
        if v["accepted"]:
            assert v["error"] is None
            assert cap == caps.parse(v["cap"])
        else:
            _check_unknown(cap, v["cap"], v["error"])


@reads("lit.json", "vectors")
@pytest.mark.parametrize("vector", LITERALS, ids=vectors.names(LITERALS))
def test_literal(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        data = base64.b64decode(v["data_b64"])
        assert v["id"]
        assert len(data) == v["size"]
        if v["seed"] is not None:
            assert data == vectors.recipe(v["seed"], v["size"])
        assert len(data) <= chk.MAX_LITERAL_SIZE
        assert caps.LiteralCap(data).to_string() == v["cap"]
        parsed = caps.parse(v["cap"])
        assert isinstance(parsed, caps.LiteralCap)
        assert parsed.data == data
