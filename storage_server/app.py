"""The storage protocol over ASGI: requests to store calls, refusals to statuses (formats.md section 9)."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from lafsfs.errors import FormatError, LafsError
from lafsfs.gbs import batch, headers, messages, routes
from lafsfs.gbs.headers import OCTET_STREAM, SecretKind
from lafsfs.gbs.messages import Required
from lafsfs.gbs.routes import Endpoint, Target
from storage_server.batch import PartExchange
from storage_server.errors import BadRangeError, RefusedError
from storage_server.exchange import DisconnectedError, Exchange
from storage_server.layout import Kind
from storage_server.leases import LeaseSecrets
from storage_server.slots import SlotRequest
from storage_server.store import ShareReader, Store

MAX_READ_TEST_WRITE: Final = 1 << 30
"""Bytes of a read-test-write body; it is held in memory."""

_PIECE: Final = 512 << 10
_CBOR_ACCEPTED: Final = ("application/cbor", "application/*", "*/*")
_READS: Final = (Endpoint.READ_IMMUTABLE, Endpoint.READ_MUTABLE)
_EXTENSIONS: Final = [
    (headers.WHOLE_SHARES.lower().encode(), b"%d" % messages.MAX_WHOLE_SHARES),
    (headers.BATCHES.lower().encode(), b"%d" % batch.MAX_BODY),
]
_log = logging.getLogger("storage_server.app")

Secrets = Mapping[SecretKind, bytes]
Handler = Callable[[Exchange, Target, Secrets], Awaitable[None]]


def _lease_secrets(secrets: Secrets) -> LeaseSecrets:
    return LeaseSecrets(secrets[SecretKind.LEASE_RENEW], secrets[SecretKind.LEASE_CANCEL])


class Application:
    """The ASGI endpoint of one store, for holders of its swissnum."""

    def __init__(self, store: Store, swissnum: str) -> None:
        self._store = store
        self._authorization = headers.authorization(swissnum).encode("ascii")
        self._handlers: Mapping[Endpoint, Handler] = {
            Endpoint.VERSION: self._version,
            Endpoint.BATCH: self._batch,
            Endpoint.LEASE: self._lease,
            Endpoint.ALLOCATE: self._allocate,
            Endpoint.PUT_SHARES: self._put_shares,
            Endpoint.WRITE: self._write,
            Endpoint.ABORT: self._abort,
            Endpoint.READ_IMMUTABLE: self._read_immutable,
            Endpoint.LIST_IMMUTABLE: self._list_immutable,
            Endpoint.CORRUPT_IMMUTABLE: self._corrupt_immutable,
            Endpoint.READ_TEST_WRITE: self._read_test_write,
            Endpoint.READ_MUTABLE: self._read_mutable,
            Endpoint.LIST_MUTABLE: self._list_mutable,
            Endpoint.CORRUPT_MUTABLE: self._corrupt_mutable,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        exchange = Exchange(scope, receive, send)
        given = exchange.header(b"authorization") or ""
        await self._respond(exchange, hmac.compare_digest(given.encode("utf-8"), self._authorization))

    async def _respond(self, exchange: Exchange, authorized: bool) -> None:
        target = routes.match(exchange.path)
        if target is None:
            await exchange.answer(404, b"no such path")
            return
        endpoint = target.methods.get("GET" if exchange.method == "HEAD" else exchange.method)
        if endpoint is None:
            await exchange.answer(405, b"no such method here")
            return
        if not authorized:
            await exchange.answer(401, b"wrong or missing swissnum")
            return
        try:
            given = exchange.headers(b"x-tahoe-authorization")
            secrets = headers.parse_secrets(given, routes.SECRETS[endpoint])
            await self._handlers[endpoint](exchange, target, secrets)
        except DisconnectedError:
            return
        except (FormatError, RefusedError, OSError) as error:
            await _refuse(exchange, endpoint, error)

    # --- both kinds --------------------------------------------------------------------------------

    async def _version(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        if await _answers_cbor(exchange):
            version = messages.encode_version(self._store.version())
            await exchange.cbor(200, version, _EXTENSIONS)

    async def _batch(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        if not await _speaks_cbor(exchange):
            return
        parts = [PartExchange(part) for part in batch.decode_parts(await exchange.body(batch.MAX_BODY))]
        await asyncio.gather(*map(self._respond_to_part, parts))
        await exchange.cbor(200, batch.encode_outcomes([part.outcome for part in parts]))

    async def _respond_to_part(self, part: PartExchange) -> None:
        try:
            if part.path == routes.BATCH:
                await part.answer(400, b"a batch in a batch")
            else:
                await self._respond(part, authorized=True)
        except Exception:
            # As uvicorn does with whole requests: the others are not to suffer.
            _log.exception("a part of a batch failed")
            part.fail()

    async def _lease(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        await self._store.add_lease(target.storage_index, _lease_secrets(secrets))
        await exchange.answer(204)

    async def _list_immutable(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        await self._list(exchange, target, Kind.IMMUTABLE)

    async def _list_mutable(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        await self._list(exchange, target, Kind.MUTABLE)

    async def _list(self, exchange: Exchange, target: Target, kind: Kind) -> None:
        if await _answers_cbor(exchange):
            numbers = self._store.share_numbers(target.storage_index, kind)
            await exchange.cbor(200, messages.encode_shares(numbers))

    async def _corrupt_immutable(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        await self._corrupt(exchange, target, Kind.IMMUTABLE)

    async def _corrupt_mutable(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        await self._corrupt(exchange, target, Kind.MUTABLE)

    async def _corrupt(self, exchange: Exchange, target: Target, kind: Kind) -> None:
        if not await _sends_cbor(exchange):
            return
        reason = messages.decode_corrupt(await exchange.body(messages.MAX_CORRUPT_BODY))
        self._store.advise_corrupt(kind, target.storage_index, target.shnum, reason)
        await exchange.answer(200)

    # --- immutable shares --------------------------------------------------------------------------

    async def _allocate(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        if not await _speaks_cbor(exchange):
            return
        request = messages.decode_allocate(await exchange.body(messages.MAX_ALLOCATE_BODY))
        answer = await self._store.allocate(
            target.storage_index, request, secrets[SecretKind.UPLOAD], _lease_secrets(secrets)
        )
        await exchange.cbor(200, messages.encode_allocated(answer))

    async def _put_shares(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        if not await _speaks_cbor(exchange):
            return
        shares = messages.decode_whole_shares(await exchange.body(messages.MAX_PUT_BODY))
        answer = await self._store.put_shares(target.storage_index, shares, _lease_secrets(secrets))
        await exchange.cbor(200, messages.encode_allocated(answer))

    async def _write(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        if not await _answers_cbor(exchange):
            return
        try:
            span = headers.parse_content_range(exchange.header(b"content-range") or "")
        except FormatError as error:
            raise BadRangeError(str(error)) from None
        uploads, key = self._store.uploads, (target.storage_index, target.shnum)
        with uploads.writing(key, secrets[SecretKind.UPLOAD], span.begin, span.end) as (upload, writer):
            async for chunk in exchange.chunks():
                writer.feed(chunk)
            writer.finish()
        status = 201 if await uploads.settle(upload) else 200
        await exchange.cbor(status, messages.encode_required(Required(upload.missing())))

    async def _abort(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        self._store.abort(target.storage_index, target.shnum, secrets[SecretKind.UPLOAD])
        await exchange.answer(200)

    async def _read_immutable(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        share = self._store.open_immutable(target.storage_index, target.shnum)
        try:
            await _send_share(exchange, share)
        finally:
            share.close()

    # --- mutable shares ----------------------------------------------------------------------------

    async def _read_test_write(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        if not await _speaks_cbor(exchange):
            return
        body = messages.decode_read_test_write(await exchange.body(MAX_READ_TEST_WRITE))
        enabler = secrets[SecretKind.WRITE_ENABLER]
        request = SlotRequest(target.storage_index, enabler, _lease_secrets(secrets), body)
        answer = await self._store.slots.read_test_write(request)
        await exchange.cbor(200, messages.encode_read_test_write_answer(answer))

    async def _read_mutable(self, exchange: Exchange, target: Target, secrets: Secrets) -> None:
        if self._store.locks.busy(target.storage_index):
            async with self._store.locks.hold(target.storage_index):
                share = self._store.open_mutable(target.storage_index, target.shnum)
        else:
            share = self._store.open_mutable(target.storage_index, target.shnum)
        try:
            await _send_share(exchange, share)
        finally:
            share.close()


async def _speaks_cbor(exchange: Exchange) -> bool:
    """Whether the client sends CBOR and takes it; if not, it has got its answer."""
    return await _answers_cbor(exchange) and await _sends_cbor(exchange)


async def _answers_cbor(exchange: Exchange) -> bool:
    """Whether the client takes CBOR; if not, it has got its 406."""
    accept = exchange.header(b"accept")
    if accept is None or any(part.partition(";")[0].strip() in _CBOR_ACCEPTED for part in accept.split(",")):
        return True
    await exchange.answer(406, b"answers are application/cbor")
    return False


async def _sends_cbor(exchange: Exchange) -> bool:
    """Whether the body is CBOR; if not, the client has got its 415."""
    content_type = exchange.header(b"content-type")
    if not content_type or content_type.partition(";")[0].strip().lower() == headers.CBOR:
        return True
    await exchange.answer(415, b"bodies are application/cbor")
    return False


async def _send_share(exchange: Exchange, share: ShareReader) -> None:
    """Answer a read: the range that was asked for, or all of the share."""
    offset, size, status = 0, share.length, 200
    extra: list[tuple[bytes, bytes]] = []
    asked = exchange.header(b"range")
    if asked is not None:
        try:
            offset, size = headers.parse_range(asked)
        except FormatError as error:
            raise BadRangeError(str(error)) from None
        size = max(0, min(size, share.length - offset))
        status = 206 if size else 204
        if size:
            extra = [(b"content-range", headers.content_range(offset, offset + size).encode())]
    first = share.read(offset, min(_PIECE, size)) if size and exchange.method != "HEAD" else b""
    await exchange.octets(status, extra, size)
    if exchange.method == "HEAD":
        size = len(first)
    position, end = offset + len(first), offset + size
    await exchange.piece(first, more=position < end)
    while position < end:
        data = share.read(position, min(_PIECE, end - position))
        if not data:
            raise OSError("a share became shorter while it was read")
        position += len(data)
        await exchange.piece(data, more=position < end)


async def _refuse(exchange: Exchange, endpoint: Endpoint, error: Exception) -> None:
    """Answer with the status of a refusal. Texts never hold secrets."""
    if exchange.started:
        raise error
    if isinstance(error, RefusedError):
        status = error.status
    elif isinstance(error, FormatError):
        status = 400
    else:
        _log.error("%s: %s", endpoint.value, error)
        status = 500
    text = str(error) if isinstance(error, LafsError) else "the disk failed"
    await exchange.answer(
        status, text.encode(), OCTET_STREAM.encode() if endpoint in _READS else b"text/plain"
    )


def asgi_application(store: Store, swissnum: str) -> ASGIApp:
    """The whole application; the store is opened and closed with its lifespan."""
    application = Application(store, swissnum)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await store.open()
        try:
            yield
        finally:
            await store.close()

    around = Starlette(lifespan=lifespan)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        # Requests go past Starlette, whose layers of middleware would find nothing to do.
        await (application if scope["type"] == "http" else around)(scope, receive, send)

    return serve
