"""The HTTP transport under httpx: one server, pinned TLS, kept-alive connections (formats.md 9.2).

httpx stays the interface; this replaces httpcore. Request extensions understood:

* `timeout`: seconds, with httpx's keys `connect` (TCP and TLS), `write` and `read` (each wait for progress),
  `pool`, and ours: `total` for the whole exchange;
* `target`: the request target as bytes, instead of the URL's path (spares building a URL per request);
* `max_body`: the largest acceptable response body in bytes;
* `idempotent`: the request may be sent a second time (GET and HEAD always may).

The body of an answer is read whole before the answer is returned; it is also found, without httpx's machinery
of streams and decoders, in the response extension `body` (use `send(request, stream=True)` then).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, Self

import httpx
import trio

from lafsfs.errors import PinMismatchError
from lafsfs.grid.http1 import Answer, ProtocolError, RawHeaders, ResponseReader
from lafsfs.grid.tls import RECEIVE_SIZE, Buffer, TlsChannel, Watch, client_context, spki_hash

MAX_CONNECTIONS: Final = 10
IDLE_LIMIT: Final = 30.0
DEFAULT_TIMEOUTS: Final = {"connect": 10.0, "read": 30.0, "write": 30.0, "pool": 60.0, "total": 300.0}
DEFAULT_MAX_BODY: Final = 64 << 20
_SMALL: Final = 16 * 1024
_TIMEOUTS: Final = {
    "pool": httpx.PoolTimeout,
    "connect": httpx.ConnectTimeout,
    "write": httpx.WriteTimeout,
    "read": httpx.ReadTimeout,
}


class Payload(httpx.AsyncByteStream):
    """A request body of one or several buffers, sent without being copied or joined. `size` counts bytes."""

    def __init__(self, *pieces: Buffer) -> None:
        self.pieces = pieces
        self.size = sum(memoryview(piece).nbytes for piece in pieces)

    @classmethod
    def of(cls, body: Buffer | Payload) -> Payload:
        """`body` itself, or with it as the only piece."""
        return body if isinstance(body, Payload) else cls(body)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield bytes(piece)


class _Body(httpx.AsyncByteStream):
    """A response body that has been read."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


class _Connection:
    """A channel with its place in the pool."""

    def __init__(self, channel: TlsChannel) -> None:
        self.channel = channel
        self.idle_since = 0.0
        self.used = False


class _ClosedEarlyError(Exception):
    """A kept-alive connection turned out to be closed before any byte of an answer."""


class PinnedTransport(httpx.AsyncBaseTransport):
    """Connections to one server whose certificate must have the given SPKI hash.

    The pin is checked right after the handshake, before the first byte of a request; PinMismatchError if it
    is another. Other failures are raised as httpx's own exceptions. A connection that was not left in a
    defined state, also by cancellation, is closed and never used again. Bodies are read whole.
    """

    def __init__(self, host: str, port: int, pin: bytes) -> None:
        self._host = host
        self._port = port
        self._pin = pin
        self._context = client_context()
        self._buffer = memoryview(bytearray(RECEIVE_SIZE))
        self._slots = trio.Semaphore(MAX_CONNECTIONS, max_value=MAX_CONNECTIONS)
        self._idle: list[_Connection] = []
        self._closed = False
        self.certificate: bytes | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed as their exchanges end."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        """When one connection went bad, the others kept from the same time are not to be trusted either."""
        while self._idle:
            self._idle.pop().channel.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and read the whole answer."""
        url = request.url
        if url.host != self._host.strip("[]") or url.port != self._port or url.scheme != "https":
            raise httpx.UnsupportedProtocol("this transport serves one server only", request=request)
        timeouts = {**DEFAULT_TIMEOUTS, **_given(request.extensions.get("timeout", {}))}
        watch = Watch(timeouts)
        answer: Answer | None = None
        try:
            with watch.scope:
                answer = await self._in_slot(request, watch)
        except ProtocolError as error:
            raise httpx.RemoteProtocolError(str(error), request=request) from error
        except OSError as error:
            kind = {"connect": httpx.ConnectError, "write": httpx.WriteError}.get(
                watch.phase, httpx.ReadError
            )
            raise kind(_reason(error), request=request) from error
        if answer is None:
            self._drop_idle()
            raise _TIMEOUTS[watch.phase]("no answer in time", request=request)
        return httpx.Response(
            answer.status, headers=answer.headers, stream=_Body(answer.body), extensions={"body": answer.body}
        )

    async def _in_slot(self, request: httpx.Request, watch: Watch) -> Answer:
        head, body = await _serialize(request)
        repeatable = request.method in ("GET", "HEAD") or bool(request.extensions.get("idempotent"))
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            watch.expect("pool")
            await self._slots.acquire()
        try:
            while True:
                connection = self._reusable() or await self._connect(watch)
                try:
                    return await self._exchange(connection, request, head, body, watch)
                except _ClosedEarlyError as error:
                    # Only kept-alive connections raise this, so that the loop ends with a fresh one.
                    if not repeatable:
                        raise ConnectionResetError("the connection closed before an answer") from error
        finally:
            self._slots.release()

    def _reusable(self) -> _Connection | None:
        """The most recently used idle connection that is still good."""
        oldest = trio.current_time() - IDLE_LIMIT
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and connection.channel.is_quiet():
                return connection
            connection.channel.close()
        return None

    async def _connect(self, watch: Watch) -> _Connection:
        watch.expect("connect")
        stream = await trio.open_tcp_stream(self._host.strip("[]"), self._port)
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        channel = TlsChannel(sock, self._context, self._buffer)
        try:
            certificate = await channel.handshake(watch)
            try:
                matches = spki_hash(certificate) == self._pin
            except ValueError:
                matches = False
            if not matches:
                raise PinMismatchError("the server's certificate is not the one its NURL names")
        except BaseException:
            channel.close()
            raise
        self.certificate = certificate
        return _Connection(channel)

    async def _exchange(
        self, connection: _Connection, request: httpx.Request, head: bytes, body: Payload, watch: Watch
    ) -> Answer:
        channel = connection.channel
        reader = ResponseReader(channel, watch, int(request.extensions.get("max_body", DEFAULT_MAX_BODY)))
        reusable = False
        try:
            sent = await _send(channel, head, body, watch)
            answer = await reader.read(request.method)
            reusable = sent and answer.reusable and not self._closed
        except OSError as error:
            self._drop_idle()
            if connection.used and not reader.started:
                raise _ClosedEarlyError from error
            raise
        finally:
            if reusable:
                connection.used = True
                connection.idle_since = trio.current_time()
                self._idle.append(connection)
            else:
                channel.close()
        return answer


async def _send(channel: TlsChannel, head: bytes, body: Payload, watch: Watch) -> bool:
    """Send a request. False if the peer stopped listening midway: its answer may be there nevertheless."""
    if body.size <= _SMALL:  # one record instead of two
        await channel.send([b"".join((head, *body.pieces))], watch)
        return True
    try:
        await channel.send([head, *body.pieces], watch)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


async def _serialize(request: httpx.Request) -> tuple[bytes, Payload]:
    target = request.extensions.get("target") or request.url.raw_path
    if isinstance(request.stream, Payload):
        body = request.stream
    else:
        stream = request.stream
        if not isinstance(stream, httpx.AsyncByteStream):
            raise httpx.UnsupportedProtocol("a synchronous request body", request=request)
        body = Payload(*[part async for part in stream])
    headers: RawHeaders = [
        (name, value)
        for name, value in request.headers.raw
        if name.lower() not in (b"content-length", b"transfer-encoding")
    ]
    if body.size or request.method in ("POST", "PUT", "PATCH"):
        headers.append((b"Content-Length", b"%d" % body.size))
    lines = [b"%s %s HTTP/1.1" % (request.method.encode(), target)]
    lines.extend([b"%s: %s" % pair for pair in headers])
    lines.append(b"\r\n")
    return b"\r\n".join(lines), body


def _given(timeout: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in timeout.items() if value is not None}


def _reason(error: OSError) -> str:
    """What went wrong, in words that hold no address or secret."""
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    return error.strerror or str(error)
