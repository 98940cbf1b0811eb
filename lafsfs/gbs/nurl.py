"""NURLs and Foolscap URLs: how a storage server is named in configuration (formats.md 8.1, 9.1)."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field

from lafsfs.errors import FormatError
from lafsfs.formats import base32

_NURL = re.compile(
    r"pb(?:\+(?P<network>tor|i2p))?://(?P<spki>[A-Za-z0-9_-]{43})"
    r"@(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s/@:\[\]]+):(?P<port>[0-9]{1,5})"
    r"/(?P<swissnum>[^\s/#?]+)#v=1"
)
_FURL = re.compile(r"pb://(?P<tubid>[a-z2-7]{32})@(?P<location>[^\s/]*)/(?P<swissnum>[^\s/#?]+)")


def spki_hash(spki_der: bytes) -> str:
    """The pin of a SubjectPublicKeyInfo: 43 characters of unpadded URL-safe base64 of its SHA-256."""
    return base64.urlsafe_b64encode(hashlib.sha256(spki_der).digest()).decode("ascii").rstrip("=")


@dataclass(frozen=True)
class Nurl:
    """Address, TLS pin and access secret of a GBS server. `repr` and `str` hide the swissnum."""

    spki: str
    host: str
    port: int
    swissnum: str = field(repr=False)
    network: str = ""

    @classmethod
    def parse(cls, text: str) -> Nurl:
        """The NURL in `text` (surrounding white space ignored). FormatError if it is none."""
        match = _NURL.fullmatch(text.strip())
        if match is None:
            raise FormatError("not a NURL (pb://<pin>@<host>:<port>/<swissnum>#v=1)")
        port = int(match["port"])
        if not 0 < port < 65536:
            raise FormatError("the NURL's port is out of range")
        host = match["host"].strip("[]")
        return cls(match["spki"], host, port, match["swissnum"], match["network"] or "")

    def to_string(self) -> str:
        """The whole NURL, secret included: for configuration files, never for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = f"pb+{self.network}" if self.network else "pb"
        return f"{scheme}://{self.spki}@{host}:{self.port}/{self.swissnum}#v=1"

    def __str__(self) -> str:
        return f"{self.host}:{self.port} (pin {self.spki[:8]}…)"


@dataclass(frozen=True)
class Furl:
    """A Foolscap URL. Only its TubID matters to us: the seed of write enablers and lease secrets."""

    tubid: bytes
    location: str
    swissnum: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Furl:
        """The FURL in `text` (surrounding white space ignored). FormatError if it is none."""
        match = _FURL.fullmatch(text.strip())
        if match is None:
            raise FormatError("not a FURL (pb://<tubid>@<location>/<swissnum>)")
        return cls(base32.decode(match["tubid"]), match["location"], match["swissnum"])

    def to_string(self) -> str:
        """The whole FURL, secret included."""
        return f"pb://{base32.encode(self.tubid)}@{self.location}/{self.swissnum}"

    def __str__(self) -> str:
        return f"tub {base32.encode(self.tubid)}"
