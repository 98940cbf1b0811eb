"""`lafs-storage` and Tahoe-LAFS 1.20: each other's directories, and Tahoe's client on our server."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from lafsfs.formats import base32
from lafsfs.gbs.messages import TestWrite
from storage_server.immutable import ImmutableContainer
from storage_server.leases import LeaseSecrets, grant
from storage_server.mutable import MutableContainer
from tests.support.gbs_client import GbsClient
from tests.support.storage import StorageServer, storage_servers
from tests.support.tahoe import TURN_SECONDS, TahoeClient, tahoe_client, tahoe_storage

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300)]

IMMUTABLE, SLOT = b"i" * 16, b"m" * 16


def _data(label: str, size: int) -> bytes:
    return hashlib.shake_128(label.encode()).digest(size)


def _fill(client: GbsClient) -> None:
    """Immutable shares 0 and 4, a slot with shares 0 and 2 that grew, shrank and has many leases."""
    for shnum, size in ((0, 3000), (4, 300_000)):
        data = _data(f"share{shnum}", size)
        client.allocate(IMMUTABLE, [shnum], size)
        assert client.write(IMMUTABLE, shnum, 0, data)[0] == 201
    first = {0: TestWrite([(0, 1, b"")], [(0, b"a" * 900)]), 2: TestWrite([], [(50, b"z")])}
    assert client.read_test_write(SLOT, first)[0] == 200
    for number in range(6):
        assert client.add_lease(SLOT, f"lease{number}") == 204
        assert client.add_lease(IMMUTABLE, f"lease{number}") == 204
    second = {0: TestWrite([(0, 900, b"a" * 900)], [(1500, b"far")], 1501)}
    assert client.read_test_write(SLOT, second)[0] == 200


def _check(client: GbsClient) -> None:
    """What `_fill` left is there; and it can be changed, renewed and taken back to where it was."""
    assert client.shares("immutable", IMMUTABLE) == {0, 4}
    assert client.read("immutable", IMMUTABLE, 0).body == _data("share0", 3000)
    assert client.read("immutable", IMMUTABLE, 4).body == _data("share4", 300_000)
    assert client.shares("mutable", SLOT) == {0, 2}
    slot = b"a" * 900 + bytes(600) + b"f"
    assert client.read("mutable", SLOT, 0).body == slot
    assert client.read("mutable", SLOT, 2).body == bytes(50) + b"z"
    assert client.read_test_write(SLOT, {0: TestWrite([], [(0, b"no")])}, enabler="wrong")[0] == 401
    for change in (TestWrite([(0, 2000, slot)], [(4000, b"beyond")]), TestWrite([], [(0, slot)], len(slot))):
        status, answer = client.read_test_write(SLOT, {0: change}, [(0, 3)])
        assert (status, answer is not None and answer.success) == (200, True)
    for number in (0, 5):
        assert client.add_lease(SLOT, f"lease{number}") == 204
        assert client.add_lease(IMMUTABLE, f"lease{number}") == 204
    assert client.allocate(IMMUTABLE, [0, 4], 3000).already_have == {0, 4}


def _lease_count(storage_dir: Path) -> list[int]:
    counts = []
    for index, shnum in ((IMMUTABLE, 0), (IMMUTABLE, 4), (SLOT, 0), (SLOT, 2)):
        name = base32.encode(index)
        fd = os.open(storage_dir / "shares" / name[:2] / name / str(shnum), os.O_RDONLY)
        try:
            if index == IMMUTABLE:
                held = ImmutableContainer.load(fd).read_leases(fd)
            else:
                held = MutableContainer.load(fd).all_leases()
        finally:
            os.close(fd)
        secrets = list(GbsClient.lease_secrets("lease3").values())
        assert grant(LeaseSecrets(*secrets), 1, 0, 2).renew in [lease.renew for lease in held]
        counts.append(len(held))
    return counts


def test_we_serve_a_directory_that_tahoe_left(tmp_path: Path) -> None:
    with tahoe_storage(tmp_path / "node") as node:
        with GbsClient(node.nurl) as client:
            _fill(client)
            client.allocate(os.urandom(16), [1], 5000)  # left in incoming/
        before = _lease_count(node.storage_dir)
        node.stop()
        with storage_servers(tmp_path, 1, ("--storage-dir", str(node.storage_dir))) as [server]:
            with GbsClient(server.nurl) as client:
                _check(client)
            assert _lease_count(node.storage_dir) == before
        node.start()
        with GbsClient(node.nurl) as client:
            _check(client)


def test_tahoe_serves_a_directory_that_we_left(tmp_path: Path) -> None:
    with storage_servers(tmp_path) as [server]:
        with GbsClient(server.nurl) as client:
            _fill(client)
            client.allocate(os.urandom(16), [1], 500_000)
        before = _lease_count(server.storage_dir)
        server.kill()  # not even an orderly end is needed
        with tahoe_storage(tmp_path / "node", start=False) as node:
            shutil.copytree(server.storage_dir, node.storage_dir, dirs_exist_ok=True)
            node.start()
            with GbsClient(node.nurl) as client:
                _check(client)
            assert _lease_count(node.storage_dir) == before
            node.stop()
            shutil.rmtree(server.storage_dir)
            shutil.copytree(node.storage_dir, server.storage_dir)
        server.start()
        with GbsClient(server.nurl) as client:
            _check(client)


def test_the_same_requests_leave_the_same_files(tmp_path: Path) -> None:
    """Containers written by both, apart from times and node ids."""
    with tahoe_storage(tmp_path / "node") as node, storage_servers(tmp_path) as [server]:
        for nurl in (node.nurl, server.nurl):
            with GbsClient(nurl) as client:
                _fill(client)
        for index, shnum in ((IMMUTABLE, 0), (IMMUTABLE, 4), (SLOT, 0), (SLOT, 2)):
            name = base32.encode(index)
            place = Path("shares", name[:2], name, str(shnum))
            ours, theirs = ((top / place).read_bytes() for top in (server.storage_dir, node.storage_dir))
            assert len(ours) == len(theirs)
            ours = ours.replace(server.furl.tubid, node.furl.tubid)
            different = [at for at, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
            assert len(different) <= 4 * 8  # expirations of at most eight leases


def _announcements(servers: list[StorageServer]) -> dict[str, dict[str, object]]:
    return {server.server_id: server.announcement() for server in servers}


def _use_everything(client: TahoeClient) -> dict[str, bytes]:
    """Upload and change files of every kind; what each cap holds."""
    contents = {}
    for size in (56, 5000, 3_000_000):
        data = _data(f"chk{size}", size)
        contents[client.put(data)] = data
    for form in ("SDMF", "MDMF"):
        cap = client.put(_data(form, 300_000), form)
        client.request("PUT", f"/uri/{cap}", _data(form + "2", 200_000))
        client.request("PUT", f"/uri/{cap}?offset=150000", b"patched")
        data = bytearray(_data(form + "2", 200_000))
        data[150_000:150_007] = b"patched"
        contents[cap] = bytes(data)
    return contents


def _check_healthy(client: TahoeClient, cap: str) -> None:
    """Every share is found good, as soon as Tahoe has noticed that its servers are back."""
    deadline = time.monotonic() + 60
    results = client.check(cap)
    while not results["healthy"]:
        assert time.monotonic() < deadline, results
        time.sleep(TURN_SECONDS)
        results = client.check(cap)
    assert results["count-shares-good"] == 3


def test_tahoe_client_on_our_servers(tmp_path: Path) -> None:
    """servers.yaml, no introducer: uploads, reads, changes, directories, verification; then our restart."""
    with (
        storage_servers(tmp_path, 3) as servers,
        tahoe_client(tmp_path / "client", _announcements(servers), k=2, happy=3, n=3) as client,
    ):
        contents = _use_everything(client)
        directory = client.request("POST", "/uri?t=mkdir").decode()
        first = next(iter(contents))
        client.request("PUT", f"/uri/{directory}/name?t=uri", first.encode())
        for server in servers:
            server.kill()
            server.start()
        for cap, data in contents.items():
            assert client.get(cap) == data
            _check_healthy(client, cap)
        listing = json.loads(client.request("GET", f"/uri/{directory}?t=json"))
        assert listing[1]["children"]["name"][1]["ro_uri"] == first
