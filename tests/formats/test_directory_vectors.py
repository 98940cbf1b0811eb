"""dirs.json: directories of every kind, from shares to children and back."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from lafsfs.errors import FormatError
from lafsfs.formats import aes, base32, caps, chk, dirnode, erasure, keys, mutable_share
from tests import vectors_support as vectors
from tests.formats.test_mutable_vectors import _decode, _encode, signing_key
from tests.vectors_support import every_leaf_of, reads

DIRS = vectors.load("dirs.json")
VECTORS = DIRS["vectors"]


def _cap(vector: Any) -> caps.DirCap:
    cap = caps.parse(vector["cap"])
    assert isinstance(cap, caps.DirCap)
    return cap


def _writekey(cap: caps.DirCap) -> bytes | None:
    return cap.file.writekey if isinstance(cap.file, caps.MutableWriteCap) else None


@reads("dirs.json", "referenced")
def test_referenced_caps_parse() -> None:
    for entry in DIRS["referenced"].values():
        with every_leaf_of(entry if isinstance(entry, dict) else {"cap": entry}) as v:
            cap = caps.parse(v["cap"])
            assert not isinstance(cap, caps.UnknownCap)
            assert cap.to_string() == v["cap"]
            if "seed" in v:
                assert isinstance(cap, caps.ChkCap)
                assert len(vectors.recipe(v["seed"], v["size"])) == cap.size


@reads("dirs.json", "vectors")
@pytest.mark.parametrize("vector", VECTORS, ids=vectors.names(VECTORS))
def test_directory(vector: Any) -> None:
    cap = _cap(vector)
    with every_leaf_of(vector) as v:
        assert v["id"]
        assert all(isinstance(step, str) for step in v["steps"].plain())
        assert cap.to_string() == v["cap"]
        assert cap.read_cap().to_string() == v["read_cap"]
        verifier = cap.verify_cap()
        assert (verifier.to_string() if verifier else None) == (v["verify_cap"] or None)
        assert (base32.encode(cap.storage_index) if cap.storage_index else None) == (
            v["storage_index"] or None
        )
        packed = base64.b64decode(v["packed_b64"])
        _check_shares(cap, v, packed)
        children = _check_children(cap, v["children"].plain(), packed)
        assert _web_api(cap, children) == v["webapi_json"].plain()


def _check_shares(cap: caps.DirCap, v: Any, packed: bytes) -> None:
    """The shares hold `packed`, and come out of it again byte for byte."""
    layout = v["format"]
    assert 1 <= v["k"] <= v["n"]
    if isinstance(cap.file, caps.LiteralCap):
        assert (layout, cap.file.data) == ("LIT", packed)
        assert "shares" not in v
        return
    entries = {int(number): entry for number, entry in v["shares"].plain().items()}
    shares = {number: vectors.share_file(entry) for number, entry in entries.items() if "file" in entry}
    for number, share in shares.items():
        assert len(share) == entries[number]["size"]
        assert hashlib.sha256(share).hexdigest() == entries[number]["sha256"]
    assert len(shares) >= v["k"]
    if isinstance(cap.file, caps.ChkCap):
        assert layout == "CHK"
        assert (cap.file.k, cap.file.n, cap.file.size) == (v["k"], v["n"], len(packed))
        assert _read_chk(cap.file, shares) == packed
    else:
        _check_mutable(cap.file, v, shares, packed)


def _check_mutable(cap: caps.FileCap, v: Any, shares: dict[int, bytes], packed: bytes) -> None:
    assert isinstance(cap, caps.MutableWriteCap)
    # The format is the one asked for; Tahoe makes an SDMF directory when children are given with it.
    assert v["format"] == "MDMF" or not cap.mdmf
    key = signing_key(v["key"])
    (header,) = {mutable_share.check_share(s, number, cap.fingerprint) for number, s in shares.items()}
    assert (header.is_mdmf, header.k, header.n) == (cap.mdmf, v["k"], v["n"])
    chosen = dict(list(shares.items())[-header.k :])
    assert _decode(header, chosen, key) == packed
    made = _encode(header, next(iter(shares.values())), packed, key)
    for number, share in shares.items():
        assert made[number] == share[: header.eof]


def _read_chk(cap: caps.ChkCap, shares: dict[int, bytes]) -> bytes:
    """The contents of a one-segment CHK file (its own vectors check the rest of the format)."""
    numbers = sorted(shares)[-cap.k :]
    params = chk.params_for(cap.size, cap.k, cap.n)
    blocks = [shares[i][0x24 : 0x24 + params.segsize // cap.k] for i in numbers]
    ciphertext = b"".join(bytes(piece) for piece in erasure.decode(cap.k, cap.n, blocks, numbers))
    return aes.crypt(cap.key, ciphertext[: cap.size])


def _check_children(
    cap: caps.DirCap, expected: list[Any], data: bytes
) -> list[tuple[str, dirnode.Child, Any]]:
    """Entries are understood as Tahoe does, and packing them anew gives the same bytes."""
    writekey, immutable = _writekey(cap), not cap.is_mutable
    packed = dirnode.Packed.parse(data)
    assert packed.pack() == data
    found, fresh = [], {}
    for name in packed.names():
        entry = packed.get(name)
        assert entry is not None
        child = dirnode.child_caps(entry, writekey, immutable)
        metadata = dirnode.parse_metadata(entry.metadata)
        found.append((name, child, metadata))
        stored_ro = entry.ro_uri if child.unknown else child.ro_uri
        stored_rw = dirnode.open_rw(entry.rwdata, writekey) if writekey else b""
        fresh[name] = dirnode.make_entry(
            name, stored_ro, stored_rw, dirnode.pack_metadata(metadata), writekey
        )
        assert dirnode.child_entry(name, child, metadata, writekey) == fresh[name] == entry.raw
    assert dirnode.Packed().with_changes(fresh).pack() == data
    described = [
        {
            "metadata": metadata,
            "name": name,
            "ro_uri": child.ro_uri.decode() or None,
            "rw_uri": child.rw_uri.decode() or None,
            "unknown": child.unknown,
        }
        for name, child, metadata in found
    ]
    assert described == expected
    return found


def _web_api(cap: caps.DirCap, children: list[tuple[str, dirnode.Child, Any]]) -> list[Any]:
    """What `?t=json` shows of a directory."""
    listing = {name: _describe(child, {"metadata": metadata}) for name, child, metadata in children}
    kind, fields = _describe(dirnode.Child.of(cap), {})
    return [kind, {**fields, "children": listing}]


def _describe(child: dirnode.Child, extra: dict[str, Any]) -> list[Any]:
    fields = dict(extra)
    if child.ro_uri:
        fields["ro_uri"] = child.ro_uri.decode()
    if child.rw_uri:
        fields["rw_uri"] = child.rw_uri.decode()
    if isinstance(child.cap, caps.UnknownCap):
        return ["unknown", fields]
    verifier = child.cap.verify_cap()
    if verifier is not None:
        fields["verify_uri"] = verifier.to_string()
    fields["mutable"] = child.cap.is_mutable
    if isinstance(child.cap, caps.DirCap):
        return ["dirnode", fields]
    if isinstance(child.cap, caps.MutableWriteCap | caps.MutableReadCap):
        fields["format"] = "MDMF" if child.cap.mdmf else "SDMF"
    elif isinstance(child.cap, caps.ChkCap | caps.LiteralCap):
        fields.update(format="CHK", size=child.cap.size)
    return ["filenode", fields]


@reads("dirs.json", "vectors")
@pytest.mark.parametrize("vector", VECTORS, ids=vectors.names(VECTORS))
def test_readers_see_no_write_caps(vector: Any) -> None:
    cap = _cap(vector)
    packed = dirnode.Packed.parse(base64.b64decode(vector["packed_b64"]))
    for expected in vector["children"]:
        entry = packed.get(expected["name"])
        assert entry is not None
        child = dirnode.child_caps(entry, None, not cap.is_mutable)
        assert (child.rw_uri, child.ro_uri.decode() or None) == (b"", expected["ro_uri"])


@reads("dirs.json", "vectors")
@pytest.mark.parametrize("vector", [v for v in VECTORS if _cap(v).is_mutable], ids=lambda v: str(v["id"]))
def test_mutable_children_are_refused_in_immutable_directories(vector: Any) -> None:
    """The same entries in a deeply immutable directory: what is mutable or sealed there is refused."""
    packed = dirnode.Packed.parse(base64.b64decode(vector["packed_b64"]))
    for name in packed.names():
        entry = packed.get(name)
        assert entry is not None
        with pytest.raises(FormatError):
            dirnode.child_caps(entry, None, deep_immutable=True)
        bare = dirnode.Entry(name, entry.ro_uri, b"", entry.metadata, b"")
        cap = caps.parse(entry.ro_uri)
        if not isinstance(cap, caps.UnknownCap) and cap.is_mutable:
            with pytest.raises(FormatError):
                dirnode.child_caps(bare, None, deep_immutable=True)
        else:
            assert dirnode.child_caps(bare, None, deep_immutable=True).rw_uri == b""


@reads("dirs.json", "vectors")
@pytest.mark.parametrize("vector", VECTORS, ids=vectors.names(VECTORS))
def test_metadata_is_json_as_python_writes_it(vector: Any) -> None:
    packed = dirnode.Packed.parse(base64.b64decode(vector["packed_b64"]))
    for name in packed.names():
        entry = packed.get(name)
        assert entry is not None
        assert json.dumps(json.loads(entry.metadata)).encode() == entry.metadata


def test_storage_index_of_a_directory_is_that_of_its_file() -> None:
    for vector in VECTORS:
        cap = _cap(vector)
        if isinstance(cap.file, caps.MutableWriteCap):
            assert cap.storage_index == keys.mutable_storage_index_of(keys.readkey_of(cap.file.writekey))
