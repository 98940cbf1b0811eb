"""One storage server: the verbs of the protocol with types and deadlines (formats.md section 9)."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import trio

from lafsfs.config import ServerEntry
from lafsfs.errors import FormatError, ServerError, ServerRefusedError, ServerUnreachableError
from lafsfs.formats.keys import LeaseSecrets
from lafsfs.gbs import batch, messages, routes
from lafsfs.gbs.headers import (
    BATCHES,
    CBOR,
    OCTET_STREAM,
    WHOLE_SHARES,
    SecretKind,
    content_range,
    parse_content_range,
    range_of,
    secret_lines,
)
from lafsfs.gbs.messages import Allocated, ServerVersion, TestWrite
from lafsfs.grid.batching import SMALL
from lafsfs.grid.connection import ServerConnection
from lafsfs.grid.exchange import CBOR_ANSWER, CBOR_REQUEST, PROBE, Lane, Reply, Timeouts
from lafsfs.grid.health import Health
from lafsfs.grid.tls import Buffer
from lafsfs.grid.transport import Payload

log = logging.getLogger(__name__)

_ANSWER: Final = 1 << 20
_LARGEST_ANSWER: Final = 512 << 20
_MAX_DIGITS: Final = 16


@dataclass(frozen=True)
class WriteProgress:
    """After a write: whether the share is complete (and visible), else the half-open ranges still missing."""

    finished: bool
    missing: tuple[tuple[int, int], ...]


class StorageServer:
    """A server of the grid. Everything that goes wrong with it is a ServerError; nothing else is raised.

    `health` is kept up to date by every call. Shares are bytes; sizes and offsets count bytes.
    """

    def __init__(self, entry: ServerEntry, secrets: LeaseSecrets, timeouts: Timeouts | None = None) -> None:
        self.entry = entry
        self.name = entry.name
        self.server_id = entry.server_id
        self.health = Health()
        self.known_version: ServerVersion | None = None
        """What the server said last of itself."""
        self.takes_whole = 0
        """Bytes of shares that the server takes in one request, as it said last; 0 for Tahoe's."""
        self._version_time = float("-inf")
        self._secrets = secrets
        self._seed20 = entry.seed20
        self._connection = ServerConnection(entry.name, entry.nurls, self.health, timeouts or Timeouts())

    def __repr__(self) -> str:
        return f"<StorageServer {self.name}>"

    async def aclose(self) -> None:
        """Close all connections."""
        await self._connection.aclose()

    # --- identity ------------------------------------------------------------------------------------

    @property
    def seed20(self) -> bytes:
        """Seed of write enablers and lease secrets: the TubID, 20 bytes (formats.md 8.1).

        Without a FURL it is learnt from the certificate; before the first connection ServerUnreachableError.
        """
        if self._seed20 is None:
            certificate = self._connection.certificate
            if certificate is None:
                raise ServerUnreachableError(f"{self.name}: its identity is not known before a connection")
            self._seed20 = hashlib.sha1(certificate).digest()
        return self._seed20

    async def learn_seed20(self) -> bytes:
        """`seed20`, connecting first if that is needed to know it."""
        if self._seed20 is None and self._connection.certificate is None:
            await self.version()
        return self.seed20

    async def version(self, max_age: float = 0.0) -> ServerVersion:
        """What the server says of itself; an answer that is at most `max_age` seconds old will do."""
        if self.known_version is None or trio.current_time() - self._version_time > max_age:
            await self._ask_version(None)
        assert self.known_version is not None
        return self.known_version

    async def probe(self) -> bool:
        """Whether the server answers, with short deadlines. Updates `health` and `known_version`."""
        try:
            await self._ask_version(PROBE)
        except ServerError as error:
            log.debug("probe: %s", error)
            return False
        return True

    async def _ask_version(self, timeouts: Timeouts | None) -> None:
        self.known_version, self.takes_whole, batches = await self._connection.request(
            "GET", routes.VERSION, (200,), _version, headers=CBOR_ANSWER, timeouts=timeouts
        )
        self._connection.take_batches(min(batches, batch.MAX_BODY))
        self._version_time = trio.current_time()

    # --- immutable shares ----------------------------------------------------------------------------

    async def allocate(
        self, storage_index: bytes, shnums: Iterable[int], size: int, upload_secret: bytes
    ) -> Allocated:
        """Begin uploading shares of `size` bytes. Also renews the leases of the shares that are there.

        Not repeated by itself: Tahoe 1.20 does not name shares again that are in progress.
        """
        body = messages.encode_allocate(messages.AllocateRequest(frozenset(shnums), size))
        secrets = {**await self._lease_secrets(storage_index), SecretKind.UPLOAD: upload_secret}
        return await self._connection.request(
            "POST",
            routes.allocate(storage_index),
            (200,),
            _allocated,
            headers=[*CBOR_REQUEST, *secret_lines(secrets)],
            body=body,
            lane=Lane.WRITE_ONCE,
        )

    async def put_shares(self, storage_index: bytes, shares: Mapping[int, Buffer]) -> Allocated | None:
        """Upload whole shares, all of one size (adr/whole-shares.md), to a server that `takes_whole` so many bytes.

        Those that it has then, the new ones durably; or None if it does not know how, any more.
        """
        answer = await self._connection.request(
            "PUT",
            routes.allocate(storage_index),
            (200, 404, 405),
            _allocated_if_known,
            headers=[*CBOR_REQUEST, *secret_lines(await self._lease_secrets(storage_index))],
            body=messages.encode_whole_shares(shares),
            idempotent=True,
            lane=Lane.WRITE,
        )
        if answer is None:
            self.takes_whole = 0
        return answer

    async def write_share(
        self,
        storage_index: bytes,
        shnum: int,
        upload_secret: bytes,
        offset: int,
        data: Buffer | Payload,
        total: int,
    ) -> WriteProgress:
        """Write a non-empty piece of a share in progress. `data` must not change until this returns."""
        data = Payload.of(data)
        end = offset + data.size
        headers = [
            ("Content-Type", OCTET_STREAM),
            ("Content-Range", content_range(offset, end, total)),
            *CBOR_ANSWER,
            *secret_lines({SecretKind.UPLOAD: upload_secret}),
        ]
        path = routes.immutable_share(storage_index, shnum)
        return await self._connection.request(
            "PATCH", path, (200, 201), _progress, headers=headers, body=data, lane=Lane.WRITE_ONCE
        )

    async def abort(self, storage_index: bytes, shnum: int, upload_secret: bytes) -> None:
        """Give up a share in progress. One that is not in progress (any more) is no error."""
        headers = secret_lines({SecretKind.UPLOAD: upload_secret})
        path = routes.abort(storage_index, shnum)
        await self._connection.request(
            "PUT", path, (200, 404, 405), _status, headers=headers, idempotent=True
        )

    async def immutable_shares(self, storage_index: bytes) -> frozenset[int]:
        """Numbers of the complete immutable shares."""
        return await self._shares(routes.immutable_shares(storage_index))

    async def read_immutable(self, storage_index: bytes, shnum: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes: fewer, or none, past the end. No such share: ServerRefusedError, status 404."""
        return await self._read(routes.immutable_share(storage_index, shnum), offset, size)

    # --- mutable shares ------------------------------------------------------------------------------

    async def mutable_shares(self, storage_index: bytes) -> frozenset[int]:
        """Numbers of the shares of the slot."""
        return await self._shares(routes.mutable_shares(storage_index))

    async def read_mutable(self, storage_index: bytes, shnum: int, offset: int, size: int) -> bytes:
        """Like `read_immutable`."""
        return await self._read(routes.mutable_share(storage_index, shnum), offset, size)

    async def read_test_write(
        self,
        storage_index: bytes,
        write_enabler_for: Callable[[bytes], bytes],
        vectors: Mapping[int, TestWrite],
        read_vector: Sequence[tuple[int, int]],
    ) -> tuple[bool, dict[int, list[bytes]]]:
        """Test, read and write a slot atomically (formats.md 9.7): success and, by share, the bytes read.

        `write_enabler_for` makes the write enabler from this server's `seed20`. When the answer is lost,
        whether the write happened is unknown: the error is a ServerError like any other.
        """
        enabler = write_enabler_for(await self.learn_seed20())
        secrets = {**await self._lease_secrets(storage_index), SecretKind.WRITE_ENABLER: enabler}
        wanted = sum(size for _, size in read_vector)
        answer = await self._connection.request(
            "POST",
            routes.read_test_write(storage_index),
            (200,),
            functools.partial(_slot_answer, len(read_vector)),
            headers=[*CBOR_REQUEST, *secret_lines(secrets)],
            body=messages.encode_read_test_write(messages.ReadTestWrite(vectors, read_vector)),
            max_body=min(_ANSWER + wanted * messages.MAX_SHARES, _LARGEST_ANSWER),
            idempotent=not vectors,
            lane=_lane_of(bool(vectors), wanted),
        )
        return answer.success, {shnum: list(values) for shnum, values in answer.data.items()}

    # --- leases and advice ---------------------------------------------------------------------------

    async def add_lease(self, storage_index: bytes) -> bool:
        """Add or renew a lease on every share of the storage index. False if the server has none."""
        headers = secret_lines(await self._lease_secrets(storage_index))
        path = routes.lease(storage_index)
        status = await self._connection.request(
            "PUT", path, (204, 404), _status, headers=headers, idempotent=True, lane=Lane.WRITE
        )
        return status == 204

    async def advise_corrupt(
        self, kind: Literal["immutable", "mutable"], storage_index: bytes, shnum: int, reason: str
    ) -> None:
        """Tell the server that a share of it is damaged. Failures are only logged."""
        path = (routes.immutable_corrupt if kind == "immutable" else routes.mutable_corrupt)(
            storage_index, shnum
        )
        body = messages.encode_corrupt(reason)
        try:
            await self._connection.request("POST", path, (200,), _status, headers=CBOR_REQUEST, body=body)
        except ServerError as error:
            log.info("the advisory was not taken: %s", error)

    # --- common --------------------------------------------------------------------------------------

    async def _lease_secrets(self, storage_index: bytes) -> dict[SecretKind, bytes]:
        seed20 = await self.learn_seed20()
        return {
            SecretKind.LEASE_RENEW: self._secrets.renew(storage_index, seed20),
            SecretKind.LEASE_CANCEL: self._secrets.cancel(storage_index, seed20),
        }

    async def _shares(self, path: str) -> frozenset[int]:
        return await self._connection.request(
            "GET", path, (200,), _share_numbers, headers=CBOR_ANSWER, lane=Lane.READ
        )

    async def _read(self, path: str, offset: int, size: int) -> bytes:
        if size <= 0:
            return b""
        return await self._connection.request(
            "GET",
            path,
            (206, 204),
            functools.partial(_piece, offset, size),
            headers=[("Range", range_of(offset, size))],
            max_body=size,
            lane=_lane_of(False, size),
        )


def _lane_of(writing: bool, answer: int) -> Lane | None:
    """Where a request goes whose answer has about so many bytes."""
    if answer > SMALL:
        return None
    return Lane.WRITE_ONCE if writing else Lane.READ


# --- what replies mean; FormatError for contents that break the protocol ---------------------------------


def _status(reply: Reply) -> int:
    return reply.status


def _cbor_body(reply: Reply) -> bytes:
    if reply.content_type != CBOR:
        raise FormatError("the answer is not CBOR")
    return reply.body


def _version(reply: Reply) -> tuple[ServerVersion, int, int]:
    """What the server says, and how many bytes of whole shares and of batches it takes."""
    version = messages.decode_version(_cbor_body(reply))
    return version, _number(reply, WHOLE_SHARES), _number(reply, BATCHES)


def _number(reply: Reply, name: str) -> int:
    """A header that Tahoe's servers do not send."""
    value = reply.headers.get(name.lower(), "")
    return int(value) if value.isdecimal() and len(value) < _MAX_DIGITS else 0


def _allocated(reply: Reply) -> Allocated:
    return messages.decode_allocated(_cbor_body(reply))


def _allocated_if_known(reply: Reply) -> Allocated | None:
    return _allocated(reply) if reply.status == 200 else None


def _progress(reply: Reply) -> WriteProgress:
    return WriteProgress(reply.status == 201, messages.decode_required(_cbor_body(reply)).missing)


def _share_numbers(reply: Reply) -> frozenset[int]:
    return messages.decode_shares(_cbor_body(reply))


def _slot_answer(values: int, reply: Reply) -> messages.ReadTestWriteAnswer:
    answer = messages.decode_read_test_write_answer(_cbor_body(reply))
    if any(len(given) != values for given in answer.data.values()):
        raise FormatError("not as many values as were asked for")
    return answer


def _piece(offset: int, size: int, reply: Reply) -> bytes:
    if reply.status == 204:
        return b""
    given = parse_content_range(reply.headers.get("content-range", ""))
    fits = given.begin == offset and given.end <= offset + size
    if not fits or len(reply.body) != given.end - given.begin or reply.content_type != OCTET_STREAM:
        raise FormatError("not the bytes that were asked for")
    return reply.body


__all__ = ["Allocated", "ServerRefusedError", "ServerVersion", "StorageServer", "TestWrite", "WriteProgress"]
