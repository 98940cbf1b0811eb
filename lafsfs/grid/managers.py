"""Grid managers: which servers may receive new shares (formats.md 10.5)."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from lafsfs.config import ServerEntry, SignedCertificate


def may_receive_shares(entry: ServerEntry, keys: Sequence[bytes], now: datetime.datetime) -> bool:
    """Whether one of `keys` vouches for the server at `now` (with zone). Without keys, everybody may."""
    return not keys or any(_vouches(c, entry.server_id, keys, now) for c in entry.grid_manager_certificates)


def _vouches(
    certificate: SignedCertificate, server_id: str, keys: Sequence[bytes], now: datetime.datetime
) -> bool:
    text = certificate.text.encode("utf-8")
    if not any(_signed_by(key, certificate.signature, text) for key in keys):
        return False
    try:
        fields = json.loads(text)
        expires = datetime.datetime.fromisoformat(fields["expires"])
        if expires.tzinfo is None:
            expires = expires.replace(tzinfo=datetime.UTC)
        return bool(fields["version"] == 1 and fields["public_key"] == f"pub-{server_id}" and now < expires)
    except (ValueError, KeyError, TypeError):
        return False  # signed, but of a form that says nothing to us


def _signed_by(key: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True
