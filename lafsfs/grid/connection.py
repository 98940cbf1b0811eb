"""Requests to one storage server by any of its NURLs: deadlines, errors, health (formats.md 9.1 to 9.3)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import httpx
import trio

from lafsfs.errors import (
    BadAnswerError,
    FormatError,
    PinMismatchError,
    ServerError,
    ServerRefusedError,
    ServerTimeoutError,
    ServerUnreachableError,
)
from lafsfs.gbs.headers import AUTHORIZATION, authorization
from lafsfs.gbs.nurl import Nurl
from lafsfs.grid.batching import SMALL, Batcher
from lafsfs.grid.exchange import Lane, Reply, Request, Timeouts
from lafsfs.grid.health import Health
from lafsfs.grid.tls import Buffer
from lafsfs.grid.transport import Payload, PinnedTransport

_ERROR_BODY: Final = 256 * 1024

T = TypeVar("T")


class _Route:
    """One NURL with its connections."""

    def __init__(self, nurl: Nurl) -> None:
        host = f"[{nurl.host}]" if ":" in nurl.host else nurl.host
        self.url = httpx.URL(f"https://{host}:{nurl.port}/")
        self.transport = PinnedTransport(nurl.host, nurl.port, base64.urlsafe_b64decode(nurl.spki + "="))
        self.headers = [
            (b"Host", f"{host}:{nurl.port}".encode()),
            (AUTHORIZATION.encode(), authorization(nurl.swissnum).encode()),
        ]


class ServerConnection:
    """Sends requests; raises nothing but ServerError and its leaves, and tells `health`."""

    def __init__(self, name: str, nurls: Sequence[Nurl], health: Health, timeouts: Timeouts) -> None:
        self._name = name
        self._routes = [_Route(nurl) for nurl in nurls if not nurl.network]
        self._health = health
        self._timeouts = timeouts
        self._batchers = {lane: Batcher(self._send, lane.patience) for lane in Lane}

    @property
    def certificate(self) -> bytes | None:
        """The certificate (DER) of the last connection, if there was any."""
        return next((r.transport.certificate for r in self._routes if r.transport.certificate), None)

    def take_batches(self, limit: int) -> None:
        """From now on small requests may go in batches of so many bytes; 0: alone."""
        for batcher in self._batchers.values():
            batcher.limit = limit

    async def aclose(self) -> None:
        """Close all connections."""
        for route in self._routes:
            await route.transport.aclose()

    async def request(
        self,
        method: str,
        path: str,
        expected: tuple[int, ...],
        accept: Callable[[Reply], T],
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: Buffer | Payload = b"",
        max_body: int = 1 << 20,
        idempotent: bool = False,
        lane: Lane | None = None,
        timeouts: Timeouts | None = None,
    ) -> T:
        """One exchange: what `accept` makes of the reply. ServerRefusedError for a status not `expected`.

        `accept` raises FormatError for contents that break the protocol. The first NURL that can be connected
        to is used, and kept to. With a `lane`, which is for requests with short answers, it may travel with others.
        """
        payload = Payload.of(body)
        repeatable = idempotent or method == "GET"
        request = Request(method, path, headers, payload, max_body, repeatable, timeouts or self._timeouts)
        send = self._send if lane is None or payload.size > SMALL else self._batchers[lane].send
        began = trio.current_time()
        try:
            reply = await send(request)
            result = self._judged(reply, expected, method, accept)
        except ServerRefusedError as error:
            # A server that says no is well; one that fails is not.
            if error.status >= 500:
                self._health.failed(error)
            else:
                self._health.succeeded(trio.current_time() - began)
            raise
        except ServerError as error:
            self._health.failed(error)
            raise
        self._health.succeeded(trio.current_time() - began, payload.size + len(reply.body))
        return result

    def _judged(
        self, reply: Reply, expected: tuple[int, ...], method: str, accept: Callable[[Reply], T]
    ) -> T:
        if reply.status not in expected:
            what = f"{self._name} answered {method} with status {reply.status}"
            raise ServerRefusedError(what, reply.status)
        try:
            return accept(reply)
        except FormatError as error:
            raise BadAnswerError(f"{self._name}: {error}") from error

    async def _send(self, request: Request) -> Reply:
        lines = [(name.encode("ascii"), value.encode("ascii")) for name, value in request.headers]
        size = request.body.size + request.max_body
        extensions = {
            "timeout": request.timeouts.of(size, writing=request.method != "GET"),
            "target": request.path.encode("ascii"),
            "max_body": max(request.max_body, _ERROR_BODY),
            "idempotent": request.idempotent,
        }
        failure: ServerError = ServerUnreachableError(f"{self._name} has no address that can be used")
        for route in list(self._routes):
            message = httpx.Request(
                request.method,
                route.url,
                headers=route.headers + lines,
                stream=request.body,
                extensions=extensions,
            )
            try:
                # Not by an AsyncClient: its cookies, redirects and authentication cost as much as sending.
                response = await route.transport.handle_async_request(message)
            except PinMismatchError:
                failure = PinMismatchError(
                    f"{self._name}: the certificate is not the one that its NURL names"
                )
            except httpx.ConnectTimeout:
                failure = ServerTimeoutError(f"{self._name}: no connection in time")
            except (httpx.ConnectError, httpx.UnsupportedProtocol) as error:
                failure = ServerUnreachableError(f"{self._name}: no connection ({error})")
            except httpx.TimeoutException as error:
                raise ServerTimeoutError(f"{self._name}: no answer in time") from error
            except httpx.NetworkError as error:
                raise ServerUnreachableError(f"{self._name}: the connection broke ({error})") from error
            except httpx.HTTPError as error:
                raise BadAnswerError(f"{self._name}: {error}") from error
            else:
                self._prefer(route)
                return Reply(response.status_code, response.headers, response.extensions["body"])
        raise failure

    def _prefer(self, route: _Route) -> None:
        if self._routes[0] is not route:
            self._routes.remove(route)
            self._routes.insert(0, route)
