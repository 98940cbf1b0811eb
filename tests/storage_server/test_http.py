"""What the server answers: every status of section 9, bodies that are wrong, cut off, or too large."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lafsfs.formats import base32
from lafsfs.gbs import headers, messages, routes
from lafsfs.gbs.headers import SecretKind
from lafsfs.gbs.messages import Allocated, TestWrite
from lafsfs.gbs.nurl import spki_hash
from tests.support.gbs_client import GbsClient
from tests.support.storage import StorageServer

UPLOAD = {SecretKind.UPLOAD: b"upload"}
DEADLINE = 20.0


@pytest.fixture
def si() -> bytes:
    return os.urandom(16)


def _range(begin: int, end: int) -> list[tuple[str, str]]:
    return [("Content-Range", headers.content_range(begin, end))]


# --- identity and TLS --------------------------------------------------------------------------------


def test_names_follow_from_the_certificate(server: StorageServer, client: GbsClient) -> None:
    der = client.certificate()
    spki = x509.load_der_x509_certificate(der).public_key()
    info = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    assert spki_hash(spki.public_bytes(*info)) == server.nurl.spki
    assert server.furl.tubid == hashlib.sha1(der).digest()
    assert server.server_id == "v0-" + base32.encode(server.permutation_seed)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_tls_is_refused(server: StorageServer) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)


def test_nothing_secret_is_shown(server: StorageServer) -> None:
    arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes()
    for text in (arguments, server.log.read_bytes()):
        assert server.nurl.swissnum.encode() not in text
    for path in (server.directory / "identity").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600


# --- paths, methods, headers --------------------------------------------------------------------------


def test_paths_and_methods(client: GbsClient, si: bytes) -> None:
    assert client.request("GET", "/").status == 404
    assert client.request("GET", "/storage/v1/other").status == 404
    assert client.request("POST", routes.VERSION, body=b"").status == 405
    assert client.request("GET", routes.allocate(si)).status == 405
    head = client.request("HEAD", routes.VERSION)
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) == len(client.request("GET", routes.VERSION).body)


def test_joined_secrets_are_refused(server: StorageServer, client: GbsClient, si: bytes) -> None:
    values = [value for _, value in headers.secret_lines(client.lease_secrets())]
    authorization = (headers.AUTHORIZATION, headers.authorization(server.nurl.swissnum))
    joined = [authorization, (headers.SECRET_HEADER, ", ".join(values))]
    assert client.exchange("PUT", routes.lease(si), joined).status == 400
    separate = [authorization, *((headers.SECRET_HEADER, value) for value in values)]
    assert client.exchange("PUT", routes.lease(si), separate).status == 404


def test_accept(server: StorageServer, client: GbsClient) -> None:
    for accept, status in [
        (None, 200),
        ("*/*", 200),
        ("text/html, application/cbor;q=0.5", 200),
        ("text/html", 406),
    ]:
        lines = [(headers.AUTHORIZATION, headers.authorization(server.nurl.swissnum))]
        lines += [("Accept", accept)] if accept else []
        assert client.exchange("GET", routes.VERSION, lines).status == status


@pytest.mark.parametrize("body", [b"", b"\xff", b"not cbor at all", b"\x00", cbor2.dumps({"a": 1}) + b"\x00"])
def test_bodies_that_are_no_messages(client: GbsClient, si: bytes, body: bytes) -> None:
    secrets = {**client.lease_secrets(), **UPLOAD}
    assert client.request("POST", routes.allocate(si), secrets, body).status == 400
    enabler = {**client.lease_secrets(), SecretKind.WRITE_ENABLER: bytes(32)}
    assert client.request("POST", routes.read_test_write(si), enabler, body).status == 400
    assert client.request("POST", routes.immutable_corrupt(si, 0), None, body).status == 400


def test_bodies_that_are_too_large(server: StorageServer, client: GbsClient, si: bytes) -> None:
    secrets = {**client.lease_secrets(), **UPLOAD}
    assert client.request("POST", routes.allocate(si), secrets, bytes(8193)).status == 413
    assert client.request("POST", routes.mutable_corrupt(si, 0), None, bytes(32769)).status == 413
    # Chunked: no size is announced, and the limit holds all the same.
    lines = [
        (headers.AUTHORIZATION, headers.authorization(server.nurl.swissnum)),
        ("Transfer-Encoding", "chunked"),
        *headers.secret_lines(secrets),
    ]
    body = b"2001\r\n" + bytes(0x2001) + b"\r\n0\r\n\r\n"
    assert client.exchange("POST", routes.allocate(si), lines, body).status == 413


# --- immutable shares ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 200_000])
def test_an_upload_in_pieces(client: GbsClient, si: bytes, size: int) -> None:
    data = os.urandom(size)
    half = size // 2
    assert client.allocate(si, [0, 9], size).allocated == {0, 9}
    assert client.write(si, 0, half, data[half:]) == (200, ((0, half),))
    assert client.shares("immutable", si) == frozenset()
    assert client.write(si, 0, 0, data[:half]) == (201, ())
    assert client.shares("immutable", si) == {0}
    assert client.read("immutable", si, 0).body == data
    assert client.read("immutable", si, 0, half, 10).body == data[half : half + 10]
    again = client.allocate(si, [0, 9, 10], size, b"somebody else")
    assert (again.already_have, again.allocated) == ({0}, {10})


def test_whole_shares(client: GbsClient, si: bytes) -> None:
    data = {number: os.urandom(900) for number in (0, 3, 5)}
    assert client.put_shares(si, {0: data[0]}) == Allocated(frozenset({0}), frozenset())
    assert client.read("immutable", si, 0).body == data[0]
    # What is there stays as it is, and what is in progress belongs to who began it.
    assert client.allocate(si, [5], 900, b"somebody else").allocated == {5}
    answer = client.put_shares(si, {0: bytes(900), 3: data[3], 5: data[5]})
    assert answer == Allocated(frozenset({0, 3}), frozenset())
    assert client.read("immutable", si, 0).body == data[0]
    assert client.shares("immutable", si) == {0, 3}
    assert client.write(si, 5, 0, data[5], b"somebody else")[0] == 201
    assert client.put_shares(si, {5: bytes(900)}).already_have == {0, 3, 5}
    assert client.read("immutable", si, 5).body == data[5]


def test_whole_shares_have_leases(server: StorageServer, client: GbsClient, si: bytes) -> None:
    for label, leases in [("one", 1), ("another", 2), ("one", 2)]:
        client.put_shares(si, {0: b"data"}, label=label)
        (path,) = (server.storage_dir / "shares").glob(f"*/{base32.encode(si)}/0")
        assert int.from_bytes(path.read_bytes()[8:12], "big") == leases


def test_whole_shares_that_are_too_large(client: GbsClient, si: bytes) -> None:
    secrets = client.lease_secrets()
    path = routes.allocate(si)
    most = messages.MAX_WHOLE_SHARES
    assert client.request("GET", routes.VERSION).headers["lafs-whole-shares"] == str(most)
    assert client.request("PUT", path, secrets, bytes(messages.MAX_PUT_BODY + 1)).status == 413
    assert (
        client.request("PUT", path, secrets, messages.encode_whole_shares({0: bytes(most + 1)})).status == 400
    )
    assert client.request("PUT", path, secrets, b"\xff").status == 400
    assert client.request("PUT", path, UPLOAD, messages.encode_whole_shares({0: b"x"})).status == 400
    assert client.shares("immutable", si) == frozenset()
    assert client.put_shares(si, {0: bytes(most)}).already_have == {0}


@pytest.mark.parametrize("size", [1000, 200_000])
def test_writes_that_do_not_fit(client: GbsClient, si: bytes, size: int) -> None:
    client.allocate(si, [0], size)
    path = routes.immutable_share(si, 0)

    def patch(body: bytes, begin: int, end: int) -> int:
        return client.request("PATCH", path, UPLOAD, body, _range(begin, end)).status

    assert patch(bytes(10), size - 5, size + 5) == 416
    assert patch(bytes(10), 0, 20) == 400
    assert patch(bytes(30), 40, 60) == 400
    assert client.request("PATCH", path, UPLOAD, bytes(10)).status == 416
    assert client.request("PATCH", path, UPLOAD, bytes(10), [("Content-Range", "bytes */10")]).status == 416
    # What was announced and came is kept: the upload goes on where the server says.
    assert client.write(si, 0, 0, bytes(1)) == (200, ((10, size),))
    assert client.write(si, 0, 50, bytes(5)) == (200, ((10, 50), (55, size)))
    # A request that conflicts has no effect, wherever in it the conflict is.
    assert client.write(si, 0, 30, b"\1" * 30) == (409, ())
    assert client.write(si, 0, 5, bytes(10)) == (200, ((15, 50), (55, size)))
    assert client.write(si, 0, 15, bytes(size - 15)) == (201, ())
    assert client.read("immutable", si, 0).body == bytes(size)


def test_allocating_again_after_a_lost_reply(client: GbsClient, si: bytes) -> None:
    assert client.allocate(si, [1, 2], 500).allocated == {1, 2}
    assert client.allocate(si, [1, 2], 500).allocated == {1, 2}
    assert client.allocate(si, [1, 2], 501).allocated == frozenset()
    assert client.allocate(si, [1, 2], 500, b"another secret").allocated == frozenset()
    assert client.write(si, 1, 0, bytes(500), b"another secret")[0] == 401
    assert client.write(si, 1, 0, bytes(500))[0] == 201
    repeated = client.allocate(si, [1, 2], 500)
    assert (repeated.already_have, repeated.allocated) == ({1}, {2})


@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_an_upload_goes_on_after_the_connection_broke(
    server: StorageServer, client: GbsClient, si: bytes, size: int
) -> None:
    """Every byte that reached the server counts, also those of the request that broke off."""
    data = os.urandom(size)
    client.allocate(si, [0], size)
    part = size * 3 // 4
    with _half_a_request(server, si, data[:part], size):
        deadline = time.monotonic() + DEADLINE
        missing: tuple[tuple[int, int], ...] = ()
        while missing != ((part, size),):  # also while the old connection still seems to be alive
            assert time.monotonic() < deadline
            assert client.allocate(si, [0], size).allocated == {0}
            _, missing = client.write(si, 0, 0, data[:1])
    assert client.write(si, 0, part, data[part:]) == (201, ())
    assert client.read("immutable", si, 0).body == data


@contextmanager
def _half_a_request(server: StorageServer, si: bytes, data: bytes, size: int) -> Iterator[None]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    lines = [
        f"PATCH {routes.immutable_share(si, 0)} HTTP/1.1",
        "Host: x",
        f"{headers.AUTHORIZATION}: {headers.authorization(server.nurl.swissnum)}",
        f"Content-Range: {headers.content_range(0, size)}",
        f"Content-Length: {size}",
        *(f"{name}: {value}" for name, value in headers.secret_lines(UPLOAD)),
    ]
    with (
        socket.create_connection(("127.0.0.1", server.port), DEADLINE) as raw,
        context.wrap_socket(raw) as tls,
    ):
        tls.sendall("\r\n".join([*lines, "", ""]).encode() + data)
        yield


def test_aborting(client: GbsClient, si: bytes) -> None:
    client.allocate(si, [0, 1], 200_000)
    abort = [routes.abort(si, n) for n in range(3)]
    assert client.request("PUT", abort[0], {SecretKind.UPLOAD: b"other"}).status == 401
    assert client.request("PUT", abort[0], UPLOAD, b"ignored").status == 200
    assert client.request("PUT", abort[0], UPLOAD).status == 404
    assert client.request("PUT", abort[2], UPLOAD).status == 404
    assert client.write(si, 0, 0, bytes(10))[0] == 404
    assert client.write(si, 1, 0, bytes(200_000))[0] == 201
    assert client.request("PUT", abort[1], UPLOAD).status == 405


def test_ranges_at_and_beyond_the_end(client: GbsClient, si: bytes) -> None:
    client.allocate(si, [0], 100)
    client.write(si, 0, 0, bytes(100))
    for begin, size, status in [
        (0, 100, 206),
        (99, 1, 206),
        (99, 2**70, 206),
        (100, 1, 204),
        (2**80, 5, 204),
    ]:
        answer = client.read("immutable", si, 0, begin, size)
        assert answer.status == status
        assert len(answer.body) == max(0, min(size, 100 - begin))


def test_many_writers_of_one_share(server: StorageServer, client: GbsClient, si: bytes) -> None:
    size, piece = 1_000_000, 50_000
    data = os.urandom(size)
    client.allocate(si, [0], size)

    def write(offset: int) -> int:
        with GbsClient(server.nurl) as other:
            return other.write(si, 0, offset, data[offset : offset + piece + 1000])[0]

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(write, range(0, size, piece)))
    assert set(statuses) <= {200, 201, 404}
    assert 201 in statuses
    assert client.read("immutable", si, 0).body == data


# --- mutable slots ------------------------------------------------------------------------------------


def test_read_test_write_is_atomic_under_concurrency(
    server: StorageServer, client: GbsClient, si: bytes
) -> None:
    """Counters in three shares, raised by eight clients at once: none lost, none torn."""
    zero = (0).to_bytes(4, "big")
    shares = (0, 1, 2)
    client.read_test_write(si, {n: TestWrite([], [(0, zero)]) for n in shares})

    def raise_counter(_: int) -> None:
        with GbsClient(server.nurl) as other:
            done = False
            while not done:
                _, answer = other.read_test_write(si, {}, [(0, 4)])
                assert answer is not None
                values = {data[0] for data in answer.data.values()}
                assert len(values) == 1
                [old] = values
                new = (int.from_bytes(old, "big") + 1).to_bytes(4, "big")
                vectors = {n: TestWrite([(0, 4, old)], [(0, new)]) for n in shares}
                _, answer = other.read_test_write(si, vectors)
                done = answer is not None and answer.success

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(raise_counter, range(48)))
    assert {client.read("mutable", si, n).body for n in shares} == {(48).to_bytes(4, "big")}


def test_kinds_do_not_mix(client: GbsClient, si: bytes) -> None:
    client.read_test_write(si, {0: TestWrite([], [(0, b"mutable")])})
    assert client.read("immutable", si, 0).status == 404
    assert client.shares("immutable", si) == frozenset()
    body = messages.encode_allocate(messages.AllocateRequest(frozenset({5}), 10))
    secrets = {**client.lease_secrets(), **UPLOAD}
    assert client.request("POST", routes.allocate(si), secrets, body).status == 409
    other = os.urandom(16)
    client.allocate(other, [0], 10)
    client.write(other, 0, 0, bytes(10))
    assert client.read_test_write(other, {1: TestWrite([], [(0, b"x")])})[0] == 409
    assert client.read("mutable", other, 0).status == 404
    assert client.shares("mutable", other) == {0}


def test_a_write_beyond_the_disk_is_refused(client: GbsClient, si: bytes) -> None:
    assert client.read_test_write(si, {0: TestWrite([], [(2**50, b"x")])})[0] == 507
    assert client.read_test_write(si, {0: TestWrite([], [(2**64 - 1, b"x")])})[0] == 507
    assert client.shares("mutable", si) == frozenset()


def test_large_mutable_shares(client: GbsClient, si: bytes) -> None:
    data = os.urandom(40 << 20)  # more than a segment of the journal
    status, answer = client.read_test_write(si, {0: TestWrite([(0, 1, b"")], [(0, data)])})
    assert status == 200
    assert answer is not None
    assert answer.success
    assert client.read("mutable", si, 0).body == data
    status, answer = client.read_test_write(si, {0: TestWrite([(0, len(data), data)], [], 5)}, [(1, 2**40)])
    assert answer is not None
    assert (answer.success, answer.data) == (True, {0: [data[1:]]})
    assert client.read("mutable", si, 0).body == data[:5]


def test_advisories(server: StorageServer, client: GbsClient, si: bytes) -> None:
    client.read_test_write(si, {3: TestWrite([], [(0, b"x")])})
    body = messages.encode_corrupt("bad ☃ hash")
    assert client.request("POST", routes.mutable_corrupt(si, 3), None, body).status == 200
    assert client.request("POST", routes.immutable_corrupt(si, 3), None, body).status == 404
    [path] = Path(server.storage_dir, "corruption-advisories").glob(f"*--{base32.encode(si)}-3")
    assert ":" not in path.name
    lines = path.read_text("utf-8").split("\n")
    assert lines[:6] == [
        "report: Share Corruption",
        "type: mutable",
        f"storage_index: {base32.encode(si)}",
        "share_number: 3",
        "",
        "bad ☃ hash",
    ]
