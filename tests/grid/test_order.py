"""Server order, grid managers and the Authorization header."""

from __future__ import annotations

import base64
import datetime
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lafsfs.config import ClientSecrets, GridProfile, ServerEntry, SignedCertificate
from lafsfs.errors import ServerUnreachableError
from lafsfs.formats import base32
from lafsfs.gbs.headers import authorization
from lafsfs.gbs.nurl import Nurl
from lafsfs.grid.managers import may_receive_shares
from lafsfs.grid.servers import Grid, permuted_position
from tests import vectors_support as vectors
from tests.vectors_support import every_leaf_of, reads

_PRIMITIVES = vectors.load("primitives.json")
_PIN = base64.urlsafe_b64encode(bytes(32)).decode().rstrip("=")
_SECRETS = ClientSecrets(b"c" * 32, b"l" * 32)


def _entry(name: str, seed: bytes = b"", certificates: tuple[SignedCertificate, ...] = ()) -> ServerEntry:
    nurl = Nurl.parse(f"pb://{_PIN}@127.0.0.1:1/swissnum#v=1")
    return ServerEntry(name, (nurl,), None, seed, "", certificates)


@reads("primitives.json", "authorization")
@pytest.mark.parametrize("vector", _PRIMITIVES["authorization"])
def test_authorization_header(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        assert authorization(v["swissnum"]) == v["header"]


@reads("primitives.json", "permuted")
@pytest.mark.parametrize("vector", _PRIMITIVES["permuted"])
async def test_permuted_order_of_vectors(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        storage_index = bytes.fromhex(v["storage_index_hex"])
        seeds = [bytes.fromhex(text) for text in v["seeds_hex"].plain()]
        entries = tuple(_entry(str(i), seed) for i, seed in enumerate(seeds))
        order = Grid(GridProfile(entries), _SECRETS).permuted(storage_index)
        assert [int(server.server_id) for server in order] == v["order"].plain()


async def test_preferred_servers_come_first_and_quarantined_ones_last() -> None:
    entries = tuple(_entry(str(i), bytes([i])) for i in range(6))
    grid = Grid(GridProfile(entries, preferred=("4", "2")), _SECRETS)
    storage_index = bytes(16)
    plain = sorted("0123456789"[:6], key=lambda name: permuted_position(storage_index, bytes([int(name)])))
    rest = [name for name in plain if name not in "42"]
    assert [s.server_id for s in grid.permuted(storage_index)] == [n for n in plain if n in "42"] + rest
    bad = next(server for server in grid.servers if server.server_id == "4")
    bad.health.failed(ServerUnreachableError("gone"))
    assert [s.server_id for s in grid.permuted(storage_index)] == ["2", *rest, "4"]
    bad.health.succeeded(0.1)
    assert grid.permuted(storage_index)[0].server_id in "42"


_MANAGER = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
_KEY = _MANAGER.public_key().public_bytes_raw()
_SERVER_ID = "v0-" + base32.encode(b"s" * 32)
_NOW = datetime.datetime(2024, 5, 1, 12, 0, tzinfo=datetime.UTC)


def _certificate(signer: Ed25519PrivateKey = _MANAGER, **changes: object) -> SignedCertificate:
    fields = {"expires": "2024-05-01T12:00:01+00:00", "public_key": f"pub-{_SERVER_ID}", "version": 1}
    text = json.dumps(fields | changes)
    return SignedCertificate(text, signer.sign(text.encode()))


def test_a_valid_certificate_allows_uploads() -> None:
    assert may_receive_shares(_entry(_SERVER_ID, certificates=(_certificate(),)), (bytes(32), _KEY), _NOW)


def test_without_managers_everybody_may_receive_shares() -> None:
    assert may_receive_shares(_entry(_SERVER_ID), (), _NOW)


@pytest.mark.parametrize(
    "certificate",
    [
        _certificate(expires="2024-05-01T12:00:00+00:00"),
        _certificate(expires="2024-05-01T13:00:00+02:00"),
        _certificate(public_key="pub-v0-" + base32.encode(b"x" * 32)),
        _certificate(version=2),
        _certificate(expires="tomorrow"),
        _certificate(expires=None),
        _certificate(Ed25519PrivateKey.from_private_bytes(b"n" * 32)),
        SignedCertificate("[]", _MANAGER.sign(b"[]")),
        SignedCertificate("no JSON", _MANAGER.sign(b"no JSON")),
        SignedCertificate(_certificate().text + " ", _certificate().signature),
    ],
)
def test_any_other_certificate_does_not(certificate: SignedCertificate) -> None:
    assert not may_receive_shares(_entry(_SERVER_ID, certificates=(certificate,)), (_KEY,), _NOW)


async def test_uploads_leave_out_servers_without_certificate() -> None:
    good = _entry(_SERVER_ID, certificates=(_certificate(expires="2999-01-01T00:00:00+00:00"),))
    grid = Grid(GridProfile((good, _entry("other")), grid_manager_keys=(_KEY,)), _SECRETS)
    assert [server.server_id for server in grid.for_upload(bytes(16))] == [_SERVER_ID]
    assert len(grid.permuted(bytes(16))) == 2
