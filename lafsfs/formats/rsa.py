"""RSA-2048 keys of mutable files (formats.md 6.1).

The DER bytes are kept as they came: the write key is a hash over exactly those bytes, so a key that went
through a parser and a serialiser could belong to another file. `cryptography` is used for the arithmetic
only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa as _rsa

from lafsfs.errors import FormatError
from lafsfs.formats import aes, keys

KEY_BITS = 2048
PUBLIC_EXPONENT = 65537
SIGNATURE_SIZE = KEY_BITS // 8
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)


@dataclass(frozen=True)
class VerifyKey:
    """A public key: `der` is its SubjectPublicKeyInfo, as stored in every share."""

    der: bytes
    _key: _rsa.RSAPublicKey = field(repr=False, compare=False)

    @classmethod
    def from_der(cls, der: bytes) -> VerifyKey:
        """Parse a SubjectPublicKeyInfo. FormatError unless it holds an RSA key of 2048 bits."""
        try:
            key = serialization.load_der_public_key(der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError("not a public key in DER") from error
        if not isinstance(key, _rsa.RSAPublicKey) or key.key_size != KEY_BITS:
            raise FormatError("the verification key is not RSA of 2048 bits")
        return cls(der, key)

    @property
    def fingerprint(self) -> bytes:
        """The 32 bytes by which caps name this key."""
        return keys.fingerprint_of(self.der)

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether `signature` (RSASSA-PSS, SHA-256, salt of 32 bytes) was made over `message`."""
        try:
            self._key.verify(signature, message, _PSS, hashes.SHA256())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """A private key: `der` is its unencrypted PKCS#8 form, verbatim."""

    der: bytes = field(repr=False)
    _key: _rsa.RSAPrivateKey = field(repr=False, compare=False)
    public: VerifyKey = field(repr=False, compare=False)

    @classmethod
    def from_der(cls, der: bytes) -> SigningKey:
        """Parse PKCS#8 DER. FormatError unless it holds an RSA key of 2048 bits.

        The primes are not tested again: that would take longer than everything else, and a key is only used
        after `der` was found to hash to the write key it was asked for.
        """
        try:
            key = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise FormatError("not a private key in DER") from error
        if not isinstance(key, _rsa.RSAPrivateKey) or key.key_size != KEY_BITS:
            raise FormatError("the signing key is not RSA of 2048 bits")
        return cls(der, key, _public_part(key))

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key. Takes a good part of a second of CPU; releases the GIL."""
        key = _rsa.generate_private_key(PUBLIC_EXPONENT, KEY_BITS)
        der = key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return cls(der, key, _public_part(key))

    @cached_property
    def writekey(self) -> bytes:
        """The 16-byte write key of the file that belongs to this key."""
        return keys.writekey_of(self.der)

    def sign(self, message: bytes) -> bytes:
        """A fresh signature (256 bytes; two signatures of one message differ)."""
        return self._key.sign(message, _PSS, hashes.SHA256())

    def sealed(self) -> bytes:
        """`encprivkey`: the DER encrypted under its own write key, as stored in every share."""
        return aes.crypt(self.writekey, self.der)


def unseal(encprivkey: bytes, writekey: bytes) -> SigningKey:
    """The private key of the file with that write key. FormatError when it is another one's, or damaged."""
    der = aes.crypt(writekey, encprivkey)
    if keys.writekey_of(der) != writekey:
        raise FormatError("the stored private key does not belong to this write cap")
    return SigningKey.from_der(der)


def _public_part(key: _rsa.RSAPrivateKey) -> VerifyKey:
    public = key.public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return VerifyKey(der, public)
