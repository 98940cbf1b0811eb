"""One storage server as configuration knows it, and its announcement form (formats.md 8.1, 10.2, 10.5)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lafsfs.errors import FormatError
from lafsfs.formats import base32
from lafsfs.gbs.nurl import Furl, Nurl

_NURLS: Final = "anonymous-storage-NURLs"
_FURL: Final = "anonymous-storage-FURL"
_SEED: Final = "permutation-seed-base32"
_CERTIFICATES: Final = "grid-manager-certificates"
_SERVER_ID: Final = re.compile(r"v0-([a-z2-7]{52})")
_PUBLIC_KEY: Final = re.compile(r"pub-v0-([a-z2-7]{52})")


@dataclass(frozen=True)
class SignedCertificate:
    """A grid manager's certificate: JSON text and the Ed25519 signature over its UTF-8 bytes."""

    text: str
    signature: bytes


@dataclass(frozen=True)
class ServerEntry:
    """A server: where it is, and the identities that order and secrets derive from.

    `server_id` is any string, `v0-…` for servers with an Ed25519 key. At least one NURL.
    """

    server_id: str
    nurls: tuple[Nurl, ...]
    furl: Furl | None = None
    permutation_seed: bytes = b""
    nickname: str = ""
    grid_manager_certificates: tuple[SignedCertificate, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if not self.nurls:
            raise FormatError("a server needs at least one NURL")
        if not self.permutation_seed:
            object.__setattr__(self, "permutation_seed", default_seed(self.server_id))

    @property
    def seed20(self) -> bytes | None:
        """The TubID, 20 bytes, if a FURL tells it; else it is SHA-1 of the server's certificate."""
        return self.furl.tubid if self.furl else None

    @property
    def name(self) -> str:
        """For people: the nickname, or the beginning of the server id."""
        return self.nickname or self.server_id.removeprefix("v0-")[:8]


def default_seed(server_id: str) -> bytes:
    """Permutation seed of a server that announces none."""
    match = _SERVER_ID.fullmatch(server_id)
    if match:
        try:
            return base32.decode(match[1])
        except FormatError:
            pass  # not a key after all: like any other string
    return hashlib.sha256(server_id.encode("utf-8")).digest()


def decode_public_key(text: str) -> bytes:
    """The 32 bytes of a `pub-v0-…` key string. FormatError."""
    match = _PUBLIC_KEY.fullmatch(text.strip())
    if match is None:
        raise FormatError("not a public key (pub-v0-…)")
    return base32.decode(match[1])


def encode_public_key(key: bytes) -> str:
    """The key string of 32 bytes."""
    return "pub-v0-" + base32.encode(key)


def parse_announcement(server_id: str, announcement: object) -> ServerEntry | None:
    """A server from its announcement; None if it announces no NURL (a Foolscap-only server). FormatError."""
    if not isinstance(announcement, Mapping):
        raise FormatError("the announcement is no map")
    nurls = announcement.get(_NURLS) or ()
    if not isinstance(nurls, list | tuple | set):
        raise FormatError(f"{_NURLS} is no list")
    if not nurls:
        return None
    furl = announcement.get(_FURL)
    seed = announcement.get(_SEED)
    return ServerEntry(
        server_id,
        tuple(Nurl.parse(str(text)) for text in nurls),
        Furl.parse(str(furl)) if furl else None,
        base32.decode(str(seed)) if seed else b"",
        str(announcement.get("nickname") or ""),
        tuple(_parse_certificates(announcement.get(_CERTIFICATES) or ())),
    )


def _parse_certificates(value: object) -> list[SignedCertificate]:
    """Well-formed certificates; a malformed one is like none at all."""
    found: list[SignedCertificate] = []
    for item in value if isinstance(value, list | tuple) else ():
        if not isinstance(item, Mapping) or not isinstance(item.get("certificate"), str):
            continue
        try:
            signature = base32.decode(str(item.get("signature")))
        except FormatError:
            continue
        found.append(SignedCertificate(item["certificate"], signature))
    return found


def make_announcement(entry: ServerEntry) -> dict[str, Any]:
    """The inverse of `parse_announcement`. Holds the swissnum."""
    announcement: dict[str, Any] = {}
    if entry.nickname:
        announcement["nickname"] = entry.nickname
    announcement[_NURLS] = [nurl.to_string() for nurl in entry.nurls]
    if entry.furl:
        announcement[_FURL] = entry.furl.to_string()
    if entry.permutation_seed != default_seed(entry.server_id):
        announcement[_SEED] = base32.encode(entry.permutation_seed)
    if entry.grid_manager_certificates:
        announcement[_CERTIFICATES] = [
            {"certificate": c.text, "signature": base32.encode(c.signature)}
            for c in entry.grid_manager_certificates
        ]
    return announcement
