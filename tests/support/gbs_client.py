"""A plain blocking GBS client for tests: control over every header and byte, independent of grid/."""

from __future__ import annotations

import hashlib
import http.client
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lafsfs.gbs import headers, messages, routes
from lafsfs.gbs.headers import SecretKind
from lafsfs.gbs.messages import Allocated, AllocateRequest, ReadTestWrite, ReadTestWriteAnswer, TestWrite
from lafsfs.gbs.nurl import Nurl


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _secret(label: str, *parts: object) -> bytes:
    return hashlib.sha256(repr((label, parts)).encode()).digest()


class GbsClient:
    """One connection to one server; not for use by several threads at once."""

    def __init__(self, nurl: Nurl, timeout: float = 30.0) -> None:
        self._nurl = nurl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._http = http.client.HTTPSConnection(nurl.host, nurl.port, context=context, timeout=timeout)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> GbsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def certificate(self) -> bytes:
        """DER of the certificate that the server presents."""
        self._http.connect()
        der = self._http.sock.getpeercert(binary_form=True)
        assert isinstance(der, bytes)
        return der

    def exchange(
        self, method: str, path: str, header_lines: Sequence[tuple[str, str]], body: bytes | None = None
    ) -> Answer:
        """Send exactly these headers (and Host, and Content-Length unless chunked) and read the answer."""
        self._http.putrequest(method, path, skip_accept_encoding=True)
        for name, value in header_lines:
            self._http.putheader(name, value)
        if body is not None and not any(name == "Transfer-Encoding" for name, _ in header_lines):
            self._http.putheader("Content-Length", str(len(body)))
        self._http.endheaders(body)
        response = self._http.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def request(
        self,
        method: str,
        path: str,
        secrets: Mapping[SecretKind, bytes] | None = None,
        body: bytes | None = None,
        extra: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """A well-formed request."""
        lines = [
            (headers.AUTHORIZATION, headers.authorization(self._nurl.swissnum)),
            ("Accept", headers.CBOR),
            *headers.secret_lines(secrets or {}),
            *extra,
        ]
        return self.exchange(method, path, lines, body)

    # --- the verbs, with secrets derived from labels ------------------------------------------------

    @staticmethod
    def lease_secrets(label: str = "client") -> dict[SecretKind, bytes]:
        return {
            SecretKind.LEASE_RENEW: _secret("renew", label),
            SecretKind.LEASE_CANCEL: _secret("cancel", label),
        }

    def allocate(
        self, si: bytes, shnums: Sequence[int], size: int, upload_secret: bytes = b"upload"
    ) -> Allocated:
        body = messages.encode_allocate(AllocateRequest(frozenset(shnums), size))
        secrets = {**self.lease_secrets(), SecretKind.UPLOAD: upload_secret}
        answer = self.request("POST", routes.allocate(si), secrets, body)
        assert answer.status == 200, answer
        return messages.decode_allocated(answer.body)

    def put_shares(self, si: bytes, shares: Mapping[int, bytes], label: str = "client") -> Allocated:
        body = messages.encode_whole_shares(shares)
        answer = self.request("PUT", routes.allocate(si), self.lease_secrets(label), body)
        assert answer.status == 200, answer
        return messages.decode_allocated(answer.body)

    def write(
        self, si: bytes, shnum: int, offset: int, data: bytes, upload_secret: bytes = b"upload"
    ) -> tuple[int, tuple[tuple[int, int], ...]]:
        """(status, missing ranges)"""
        answer = self.request(
            "PATCH",
            routes.immutable_share(si, shnum),
            {SecretKind.UPLOAD: upload_secret},
            data,
            [("Content-Range", headers.content_range(offset, offset + len(data)))],
        )
        if answer.status not in (200, 201):
            return answer.status, ()
        return answer.status, messages.decode_required(answer.body).missing

    def read(self, kind: str, si: bytes, shnum: int, offset: int | None = None, size: int = 0) -> Answer:
        path = (routes.immutable_share if kind == "immutable" else routes.mutable_share)(si, shnum)
        extra = [] if offset is None else [("Range", headers.range_of(offset, size))]
        return self.request("GET", path, extra=extra)

    def shares(self, kind: str, si: bytes) -> frozenset[int]:
        path = (routes.immutable_shares if kind == "immutable" else routes.mutable_shares)(si)
        answer = self.request("GET", path)
        assert answer.status == 200, answer
        return messages.decode_shares(answer.body)

    def read_test_write(
        self,
        si: bytes,
        vectors: Mapping[int, TestWrite],
        read_vector: Sequence[tuple[int, int]] = (),
        enabler: str = "enabler",
        lease: str = "client",
    ) -> tuple[int, ReadTestWriteAnswer | None]:
        """(status, answer if it is 200)"""
        secrets = {**self.lease_secrets(lease), SecretKind.WRITE_ENABLER: _secret("enabler", enabler)}
        body = messages.encode_read_test_write(ReadTestWrite(vectors, read_vector))
        answer = self.request("POST", routes.read_test_write(si), secrets, body)
        if answer.status != 200:
            return answer.status, None
        return 200, messages.decode_read_test_write_answer(answer.body)

    def add_lease(self, si: bytes, label: str = "other") -> int:
        """The status."""
        return self.request("PUT", routes.lease(si), self.lease_secrets(label)).status
