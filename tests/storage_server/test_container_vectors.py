"""containers/: share files of a real Tahoe server, read, rebuilt byte for byte, and changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lafsfs.formats import base32, keys
from lafsfs.formats.hashing import tagged2
from storage_server import immutable, leases, mutable
from storage_server.changes import Edit, Put, Zero
from storage_server.immutable import ImmutableContainer
from storage_server.leases import DURATION, Lease, LeaseSecrets
from storage_server.mutable import MutableContainer
from tests import vectors_support as vectors
from tests.vectors_support import every_leaf_of, reads

CONTAINERS = vectors.load("containers.json")
PRIMITIVES = vectors.load("primitives.json")
NODEID = base32.decode(CONTAINERS["nodeid_tubid"])

each_container = pytest.mark.parametrize(
    "vector", CONTAINERS["vectors"], ids=vectors.names(CONTAINERS["vectors"])
)


def edited(content: bytes, edits: list[Edit] | list[Put]) -> bytes:
    """What a file of this content becomes: the meaning of edits, without files."""
    result = bytearray(content)
    for edit in edits:
        data = bytes(edit.length) if isinstance(edit, Zero) else bytes(edit.data)
        result += bytes(max(0, edit.offset + len(data) - len(result)))
        result[edit.offset : edit.offset + len(data)] = data
    return bytes(result)


@contextmanager
def opened(content: bytes, directory: Path) -> Iterator[int]:
    path = directory / "share"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def _check_lease(held: Lease, expected: Any) -> None:
    assert held.owner == expected["owner"]
    assert held.expiration == expected["expiration"]
    assert held.renew.hex() == expected["renew_stored_hex"]
    assert held.cancel.hex() == expected["cancel_stored_hex"]
    nodeid = expected["nodeid"]
    assert held.nodeid == (bytes(20) if nodeid is None else base32.decode(nodeid))


def _secrets_of(vector: Any) -> list[LeaseSecrets | None]:
    """The secrets of the leases in order, as far as the vector tells."""
    pairs: list[Any] = []
    if "uploader_secrets" in vector:
        chain = vector["uploader_secrets"]
        pairs.append({"renew_hex": chain["bucket_renew_hex"], "cancel_hex": chain["bucket_cancel_hex"]})
    elif "first_lease" in vector:
        pairs.append(vector["first_lease"])
    elif "lease_secrets" not in vector:
        pairs.append(None)
    if "lease_secrets" in vector:
        pairs += vector["lease_secrets"]
    pairs += vector["leases_added"]
    return [
        pair and LeaseSecrets(bytes.fromhex(pair["renew_hex"]), bytes.fromhex(pair["cancel_hex"]))
        for pair in pairs
    ]


def _check_secrets(held: list[Lease], secrets: list[LeaseSecrets | None], version: int) -> None:
    assert len(held) == len(secrets)
    for lease, secret in zip(held, secrets, strict=True):
        if secret is not None:
            granted = leases.grant(secret, lease.owner, 0, version)
            assert (granted.renew, granted.cancel) == (lease.renew, lease.cancel)


def _check_uploader(chain: Any) -> None:
    """The uploader's chain of secrets: client, file, bucket."""
    for word, tag in (("renew", b"renewal"), ("cancel", b"cancel")):
        file_secret = bytes.fromhex(chain[f"file_{word}_hex"])
        bucket = tagged2(b"allmydata_bucket_%s_secret_v1" % tag, file_secret, NODEID)
        assert bucket.hex() == chain[f"bucket_{word}_hex"]
        client = bytes.fromhex(chain[f"client_{word}_hex"])
        indexes = [base32.decode(v["storage_index"]) for v in vectors.load("chk.json")["vectors"]]
        file_tag = b"allmydata_file_%s_secret_v1" % tag
        assert file_secret in [tagged2(file_tag, client, index) for index in indexes]


def _check_immutable(vector: Any, content: bytes, directory: Path) -> bytes:
    parsed = vector["parsed"]
    with opened(content, directory) as fd:
        container = ImmutableContainer.load(fd)
        held = container.read_leases(fd)
    assert container.version == parsed["version"]
    assert container.size_field == parsed["size_field"]
    assert container.lease_count == parsed["num_leases"] == len(parsed["leases"])
    assert container.data_length == parsed["share_length"]
    for lease, expected in zip(held, parsed["leases"], strict=True):
        _check_lease(lease, expected)
    _check_secrets(held, _secrets_of(vector), container.version)
    return content[immutable.DATA_OFFSET : immutable.DATA_OFFSET + container.data_length]


def _check_mutable(vector: Any, content: bytes, directory: Path) -> bytes:
    parsed = vector["parsed"]
    with opened(content, directory) as fd:
        container = MutableContainer.load(fd)
    assert container.version == parsed["version"]
    assert mutable.magic(container.version).hex() == parsed["magic_hex"]
    assert base32.encode(container.nodeid) == parsed["nodeid"]
    enabler = container.write_enabler.hex()
    assert enabler == parsed["write_enabler_hex"] == vector["write_enabler_hex"]
    assert container.data_length == parsed["data_length"] == parsed["share_length"]
    assert container.extra_offset == parsed["extra_lease_offset"]
    assert len(container.extra) == parsed["num_extra_leases"]
    held = container.all_leases()
    for lease, expected in zip(held, parsed["leases"], strict=True):
        _check_lease(lease, expected)
    _check_secrets(held, _secrets_of(vector), container.version)
    return content[mutable.DATA_OFFSET : mutable.DATA_OFFSET + container.data_length]


@reads("containers.json", "vectors", "nodeid_tubid")
@each_container
def test_parsed(vector: Any, tmp_path: Path) -> None:
    with every_leaf_of(vector) as v:
        assert v["id"]
        assert "storage_index" not in v or len(base32.decode(v["storage_index"])) == 16
        assert "sharenum" not in v or v["sharenum"] >= 0
        content = vectors.share_file(v)
        assert len(content) == v["size"]
        assert hashlib.sha256(content).hexdigest() == v["sha256"]
        if "uploader_secrets" in v:
            _check_uploader(v["uploader_secrets"])
        kind = v["parsed"]["type"]
        check = {"immutable": _check_immutable, "mutable": _check_mutable}[kind]
        data = check(v, content, tmp_path)
        assert hashlib.sha256(data).hexdigest() == v["share_sha256"]


WRITTEN = [vector for vector in CONTAINERS["vectors"] if vector["parsed"]["version"] == 2]

Granted = list[tuple[LeaseSecrets | None, int]]


@reads("containers.json", "vectors")
@pytest.mark.parametrize("vector", WRITTEN, ids=vectors.names(WRITTEN))
def test_rebuilt(vector: Any, tmp_path: Path) -> None:
    """Creating the share and adding its leases one after the other gives Tahoe's file, byte for byte."""
    parsed, content = vector["parsed"], vectors.share_file(vector)
    rebuild = {"immutable": _rebuild_immutable, "mutable": _rebuild_mutable}[parsed["type"]]
    times = [lease["expiration"] - DURATION for lease in parsed["leases"]]
    granted = list(zip(_secrets_of(vector), times, strict=True))
    assert rebuild(content, parsed, granted, tmp_path) == content


def _rebuild_immutable(content: bytes, parsed: Any, granted: Granted, directory: Path) -> bytes:
    data = content[immutable.DATA_OFFSET :][: parsed["share_length"]]
    secrets, time = granted[0]
    assert secrets is not None
    first = leases.pack_immutable(leases.grant(secrets, leases.UPLOADER, time, immutable.WRITTEN_VERSION))
    result = immutable.header(len(data), 1) + data + first
    for secrets, time in granted[1:]:
        assert secrets is not None
        with opened(result, directory) as fd:
            result = edited(result, ImmutableContainer.load(fd).lease_edits(fd, secrets, time))
    return result


def _rebuild_mutable(content: bytes, parsed: Any, granted: Granted, directory: Path) -> bytes:
    capacity = parsed["extra_lease_offset"] - mutable.DATA_OFFSET
    container = MutableContainer.new(NODEID, bytes.fromhex(parsed["write_enabler_hex"]))
    secrets, time = granted[0]
    if secrets is None:  # only its stored form is told
        container.slots[0] = leases.unpack_mutable(content[100 : 100 + leases.MUTABLE_SIZE])
    else:
        container.lease(secrets, time, NODEID)
    result = edited(b"", container.edits())
    for secrets, time in granted[1:]:
        assert secrets is not None
        with opened(result, directory) as fd:
            container = MutableContainer.load(fd)
        container.lease(secrets, time, NODEID)
        result = edited(result, container.edits())
    with opened(result, directory) as fd:
        container = MutableContainer.load(fd)
    container.write(0, content[mutable.DATA_OFFSET :][:capacity])
    container.truncate(parsed["data_length"])
    return edited(result, container.edits())


@reads("containers.json", "vectors")
@each_container
def test_leases_change_nothing_else(vector: Any, tmp_path: Path) -> None:
    """Every lease can be renewed by its secret, forward only, and another one added behind the others."""
    content, parsed = vectors.share_file(vector), vector["parsed"]
    latest = max(lease["expiration"] for lease in parsed["leases"])
    for position, secret in enumerate(_secrets_of(vector)):
        if secret is None:
            continue
        for now in (latest + 5, latest - 10**8):
            result, held = _with_lease(parsed["type"], content, secret, now, tmp_path)
            expected = max(parsed["leases"][position]["expiration"], now + DURATION)
            assert [lease.expiration for lease in held] == [
                expected if place == position else lease["expiration"]
                for place, lease in enumerate(parsed["leases"])
            ]
            assert len(result) == len(content)
            assert sum(a != b for a, b in zip(result, content, strict=True)) <= 4
    stranger = LeaseSecrets(b"r" * 32, b"c" * 32)
    _, held = _with_lease(parsed["type"], content, stranger, latest, tmp_path)
    assert len(held) == len(parsed["leases"]) + 1
    added = leases.grant(stranger, leases.ADDED, latest, parsed["version"], held[-1].nodeid)
    assert held[-1] == added


def _with_lease(
    kind: str, content: bytes, secrets: LeaseSecrets, now: int, directory: Path
) -> tuple[bytes, list[Lease]]:
    with opened(content, directory) as fd:
        if kind == "immutable":
            result = edited(content, ImmutableContainer.load(fd).lease_edits(fd, secrets, now))
        else:
            container = MutableContainer.load(fd)
            container.lease(secrets, now, NODEID)
            result = edited(content, container.edits())
    with opened(result, directory) as fd:
        if kind == "immutable":
            return result, ImmutableContainer.load(fd).read_leases(fd)
        return result, MutableContainer.load(fd).all_leases()


@reads("primitives.json", "lease_hash")
def test_stored_secrets() -> None:
    for vector in PRIMITIVES["lease_hash"]:
        with every_leaf_of(vector) as v:
            secret = bytes.fromhex(v["secret_hex"])
            assert keys.stored_lease_secret(secret).hex() == v["stored_hex"]
            assert leases.grant(LeaseSecrets(secret, secret), 1, 0, 2).renew.hex() == v["stored_hex"]
            assert leases.grant(LeaseSecrets(secret, secret), 1, 0, 1).renew == secret


@reads("primitives.json", "mutable_magic")
def test_magic() -> None:
    with every_leaf_of(PRIMITIVES["mutable_magic"]) as magics:
        for version in magics:
            assert mutable.magic(int(version)).hex() == magics[version]
