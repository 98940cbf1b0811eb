"""Servers that are gone, stalled, wrong or lying: one kind of error, a deadline, quarantine and return."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from lafsfs.config import ClientSecrets, GridProfile, ServerEntry
from lafsfs.errors import (
    BadAnswerError,
    PinMismatchError,
    ServerRefusedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from lafsfs.formats.keys import LeaseSecrets
from lafsfs.gbs import messages
from lafsfs.gbs.messages import ServerVersion
from lafsfs.gbs.nurl import Nurl
from lafsfs.grid.exchange import Timeouts
from lafsfs.grid.health import Health
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from tests.support.scripted_server import Certificate, Exchange, make_certificate, scripted_server
from tests.support.storage import StorageServer as StorageProcess
from tests.support.storage import storage_servers

SWISSNUM = "s" * 32
SECRETS = ClientSecrets(b"c" * 32, b"l" * 32)
QUICK = Timeouts(connect=1.0, progress=0.5, commit=0.5, pool=2.0, request=2.0)
SI = bytes(range(16))
VERSION = messages.encode_version(ServerVersion(1 << 40, 1 << 40, 1 << 40, b"scripted"))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


def _nurl(port: int, pin: bytes) -> Nurl:
    return Nurl(base64.urlsafe_b64encode(pin).decode().rstrip("="), "127.0.0.1", port, SWISSNUM)


def _server(*nurls: Nurl) -> StorageServer:
    return StorageServer(ServerEntry("scripted", nurls), LeaseSecrets(b"x"), QUICK)


def _answer(status: int, body: bytes, content_type: bytes, *more: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d X" % status, b"Content-Type: " + content_type, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, *more, b"", body])


def _cbor(body: bytes, status: int = 200) -> bytes:
    return _answer(status, body, b"application/cbor")


class _Replies:
    """Answers every request with the current `reply`."""

    def __init__(self, reply: bytes) -> None:
        self.reply = reply

    def __call__(self, exchange: Exchange) -> None:
        while True:
            exchange.request()
            exchange.send(self.reply)


async def test_a_wrong_pin_and_nothing_secret_sent(certificate: Certificate) -> None:
    with scripted_server(certificate, _Replies(_cbor(VERSION))) as scripted:
        server = _server(_nurl(scripted.port, os.urandom(32)))
        for call in (server.version, lambda: server.allocate(SI, [0], 100, b"upload secret")):
            with pytest.raises(PinMismatchError) as caught:
                await call()
            assert SWISSNUM not in str(caught.value)
        assert server.health.quarantined
        await server.aclose()
    assert scripted.received == b""


async def test_headers_are_those_of_the_protocol(certificate: Certificate) -> None:
    with scripted_server(certificate, _Replies(_cbor(VERSION))) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        await server.version()
        await server.aclose()
    token = base64.b64encode(SWISSNUM.encode())
    lines = bytes(scripted.received).split(b"\r\n")
    assert lines[0] == b"GET /storage/v1/version HTTP/1.1"
    assert b"Authorization: Tahoe-LAFS " + token in lines
    assert b"Accept: application/cbor" in lines
    assert b"*/*" not in scripted.received
    assert SWISSNUM not in repr(server)
    assert SWISSNUM not in repr(server.entry)


async def test_the_first_nurl_that_answers_is_kept_to(certificate: Certificate) -> None:
    with scripted_server(certificate, _Replies(_cbor(VERSION))) as scripted:
        wrong, dead = _nurl(scripted.port, bytes(32)), _nurl(1, certificate.pin)
        server = _server(dead, wrong, _nurl(scripted.port, certificate.pin))
        await server.version()
        assert not server.health.quarantined
        connections = scripted.connections
        await server.version()
        assert scripted.connections == connections
        await server.aclose()


@pytest.mark.parametrize("status", [301, 400, 401, 404, 406, 409, 413, 416, 500, 507])
async def test_refusals_tell_their_status(certificate: Certificate, status: int) -> None:
    with scripted_server(certificate, _Replies(_answer(status, b"<html>", b"text/html"))) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        with pytest.raises(ServerRefusedError) as caught:
            await server.read_immutable(SI, 0, 0, 10)
        assert caught.value.status == status
        assert server.health.failures == (status >= 500)
        await server.advise_corrupt("mutable", SI, 0, "bad")
        await server.aclose()


def _share(body: bytes, content_range: bytes, kind: bytes = b"application/octet-stream") -> bytes:
    return _answer(206, body, kind, b"Content-Range: " + content_range)


@pytest.mark.parametrize(
    "reply",
    [
        _share(b"0123456789", b"bytes 6-15/*"),
        _share(b"0123456789a", b"bytes 5-15/*"),
        _share(b"01234567", b"bytes 5-14/*"),
        _share(b"0123456789", b"pages 5-14/*"),
        _answer(206, b"0123456789", b"application/octet-stream"),
        _share(b"0123456789", b"bytes 5-14/*", b"text/plain"),
        b"HTTP/1.1 206 X\r\nContent-Length: 99999999999\r\n\r\n",
        b"\x16\x03\x01garbage\r\n\r\n",
    ],
)
async def test_wrong_answers_to_a_read(certificate: Certificate, reply: bytes) -> None:
    with scripted_server(certificate, _Replies(reply)) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        with pytest.raises(BadAnswerError):
            await server.read_mutable(SI, 0, 5, 10)
        assert server.health.failures == 1
        await server.aclose()


async def test_a_good_and_a_short_read(certificate: Certificate) -> None:
    replies = _Replies(_share(b"0123456789", b"bytes 5-14/*"))
    with scripted_server(certificate, replies) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        assert await server.read_mutable(SI, 0, 5, 10) == b"0123456789"
        assert await server.read_mutable(SI, 0, 5, 20) == b"0123456789"
        replies.reply = b"HTTP/1.1 204 X\r\n\r\n"
        assert await server.read_mutable(SI, 0, 5, 10) == b""
        await server.aclose()


@pytest.mark.parametrize("body", [b"", b"\xff", b"\x80", messages.encode_shares([1]) + b"\0", b"\x81\x01"])
async def test_wrong_cbor_and_wrong_content_types(certificate: Certificate, body: bytes) -> None:
    replies = _Replies(_cbor(body))
    with scripted_server(certificate, replies) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        for call in (server.version, lambda: server.mutable_shares(SI)):
            with pytest.raises(BadAnswerError):
                await call()
        replies.reply = _answer(200, VERSION, b"text/html")
        with pytest.raises(BadAnswerError):
            await server.version()
        assert server.health.quarantined
        await server.aclose()


async def test_too_many_or_too_few_values_of_a_slot(certificate: Certificate) -> None:
    answer = messages.encode_read_test_write_answer(messages.ReadTestWriteAnswer(True, {0: [b"a", b"b"]}))
    with scripted_server(certificate, _Replies(_cbor(answer))) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        with pytest.raises(BadAnswerError):
            await server.read_test_write(SI, lambda _: bytes(32), {}, [(0, 1)])
        await server.aclose()


async def test_a_lost_answer_to_a_write_is_not_asked_again(certificate: Certificate) -> None:
    def script(exchange: Exchange) -> None:
        exchange.request()
        exchange.send(_cbor(VERSION))
        exchange.request()

    with scripted_server(certificate, script) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        await server.version()
        with pytest.raises(ServerUnreachableError):
            await server.allocate(SI, [0], 100, b"upload secret")
        assert scripted.received.count(b"POST ") == 1
        await server.aclose()


async def test_a_silent_server_times_out_and_is_put_aside(certificate: Certificate) -> None:
    done = threading.Event()
    with scripted_server(certificate, lambda _: done.wait(20) and None) as scripted:
        server = _server(_nurl(scripted.port, certificate.pin))
        with pytest.raises(ServerTimeoutError):
            await server.immutable_shares(SI)
        assert server.health.quarantined
        done.set()
        await server.aclose()


# --- real servers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StorageProcess]]:
    with storage_servers(tmp_path_factory.mktemp("servers"), 2) as servers:
        yield servers


@pytest.fixture
def two(processes: list[StorageProcess]) -> list[StorageProcess]:
    for server in processes:
        if server.process is None:
            server.start()
    return processes


def _profile(servers: list[StorageProcess]) -> GridProfile:
    return GridProfile(
        tuple(
            ServerEntry(s.server_id, (s.nurl,), s.furl, s.permutation_seed, f"s{i}")
            for i, s in enumerate(servers)
        )
    )


async def _until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - other processes do not set events
            await trio.sleep(0.02)


async def test_dead_and_stopped_servers_go_last_and_come_back(two: list[StorageProcess]) -> None:
    dead, stopped = two
    async with Grid(_profile(two), SECRETS, timeouts=QUICK) as grid:
        first, second = grid.servers
        await _until(lambda: first.known_version and second.known_version)
        assert [status.reachable for status in grid.status()] == [True, True]

        dead.kill()
        with pytest.raises(ServerUnreachableError):
            await first.immutable_shares(SI)
        assert grid.permuted(SI)[-1] is first
        status = grid.status()[0]
        assert status.reachable is False
        assert status.quarantined_until is not None
        assert status.last_error

        stopped.pause()
        try:
            with pytest.raises(ServerTimeoutError):
                await second.immutable_shares(SI)
            assert second.health.quarantined
        finally:
            stopped.resume()
        dead.start()
        await _until(lambda: not (first.health.quarantined or second.health.quarantined))
        assert await first.immutable_shares(SI) == frozenset()
        assert grid.status()[0].reachable is True


async def test_servers_that_are_down_at_the_start_are_noticed(two: list[StorageProcess]) -> None:
    two[0].kill()
    async with Grid(_profile(two), SECRETS, timeouts=QUICK) as grid:
        await grid.poll()
        assert [status.reachable for status in grid.status()] == [False, True]
        assert grid.permuted(SI)[-1] is grid.servers[0]


async def test_an_error_of_the_body_leaves_the_grid_as_it_is(two: list[StorageProcess]) -> None:
    with pytest.raises(KeyError):
        async with Grid(_profile(two), SECRETS):
            raise KeyError
    with trio.move_on_after(0.5) as scope:
        async with Grid(_profile(two), SECRETS):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_no_servers_at_all() -> None:
    async with Grid(GridProfile(), SECRETS) as grid:
        assert grid.permuted(SI) == []
        assert grid.status() == []


# --- health ---------------------------------------------------------------------------------------------


async def test_quarantine_grows_with_failures_in_a_row_and_ends_with_an_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    health = Health()
    lengths: list[float] = []
    for _ in range(8):
        health.failed(ServerTimeoutError("late"))
        health.failed(ServerTimeoutError("late, in parallel"))
        assert health.quarantined_until is not None
        lengths.append(health.quarantined_until - trio.current_time())
        await trio.sleep(lengths[-1] + 0.001)
        assert health.quarantined
    assert lengths[0] < 4
    assert lengths[0] < lengths[2] <= 75
    assert 45 <= lengths[-1] <= 75
    health.succeeded(0.01)
    assert not health.quarantined
    assert (health.failures, health.total_failures) == (0, 16)


async def test_odd_answers_are_tolerated_a_few_times() -> None:
    health = Health()
    for _ in range(2):
        health.failed(BadAnswerError("odd"))
    assert not health.quarantined
    health.failed(BadAnswerError("odd"))
    assert health.quarantined


async def test_measurements() -> None:
    health = Health()
    health.succeeded(0.1)
    health.succeeded(0.2)
    assert health.latency == pytest.approx(0.12)
    health.succeeded(1.0, 1_000_000)
    assert health.throughput == pytest.approx(1e6)
    assert health.expected_seconds(2_000_000) == pytest.approx(2.12)
