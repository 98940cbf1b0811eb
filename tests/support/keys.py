"""RSA keys for tests, each a key of its own, and most of them made in a millisecond instead of sixty.

Looking for primes is what takes long, so those of earlier keys are paired anew: full keys of 2,048 bits, no two of
them alike, that only somebody who has several of them can tell from others. Keys come from the system's generator
wherever a test does not ask for these (tests/transfer/test_keypool.py, all mount processes).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa as _rsa

from lafsfs.formats.rsa import PUBLIC_EXPONENT, SigningKey
from lafsfs.transfer.keypool import KeyPool


class PairedKeys(KeyPool):
    """Like a pool that holds keys enough."""

    def __init__(self) -> None:
        super().__init__(None, None, 0)

    async def take(self) -> SigningKey:
        return await trio.to_thread.run_sync(new_key)


def new_key() -> SigningKey:
    """A key that nobody in this process got before."""
    with _lock:
        return next(_keys)


def _generated() -> Iterator[SigningKey]:
    primes: list[int] = []
    while True:
        key = SigningKey.generate()
        yield key
        fresh = _primes_of(key)
        for p, q in itertools.product(fresh, primes):
            yield _key_of(p, q)
        primes += fresh


def _primes_of(key: SigningKey) -> tuple[int, int]:
    private = serialization.load_der_private_key(key.der, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(private, _rsa.RSAPrivateKey)
    numbers = private.private_numbers()
    return numbers.p, numbers.q


def _key_of(p: int, q: int) -> SigningKey:
    d = _rsa.rsa_recover_private_exponent(PUBLIC_EXPONENT, p, q)
    crt = (_rsa.rsa_crt_dmp1(d, p), _rsa.rsa_crt_dmq1(d, q), _rsa.rsa_crt_iqmp(p, q))
    numbers = _rsa.RSAPrivateNumbers(p, q, d, *crt, _rsa.RSAPublicNumbers(PUBLIC_EXPONENT, p * q))
    der = numbers.private_key(unsafe_skip_rsa_key_validation=True).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return SigningKey.from_der(der)


_lock = threading.Lock()
_keys = _generated()
