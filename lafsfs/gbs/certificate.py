"""The one part of a TLS certificate that matters here: its key, by which servers are pinned (formats.md 9.2).

The rest is passed over: the X.509 classes of `cryptography` take longer to load than a handshake takes.
"""

from __future__ import annotations

from typing import Final

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_BEFORE_THE_KEY: Final = 5  # serial number, signature algorithm, issuer, validity, subject
_LONG_FORM: Final = 0x80


def public_key_info(certificate: bytes) -> bytes:
    """The SubjectPublicKeyInfo in a DER certificate, byte for byte. ValueError if there is none."""
    start, end = _inside(certificate, 0, len(certificate))
    start, end = _inside(certificate, start, end)
    if certificate[start : start + 1] == bytes([_VERSION]):
        _, start = _content(certificate, start, end)
    for _ in range(_BEFORE_THE_KEY):
        _, start = _content(certificate, start, end)
    _, after = _inside(certificate, start, end)
    return certificate[start:after]


def _inside(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content of the sequence at `start` begins and ends."""
    if data[start : start + 1] != bytes([_SEQUENCE]):
        raise ValueError("not a certificate in DER")
    return _content(data, start, end)


def _content(data: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content of the element at `start` begins and ends, not beyond `end`."""
    begin = start + 2
    if begin > end:
        raise ValueError("a certificate that is cut off")
    length = data[start + 1]
    if length >= _LONG_FORM:
        size = length - _LONG_FORM
        length = int.from_bytes(data[begin : begin + size], "big")
        begin += size
    if begin + length > end:
        raise ValueError("a certificate that is cut off")
    return begin, begin + length
