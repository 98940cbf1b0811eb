"""What is sealed opens with the same key and for the same context only, and damage anywhere is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.errors import JournalError
from lafsfs.formats.caps import DirCap, MutableReadCap, MutableWriteCap
from lafsfs.tree.sealing import OVERHEAD, Sealer, state_key, subkey

KEY = bytes(range(32))


def refuses(sealer: Sealer, sealed: bytes, context: bytes) -> bool:
    try:
        sealer.open(sealed, context)
    except JournalError:
        return True
    return False


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300), st.binary(max_size=20))
def test_what_goes_in_comes_out(plain: bytes, context: bytes) -> None:
    sealed = Sealer(KEY).seal(plain, context)
    assert len(sealed) == len(plain) + OVERHEAD
    assert Sealer(KEY).open(sealed, context) == plain
    assert Sealer(KEY).open(memoryview(sealed), context) == plain
    assert refuses(Sealer(KEY), sealed, context + b"x")


def test_the_same_plaintext_is_never_sealed_the_same() -> None:
    sealer = Sealer(KEY)
    assert len({sealer.seal(b"x", b"") for _ in range(1000)}) == 1000


def test_another_key() -> None:
    sealed = Sealer(KEY).seal(b"secret", b"row")
    for bit in range(256):
        other = bytearray(KEY)
        other[bit // 8] ^= 1 << bit % 8
        assert refuses(Sealer(bytes(other)), sealed, b"row")


def test_every_changed_bit() -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(b"some plaintext", b"row")
    for bit in range(8 * len(sealed)):
        other = bytearray(sealed)
        other[bit // 8] ^= 1 << bit % 8
        assert refuses(sealer, bytes(other), b"row")


@pytest.mark.parametrize("plain", [b"", b"x", b"x" * 100])
def test_every_length(plain: bytes) -> None:
    """A torn record is damage like any other, however short it is."""
    sealer = Sealer(KEY)
    sealed = sealer.seal(plain, b"row")
    for length in range(len(sealed)):
        assert refuses(sealer, sealed[:length], b"row")
    assert refuses(sealer, sealed + b"\0", b"row")


def test_parts_of_two_records() -> None:
    sealer = Sealer(KEY)
    one, two = sealer.seal(b"one", b"row"), sealer.seal(b"two", b"row")
    mixed = {one[:cut] + two[cut:] for cut in range(1, len(one))} - {one, two}  # their ends may be alike
    assert all(refuses(sealer, record, b"row") for record in mixed)


def test_purposes_and_roots_have_keys_of_their_own() -> None:
    writer = DirCap(MutableWriteCap(bytes(16), bytes(32), mdmf=False))
    reader = writer.read_cap()
    other = DirCap(MutableReadCap(bytes(16), bytes(32), mdmf=False))
    keys = {state_key(root) for root in (writer, reader, other)}
    keys |= {subkey(state_key(writer), purpose) for purpose in (b"journal", b"staging", b"")}
    assert len(keys) == 6
    assert all(len(key) == 32 for key in keys)
