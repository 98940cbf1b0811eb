"""The transport against a TLS server that does what each test says."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio

from lafsfs.errors import PinMismatchError
from lafsfs.grid.transport import MAX_CONNECTIONS, Payload, PinnedTransport
from tests.support.scripted_server import (
    Certificate,
    Exchange,
    ScriptedServer,
    make_certificate,
    scripted_server,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SHORT = {"connect": 5.0, "read": 0.3, "write": 0.3, "total": 20.0}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls") / "server.pem")


def _transport(server: ScriptedServer, certificate: Certificate) -> PinnedTransport:
    return PinnedTransport("127.0.0.1", server.port, certificate.pin)


async def _send(
    transport: PinnedTransport, method: str = "GET", body: bytes = b"", **extensions: object
) -> httpx.Response:
    url = f"https://127.0.0.1:{transport._port}/x"
    request = httpx.Request(method, url, headers={"A": "b"}, stream=Payload(body), extensions=extensions)
    response = await transport.handle_async_request(request)
    assert await response.aread() == response.extensions["body"]
    return response


def _always(answer: bytes) -> Callable[[Exchange], None]:
    def script(exchange: Exchange) -> None:
        while True:
            exchange.request()
            exchange.send(answer)

    return script


async def test_a_wrong_pin_gets_nothing(certificate: Certificate) -> None:
    with scripted_server(certificate, _always(OK)) as server:
        async with PinnedTransport("127.0.0.1", server.port, os.urandom(32)) as transport:
            for _ in range(2):
                with pytest.raises(PinMismatchError):
                    await _send(transport)
        assert transport.certificate is None
    assert server.received == b""


async def test_an_expired_certificate_is_fine(certificate: Certificate) -> None:
    with scripted_server(certificate, _always(OK)) as server:
        async with _transport(server, certificate) as transport:
            assert (await _send(transport)).extensions["body"] == b"ok"
            assert transport.certificate == certificate.der
    assert server.received.startswith(b"GET /x HTTP/1.1\r\n")


async def test_other_origins_are_refused(certificate: Certificate) -> None:
    with scripted_server(certificate, _always(OK)) as server:
        async with _transport(server, certificate) as transport:
            for url in ("https://localhost/x", f"http://127.0.0.1:{server.port}/", "https://127.0.0.1/"):
                with pytest.raises(httpx.UnsupportedProtocol):
                    await transport.handle_async_request(httpx.Request("GET", url))
    assert server.connections == 0


async def test_as_a_transport_of_a_stock_client(certificate: Certificate) -> None:
    with scripted_server(certificate, _always(OK)) as server:
        base = f"https://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(transport=_transport(server, certificate), base_url=base) as client:
            answer = await client.post("/path?query=1", content=b"body", headers={"X-Y": "z"})
            assert answer.text == "ok"
    assert server.received.startswith(b"POST /path?query=1 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert server.received.endswith(b"\r\nContent-Length: 4\r\n\r\nbody")


def _chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x;ext=1\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\nTrailer: t\r\n\r\n"


_BIG = os.urandom(3_000_000)
_CHUNKED = b"HTTP/1.1 206 X\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 204 No\r\n\r\n", b""),
        (b"HTTP/1.1 200\r\ncontent-length: 3\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_BIG) + _BIG, _BIG),
        (_CHUNKED + b"\r\n" + _chunked(), b""),
        (_CHUNKED + b"\r\n" + _chunked(b"a", b"bc" * 1000), b"a" + b"bc" * 1000),
        (_CHUNKED + b"\r\n" + _chunked(*[_BIG[i : i + 70001] for i in range(0, len(_BIG), 70001)]), _BIG),
        (
            _CHUNKED
            + b"Content-Range: bytes 5-3000004/*\r\n\r\n"
            + _chunked(*[_BIG[i : i + 65536] for i in range(0, len(_BIG), 65536)]),
            _BIG,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + OK, b"ok"),
    ],
)
async def test_bodies_in_every_framing_and_reuse(
    certificate: Certificate, answer: bytes, body: bytes
) -> None:
    with scripted_server(certificate, _always(answer)) as server:
        async with _transport(server, certificate) as transport:
            for _ in range(3):
                assert (await _send(transport)).extensions["body"] == body
    assert server.connections == 1


async def test_answers_in_single_bytes(certificate: Certificate) -> None:
    def script(exchange: Exchange) -> None:
        exchange.request()
        exchange.send(*(bytes([byte]) for byte in _CHUNKED + b"\r\n" + _chunked(b"abc", b"defg")))
        exchange.request()

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            assert (await _send(transport)).extensions["body"] == b"abcdefg"


async def test_a_body_until_the_connection_ends(certificate: Certificate) -> None:
    def script(exchange: Exchange) -> None:
        exchange.request()
        exchange.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"z" * 100_000)
        exchange.end()

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            for _ in range(2):
                assert (await _send(transport)).extensions["body"] == b"z" * 100_000
    assert server.connections == 2


async def test_head_has_no_body(certificate: Certificate) -> None:
    with scripted_server(certificate, _always(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")) as server:
        async with _transport(server, certificate) as transport:
            for _ in range(2):
                assert (await _send(transport, "HEAD")).headers["content-length"] == "9"


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nName : v\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n",
        _CHUNKED + b"Content-Range: bytes 0-3/*\r\n\r\n" + _chunked(b"abc"),
        _CHUNKED + b"Content-Range: bytes 0-1/*\r\n\r\n" + _chunked(b"abc"),
        _CHUNKED + b"Content-Range: bytes 0-99999999999/*\r\n\r\n" + _chunked(b"abc"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 200,
    ],
)
async def test_garbage_is_a_protocol_error(certificate: Certificate, answer: bytes) -> None:
    with scripted_server(certificate, _always(answer)) as server:
        async with _transport(server, certificate) as transport:
            with pytest.raises(httpx.RemoteProtocolError):
                await _send(transport, max_body=4096)
            assert not transport._idle


@pytest.mark.parametrize(
    "cut", [b"", b"HTTP/1.1 20", OK[:-1], _CHUNKED + b"\r\n5\r\nabc", _CHUNKED + b"\r\n0\r\n"]
)
async def test_an_answer_that_breaks_off(certificate: Certificate, cut: bytes) -> None:
    def script(exchange: Exchange) -> None:
        exchange.request()
        exchange.send(cut)
        exchange.end()

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            with pytest.raises(httpx.ReadError):
                await _send(transport)
    assert server.connections == 1


def _one_answer_each(exchange: Exchange) -> None:
    exchange.request()
    exchange.send(OK)
    exchange.request()


async def test_a_get_is_repeated_when_a_kept_connection_ends(certificate: Certificate) -> None:
    with scripted_server(certificate, _one_answer_each) as server:
        async with _transport(server, certificate) as transport:
            for _ in range(3):
                assert (await _send(transport)).status_code == 200
    assert server.connections == 3
    assert server.received.count(b"GET /x") == 5


async def test_a_post_is_not_repeated_unless_it_may_be(certificate: Certificate) -> None:
    with scripted_server(certificate, _one_answer_each) as server:
        async with _transport(server, certificate) as transport:
            await _send(transport, "POST")
            with pytest.raises(httpx.ReadError):
                await _send(transport, "POST")
            assert server.received.count(b"POST /x") == 2
            await _send(transport, "POST")
            await _send(transport, "POST", idempotent=True)


async def test_a_connection_closed_while_idle_is_not_used(certificate: Certificate) -> None:
    closed = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.request()
        exchange.send(OK)
        exchange.end()
        closed.set()

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            for _ in range(3):
                await _send(transport, "POST")  # would fail if it were sent on a closed connection
                assert await trio.to_thread.run_sync(closed.wait, 10)
                closed.clear()
    assert server.received.count(b"POST /x") == 3


async def test_silence_ends_with_the_deadline(certificate: Certificate) -> None:
    done = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.request()
        exchange.send(b"HTTP/1.1 200 OK\r\n")
        done.wait(20)

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            with pytest.raises(httpx.ReadTimeout):
                await _send(transport, timeout=SHORT)
            assert not transport._idle
        done.set()


async def test_a_peer_that_does_not_read_ends_with_the_deadline(certificate: Certificate) -> None:
    done = threading.Event()

    with scripted_server(certificate, lambda _: done.wait(20) and None) as server:
        async with _transport(server, certificate) as transport:
            with pytest.raises(httpx.WriteTimeout):
                await _send(transport, "PATCH", bytes(50_000_000), timeout=SHORT)
        done.set()


async def test_no_handshake_ends_with_the_deadline(certificate: Certificate) -> None:
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        transport = PinnedTransport("127.0.0.1", listener.getsockname()[1], certificate.pin)
        with pytest.raises(httpx.ConnectTimeout):
            await _send(transport, timeout={"connect": 0.3})
        port = transport._port
    with pytest.raises(httpx.ConnectError):
        await _send(PinnedTransport("127.0.0.1", port, certificate.pin))


async def test_trickling_ends_with_the_total_deadline(certificate: Certificate) -> None:
    stop = threading.Event()

    def script(exchange: Exchange) -> None:
        exchange.request()
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not stop.wait(0.05):
            exchange.send(b"x")

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            with pytest.raises(httpx.ReadTimeout):
                await _send(transport, timeout={"read": 10.0, "total": 0.6})
        stop.set()


async def test_an_early_refusal_of_a_large_body_is_read(certificate: Certificate) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"

    def script(exchange: Exchange) -> None:
        while b"\r\n\r\n" not in exchange.received:
            exchange.received.extend(exchange.socket.recv(1000))
        exchange.send(refusal)
        while exchange.socket.recv(1 << 18):
            pass

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            answer = await _send(transport, "PATCH", bytes(4_000_000))
            assert (answer.status_code, answer.extensions["body"]) == (413, b"big")
            assert not transport._idle


async def test_a_cancelled_request_closes_its_connection(certificate: Certificate) -> None:
    asked, gone = threading.Event(), threading.Event()

    def script(exchange: Exchange) -> None:
        head, _ = exchange.request()
        if head.startswith(b"GET"):
            exchange.send(OK)
            exchange.request()
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        asked.set()
        try:
            exchange.request()
        except (EOFError, OSError):
            gone.set()

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send, transport, "POST")
                assert await trio.to_thread.run_sync(asked.wait, 10)
                nursery.cancel_scope.cancel()
            assert await trio.to_thread.run_sync(gone.wait, 10)
            assert not transport._idle
            assert (await _send(transport)).extensions["body"] == b"ok"
    assert server.connections == 2


async def test_parallel_requests_share_a_bounded_pool(certificate: Certificate) -> None:
    def script(exchange: Exchange) -> None:
        while True:
            _, body = exchange.request()
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body)

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport:

            async def one(number: int) -> None:
                body = base64.b64encode(bytes([number]) * (number * 5000))
                assert (await _send(transport, "PATCH", body)).extensions["body"] == body

            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(one, number)
            assert len(transport._idle) <= MAX_CONNECTIONS
    assert server.connections <= MAX_CONNECTIONS


async def test_large_bodies_both_ways_at_once(certificate: Certificate, tmp_path: Path) -> None:
    def script(exchange: Exchange) -> None:
        while True:
            _, body = exchange.request()
            exchange.send(_CHUNKED + b"\r\n" + _chunked(body))

    with scripted_server(certificate, script) as server:
        async with _transport(server, certificate) as transport, trio.open_nursery() as nursery:

            async def one(size: int) -> None:
                body = os.urandom(size)
                assert (await _send(transport, "PATCH", body)).extensions["body"] == body

            for size in (1, 16384, 16385, 262144, 5_000_001):
                nursery.start_soon(one, size)
