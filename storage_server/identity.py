"""Who a server is: its keys and secret, and the names that follow from them (formats.md sections 8.1, 9.1).

Kept in `identity/` of the server directory, files of mode 0600: `server.key` (Ed25519 seed as a key string),
`tls.pem` (private key and the one self-signed certificate), `swissnum`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from lafsfs.errors import ConfigError, FormatError
from lafsfs.formats import base32
from lafsfs.gbs.nurl import Furl, Nurl, spki_hash

_DIRECTORY: Final = "identity"
_KEY_PREFIX: Final = "priv-v0-"
_SWISSNUM_BYTES: Final = 20
_VALIDITY: Final = timedelta(days=100 * 365)


@dataclass(frozen=True)
class Identity:
    """A server's permanent identity. `tls_file` holds its certificate and key for the TLS library."""

    public_key: bytes
    certificate_der: bytes
    spki: str
    swissnum: str = field(repr=False)
    tls_file: Path

    @property
    def server_id(self) -> str:
        """`v0-` and the base32 of the Ed25519 public key."""
        return "v0-" + base32.encode(self.public_key)

    @property
    def tubid(self) -> bytes:
        """SHA-1 of the certificate: seed of write enablers and lease secrets."""
        return hashlib.sha1(self.certificate_der).digest()

    @property
    def permutation_seed(self) -> bytes:
        """The raw public key: what clients fall back to when no seed is announced."""
        return self.public_key

    def nurl(self, host: str, port: int) -> Nurl:
        """Where and how this server is reached."""
        return Nurl(self.spki, host, port, self.swissnum)

    def furl(self, host: str, port: int) -> Furl:
        """The FURL that Tahoe's clients want beside the NURL; nobody connects to it."""
        return Furl(self.tubid, f"tcp:{host}:{port}", self.swissnum)


def create(directory: Path) -> Identity:
    """Make and store a new identity. ConfigError if there is one already."""
    home = directory / _DIRECTORY
    try:
        home.mkdir(mode=0o700)
    except FileExistsError:
        raise ConfigError(f"{directory} holds a server already") from None
    key = ed25519.Ed25519PrivateKey.generate()
    raw = key.private_bytes_raw()
    _write(home / "server.key", (_KEY_PREFIX + base32.encode(raw) + "\n").encode())
    _write(home / "tls.pem", _new_certificate())
    _write(home / "swissnum", (base32.encode(secrets.token_bytes(_SWISSNUM_BYTES)) + "\n").encode())
    return load(directory)


def load(directory: Path) -> Identity:
    """Read the identity of a server directory. ConfigError if it is missing or damaged."""
    home = directory / _DIRECTORY
    try:
        seed_text = (home / "server.key").read_text(encoding="ascii").strip()
        if not seed_text.startswith(_KEY_PREFIX):
            raise FormatError("not a key string")
        seed = base32.decode(seed_text.removeprefix(_KEY_PREFIX))
        public = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        certificate = x509.load_pem_x509_certificate((home / "tls.pem").read_bytes())
        swissnum = (home / "swissnum").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ConfigError(f"{directory} is no server directory; make one with lafs-storage create") from None
    except (OSError, ValueError, FormatError):
        raise ConfigError(f"the identity in {home} is damaged") from None
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Identity(public, der, spki_hash(spki), swissnum, home / "tls.pem")


def _new_certificate() -> bytes:
    """PEM of a fresh P-256 key and its self-signed certificate. Clients check the key, not dates or names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "lafs-storage")])
    begin = datetime.now(UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = (
        builder.not_valid_before(begin).not_valid_after(begin + _VALIDITY).sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
