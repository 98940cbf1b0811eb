"""HTTP headers of the storage protocol: authorization, secrets, ranges (formats.md sections 9.3 and 9.5)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from lafsfs.errors import FormatError

AUTHORIZATION: Final = "Authorization"
SECRET_HEADER: Final = "X-Tahoe-Authorization"
CBOR: Final = "application/cbor"
OCTET_STREAM: Final = "application/octet-stream"
WHOLE_SHARES: Final = "Lafs-Whole-Shares"
"""In the answer to GET version of a server that takes whole shares (adr/whole-shares.md): how many bytes of them."""
BATCHES: Final = "Lafs-Batches"
"""In that answer, of a server that takes batches (adr/batches.md): how many bytes of them."""

_SCHEME: Final = "Tahoe-LAFS "


class SecretKind(Enum):
    """Kinds of secrets; the value is the word on the wire."""

    LEASE_RENEW = "lease-renew-secret"
    LEASE_CANCEL = "lease-cancel-secret"
    UPLOAD = "upload-secret"
    WRITE_ENABLER = "write-enabler"


_KINDS: Final = {kind.value: kind for kind in SecretKind}
_EXACT_SIZE: Final = 32


def authorization(swissnum: str) -> str:
    """Value of the Authorization header."""
    return _SCHEME + base64.b64encode(swissnum.encode("ascii")).decode("ascii")


def secret_lines(secrets: Mapping[SecretKind, bytes]) -> list[tuple[str, str]]:
    """One header line per secret; lines must not be joined with commas."""
    return [
        (SECRET_HEADER, f"{kind.value} {base64.b64encode(secret).decode('ascii')}")
        for kind, secret in secrets.items()
    ]


def parse_secrets(values: Iterable[str], required: frozenset[SecretKind]) -> dict[SecretKind, bytes]:
    """Secrets of a request from the values of its secret headers.

    FormatError unless exactly the `required` kinds are there, each once and well formed.
    """
    secrets: dict[SecretKind, bytes] = {}
    for value in values:
        word, _, encoded = value.strip().partition(" ")
        kind = _KINDS.get(word)
        if kind is None:
            raise FormatError("unknown kind of secret")
        if kind in secrets:
            raise FormatError(f"{word} given twice")
        secrets[kind] = _decode_secret(kind, encoded)
    if secrets.keys() != required:
        wanted = ", ".join(sorted(kind.value for kind in required)) or "none"
        raise FormatError(f"wrong set of secrets; required: {wanted}")
    return secrets


def _decode_secret(kind: SecretKind, encoded: str) -> bytes:
    try:
        secret = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise FormatError(f"{kind.value} is not base64") from None
    if not secret or (kind is not SecretKind.UPLOAD and len(secret) != _EXACT_SIZE):
        raise FormatError(f"{kind.value} has the wrong size")
    return secret


# --- ranges --------------------------------------------------------------------------------------

# Numbers are bounded: nobody makes us parse digits without end. White space and case are as free as in Tahoe.
_RANGE: Final = re.compile(r"bytes\s*=\s*([0-9]{1,40})\s*-\s*([0-9]{1,40})", re.IGNORECASE)
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


def range_of(offset: int, size: int) -> str:
    """Value of the Range header for `size` > 0 bytes from `offset`."""
    return f"bytes={offset}-{offset + size - 1}"


def parse_range(value: str) -> tuple[int, int]:
    """(offset, size) of a Range header. FormatError for open, suffix, multiple, reversed or other ranges."""
    match = _RANGE.fullmatch(value.strip())
    if match is None:
        raise FormatError("only Range: bytes=<first>-<last> is understood")
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise FormatError("the range ends before it begins")
    return first, last - first + 1


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Bytes [begin, end) of something of `total` bytes (None: not said)."""

    begin: int
    end: int
    total: int | None = None


def content_range(begin: int, end: int, total: int | None = None) -> str:
    """Value of the Content-Range header for the non-empty half-open range [begin, end)."""
    return f"bytes {begin}-{end - 1}/{'*' if total is None else total}"


def parse_content_range(value: str) -> ContentRange:
    """The range of a Content-Range header. FormatError unless it is one non-empty range of bytes."""
    match = _CONTENT_RANGE.fullmatch(value.strip())
    if match is None:
        raise FormatError("not a Content-Range: bytes <first>-<last>/<total or *>")
    begin, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < begin or (total is not None and begin >= total):
        raise FormatError("the content range is empty, or begins behind its end")
    return ContentRange(begin, last + 1, total)
