"""Keys and authenticated encryption for local state (design.md section 5; contrib/doc/adr/local-sealing.md).

Everything the journal and the staging area put on disk is sealed with AES-256-GCM under keys derived from the cap of
the mounted root, so that nothing there can be read, moved or changed without the cap.
"""

from __future__ import annotations

import hashlib
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lafsfs.errors import JournalError
from lafsfs.formats import hashing
from lafsfs.formats.caps import DirCap

NONCE = 12
TAG = 16
OVERHEAD = NONCE + TAG


def state_key(root: DirCap) -> bytes:
    """The 32-byte key of all local state of one root, derived from its cap."""
    return hashing.tagged(b"lafsfs_local_state_key_v1", root.to_bytes(), 32)


def subkey(key: bytes, purpose: bytes) -> bytes:
    """A 32-byte key for one purpose; different purposes give independent keys."""
    return hashlib.blake2b(purpose, key=key, digest_size=32).digest()


class Sealer:
    """Seals byte strings under one key, bound to a context (such as the row they belong to).

    Nonces are random, so one key should seal fewer than 2**32 records.
    """

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)

    def seal(self, plaintext: bytes | bytearray | memoryview, context: bytes) -> bytes:
        """nonce || ciphertext || tag, `OVERHEAD` bytes longer than the plaintext."""
        nonce = os.urandom(NONCE)
        return nonce + self._aead.encrypt(nonce, plaintext, context)

    def open(self, sealed: bytes | memoryview, context: bytes) -> bytes:
        """The plaintext; JournalError if the bytes are not what was sealed for this context."""
        try:
            return self._aead.decrypt(bytes(sealed[:NONCE]), sealed[NONCE:], context)
        except (InvalidTag, ValueError):  # ValueError: what is left is shorter than a nonce
            raise JournalError("a sealed record is damaged or was sealed with another key") from None
