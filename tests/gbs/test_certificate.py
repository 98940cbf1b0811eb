"""The key in a certificate, found without the classes of `cryptography` and compared with what they find."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.gbs.certificate import public_key_info

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def certificate_of(key: Key, subject: str = "anybody") -> bytes:
    """A self-signed certificate in DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=9))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("x" * 60)] * 9), critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


MAKERS: dict[str, Callable[[], Key]] = {
    "P-256": partial(ec.generate_private_key, ec.SECP256R1()),
    "P-521": partial(ec.generate_private_key, ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": partial(rsa.generate_private_key, 65537, 2048),
}


@pytest.fixture(scope="module")
def certificate() -> bytes:
    return certificate_of(MAKERS["P-256"]())


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("subject", ["a", "b" * 64])
def test_the_key_is_found_byte_for_byte(kind: str, subject: str) -> None:
    key = MAKERS[kind]()
    info = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public_key_info(certificate_of(key, subject)) == info


def test_a_certificate_that_is_cut_off(certificate: bytes) -> None:
    for size in range(len(certificate)):
        with pytest.raises(ValueError, match="certificate"):
            public_key_info(certificate[:size])


@given(st.integers(0), st.integers(1, 255))
def test_a_damaged_certificate_gives_a_part_of_it_or_an_error(
    certificate: bytes, position: int, mask: int
) -> None:
    damaged = bytearray(certificate)
    damaged[position % len(damaged)] ^= mask
    try:
        found = public_key_info(bytes(damaged))
    except ValueError:
        return
    assert found in bytes(damaged)


@given(st.binary(max_size=80))
def test_anything_is_an_error_or_a_part_of_it(data: bytes) -> None:
    try:
        assert public_key_info(data) in data
    except ValueError:
        return
