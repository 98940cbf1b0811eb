"""One HTTP exchange over ASGI: headers, bodies with limits, answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from lafsfs.gbs.headers import CBOR, OCTET_STREAM
from storage_server.errors import TooLargeError

_BODY_TIMEOUT: Final = 120.0
"""Seconds to wait for the next piece of a body."""

_Headers = list[tuple[bytes, bytes]]


class DisconnectedError(Exception):
    """The client went away, or stopped sending, in the middle of its body."""


class Exchange:
    """A request and the way to answer it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._headers: _Headers = scope["headers"]
        self._receive = receive
        self._send = send
        self.started = False

    # --- the request -------------------------------------------------------------------------------

    def header(self, name: bytes) -> str | None:
        """The first header of this (lower-case) name."""
        for key, value in self._headers:
            if key == name:
                return value.decode("latin-1")
        return None

    def headers(self, name: bytes) -> list[str]:
        """All headers of this (lower-case) name."""
        return [value.decode("latin-1") for key, value in self._headers if key == name]

    def content_length(self) -> int | None:
        """The announced size of the body."""
        text = self.header(b"content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, piece by piece as it arrives. DisconnectedError if it breaks off."""
        while True:
            try:
                async with asyncio.timeout(_BODY_TIMEOUT):
                    message = await self._receive()
            except TimeoutError:
                raise DisconnectedError from None
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            chunk: bytes = message.get("body", b"")
            if chunk:
                yield chunk
            if not message.get("more_body", False):
                return

    async def body(self, limit: int) -> bytes:
        """The whole body. TooLargeError as soon as it exceeds `limit` bytes."""
        announced = self.content_length()
        if announced is not None and announced > limit:
            raise TooLargeError("the body is too large")
        pieces: list[bytes] = []
        size = 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise TooLargeError("the body is too large")
            pieces.append(chunk)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # --- the answer --------------------------------------------------------------------------------

    async def cbor(self, status: int, body: bytes, extra: _Headers | None = None) -> None:
        """Answer with a CBOR body."""
        await self.answer(status, body, CBOR.encode(), extra)

    async def octets(self, status: int, extra: _Headers, length: int) -> None:
        """Begin an answer of `length` raw bytes, to be sent with `piece`."""
        headers = [(b"content-type", OCTET_STREAM.encode()), *extra]
        if status != 204:
            headers.append((b"content-length", b"%d" % length))
        await self._start(status, headers)

    async def piece(self, data: bytes, more: bool) -> None:
        """A piece of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(
        self,
        status: int,
        body: bytes = b"",
        content_type: bytes = b"text/plain",
        extra: _Headers | None = None,
    ) -> None:
        """Answer in one go."""
        headers = [(b"content-type", content_type), *(extra or ())]
        if status != 204:
            headers.append((b"content-length", b"%d" % len(body)))
        await self._start(status, headers)
        await self.piece(b"" if self.method == "HEAD" else body, more=False)

    async def _start(self, status: int, headers: _Headers) -> None:
        self.started = True
        message: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
        await self._send(message)
