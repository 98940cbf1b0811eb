"""Requests to one storage server by any of its NURLs: deadlines, errors, health (formats.md 9.1 to 9.3)."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

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
from lafsfs.gbs.headers import AUTHORIZATION, CBOR, authorization
from lafsfs.gbs.nurl import Nurl
from lafsfs.grid.health import Health
from lafsfs.grid.tls import Buffer
from lafsfs.grid.transport import Payload, PinnedTransport

SLOWEST: Final = 32 * 1024
"""Bytes per second below which a transfer is given up."""
_ERROR_BODY: Final = 256 * 1024

T = TypeVar("T")
HeaderLines = Iterable[tuple[str, str]]


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for things.

    `connect`: TCP and TLS together; `progress`: the next bytes; `commit`: the answer to a writing request;
    `pool`: a free connection; `request`: the whole exchange, beside the time that its bytes may take.
    """

    connect: float = 5.0
    progress: float = 15.0
    commit: float = 30.0
    pool: float = 60.0
    request: float = 45.0

    def of(self, size: int, *, writing: bool = False) -> dict[str, float]:
        """Timeouts of a request that moves `size` bytes, as the transport wants them."""
        return {
            "connect": self.connect,
            "read": self.commit if writing else self.progress,
            "write": self.progress,
            "pool": self.pool,
            "total": self.pool + self.request + size / SLOWEST,
        }


PROBE: Final = Timeouts(connect=3.0, progress=5.0, commit=5.0, pool=5.0, request=5.0)


class Reply(NamedTuple):
    """An answer with one of the expected statuses."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def content_type(self) -> str:
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


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

    @property
    def certificate(self) -> bytes | None:
        """The certificate (DER) of the last connection, if there was any."""
        return next((r.transport.certificate for r in self._routes if r.transport.certificate), None)

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
        headers: HeaderLines = (),
        body: Buffer | Payload = b"",
        max_body: int = 1 << 20,
        idempotent: bool = False,
        timeouts: Timeouts | None = None,
    ) -> T:
        """One exchange: what `accept` makes of the reply. ServerRefusedError for a status not `expected`.

        `accept` raises FormatError for contents that break the protocol. The first NURL that can be connected
        to is used, and kept to.
        """
        payload = Payload.of(body)
        size = payload.size
        lines = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers]
        extensions = {
            "timeout": (timeouts or self._timeouts).of(size + max_body, writing=method != "GET"),
            "target": path.encode("ascii"),
            "max_body": max(max_body, _ERROR_BODY),
            "idempotent": idempotent,
        }
        began = trio.current_time()
        try:
            response = await self._send(method, lines, payload, extensions)
            reply = Reply(response.status_code, response.headers, response.extensions["body"])
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
        self._health.succeeded(trio.current_time() - began, size + len(reply.body))
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

    async def _send(
        self, method: str, lines: list[tuple[bytes, bytes]], body: Payload, extensions: dict[str, object]
    ) -> httpx.Response:
        failure: ServerError = ServerUnreachableError(f"{self._name} has no address that can be used")
        for route in list(self._routes):
            request = httpx.Request(
                method, route.url, headers=route.headers + lines, stream=body, extensions=extensions
            )
            try:
                # Not by an AsyncClient: its cookies, redirects and authentication cost as much as sending.
                response = await route.transport.handle_async_request(request)
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
                return response
        raise failure

    def _prefer(self, route: _Route) -> None:
        if self._routes[0] is not route:
            self._routes.remove(route)
            self._routes.insert(0, route)


CBOR_REQUEST: Final = (("Content-Type", CBOR), ("Accept", CBOR))
CBOR_ANSWER: Final = (("Accept", CBOR),)
