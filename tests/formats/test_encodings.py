"""base32, netstrings, AES-CTR: round trips and what must be refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.errors import FormatError
from lafsfs.formats import aes, base32, netstring


@given(st.binary(max_size=100))
def test_base32_round_trip(data: bytes) -> None:
    text = base32.encode(data)
    assert len(text) == -(-len(data) * 8 // 5)
    assert base32.decode(text) == data


@given(st.text(alphabet=base32.ALPHABET.decode() + "A1=\n é", max_size=12))
def test_base32_accepts_only_what_encode_makes(text: str) -> None:
    try:
        data = base32.decode(text)
    except FormatError:
        return
    assert base32.encode(data) == text


@pytest.mark.parametrize("bad", ["a", "aaa", "aaaaaa", "ab", "AA", "aa======", "m1", "a\n", "aé", "aaaab1a"])
def test_base32_refuses(bad: str) -> None:
    with pytest.raises(FormatError):
        base32.decode(bad)


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_netstrings_in_a_row(parts: list[bytes]) -> None:
    packed = b"".join(map(netstring.netstring, parts))
    found, position = [], 0
    while position < len(packed):
        part, position = netstring.read(packed, position)
        found.append(part)
    assert found == parts


@pytest.mark.parametrize(
    "bad", [b"", b":,", b"1:a", b"1:ab", b"2:a,", b"01:a,", b"-1:,", b"+1:a,", b" 1:a,", b"1a:a,"]
)
def test_netstring_refuses(bad: bytes) -> None:
    with pytest.raises(FormatError):
        netstring.read(bad, 0)


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=200), st.integers(0, 200))
def test_aes_at_any_offset(key: bytes, data: bytes, cut: int) -> None:
    whole = aes.crypt(key, data)
    assert aes.crypt(key, whole) == data
    assert aes.crypt(key, data[cut:], cut) == whole[cut:]
    buffer = bytearray(data)
    stream = aes.Stream(key)
    stream.crypt_into(buffer[:cut], memoryview(buffer)[:cut])
    stream.crypt_into(memoryview(buffer)[cut:], memoryview(buffer)[cut:])
    assert bytes(buffer) == whole
    aes.crypt_into(key, memoryview(buffer)[cut:], memoryview(buffer)[cut:], cut)
    assert bytes(buffer[cut:]) == data[cut:]


def test_aes_counter_carries_over_many_blocks() -> None:
    """The counter is one 128-bit number: far offsets agree with NIST's idea of incrementing it."""
    key, offset = bytes(range(16)), (1 << 36) - 16
    across = aes.crypt(key, bytes(48), offset)
    assert across[16:] == aes.crypt(key, bytes(32), 1 << 36)
    assert across[:16] == aes.crypt(key, bytes(16), offset)
