"""Mutable shares and keys: any size, any k of n, and everything that must be refused."""

from __future__ import annotations

import random
import struct
from functools import lru_cache

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.asymmetric import rsa as other_rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafsfs.errors import FormatError
from lafsfs.formats import keys, mutable, mutable_share, rsa
from lafsfs.formats.mdmf import MdmfHeader
from lafsfs.formats.mutable import Header

SALT = bytes(range(16))


@lru_cache
def some_key() -> rsa.SigningKey:
    return rsa.SigningKey.generate()


def build(
    mdmf: bool, k: int, n: int, data: bytes, key: rsa.SigningKey, seqnum: int = 1
) -> tuple[Header, list[bytes]]:
    """All shares of a version."""
    header = mutable_share.plan(mdmf, seqnum, k, n, len(data), key, SALT)
    encoder = mutable_share.VersionEncoder(header, keys.readkey_of(key.writekey))
    rows = [
        encoder.add(s, data[s * header.segment_size :][: header.segment_length(s)], SALT)
        for s in range(header.num_segments)
    ]
    signed = encoder.sign(key)
    shares = []
    for shnum in range(n):
        share = bytearray(header.eof)
        parts = signed.changing_parts(shnum) + signed.fixed_parts(key.public.der, key.sealed())
        parts += [(header.stored_span(s).start, row[shnum]) for s, row in enumerate(rows)]
        for offset, part in parts:
            share[offset : offset + len(part)] = part
        shares.append(bytes(share))
    return signed.header, shares


def read(header: Header, shares: dict[int, bytes], readkey: bytes) -> bytes:
    parts = []
    for segment in range(header.num_segments):
        stored = [
            header.split_stored(share[slice(*header.stored_span(segment))]) for share in shares.values()
        ]
        blocks, salt = [block for _, block in stored], stored[0][0]
        parts.append(mutable.decode_segment(header, segment, blocks, list(shares), readkey, salt))
    return b"".join(parts)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    mdmf=st.booleans(),
    encoding=st.integers(1, 12).flatmap(lambda k: st.tuples(st.just(k), st.integers(k, 20))),
    size=st.one_of(st.integers(0, 300), st.integers(131060, 131085), st.integers(262140, 262170)),
    randomness=st.randoms(use_true_random=False),
)
def test_any_version_reads_back_from_any_k_shares(
    mdmf: bool, encoding: tuple[int, int], size: int, randomness: random.Random
) -> None:
    k, n = encoding
    data, key = randomness.randbytes(size), some_key()
    header, shares = build(mdmf, k, n, data, key)
    for shnum, share in enumerate(shares):
        assert mutable_share.check_share(share + b"stale", shnum, key.public.fingerprint) == header
        assert mutable_share.parse_header(header.pack()) == header
        assert mutable_share.checkstring_at(share) == header.checkstring
    chosen = randomness.sample(range(n), k)
    assert read(header, {i: shares[i] for i in chosen}, keys.readkey_of(key.writekey)) == data


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    k=st.integers(1, 4),
    old=st.integers(0, 400_000),
    new=st.integers(0, 400_000),
    randomness=st.randoms(use_true_random=False),
)
def test_partial_update_equals_a_full_encoding(k: int, old: int, new: int, randomness: random.Random) -> None:
    """Re-encoding only the segments that differ gives the shares that encoding everything gives."""
    key, n = some_key(), k + 1
    before = randomness.randbytes(old)
    after = (before + randomness.randbytes(max(0, new - old)))[:new]
    header, shares = build(True, k, n, before, key)
    wanted_header, wanted = build(True, k, n, after, key, seqnum=2)
    assert isinstance(header, MdmfHeader)
    planned = header.resized(2, new)
    rows = [mutable.parse_block_tree(header, share[slice(*header.sections.block_tree)]) for share in shares]
    count = planned.num_segments
    encoder = mutable_share.VersionEncoder(
        planned, keys.readkey_of(key.writekey), [(row + [None] * count)[:count] for row in rows]
    )
    containers = [bytearray(share) for share in shares]
    for segment in range(count):
        same = segment < header.num_segments and header.segment_length(segment) == planned.segment_length(
            segment
        )
        if not same:
            piece = after[segment * planned.segment_size :][: planned.segment_length(segment)]
            for container, stored in zip(containers, encoder.add(segment, piece, SALT), strict=True):
                _write(container, planned.stored_span(segment).start, stored)
    signed = encoder.sign(key)
    for shnum, container in enumerate(containers):
        for offset, part in signed.changing_parts(shnum):
            _write(container, offset, part)
        signature = slice(*signed.header.sections.signature)
        container[signature] = wanted[shnum][signature]
        assert bytes(container[: signed.header.eof]) == wanted[shnum]
    assert signed.header == wanted_header


def _write(container: bytearray, offset: int, data: bytes) -> None:
    if len(container) < offset:
        container.extend(bytes(offset - len(container)))
    container[offset : offset + len(data)] = data


@pytest.mark.parametrize("mdmf", [False, True])
def test_every_flipped_byte_is_noticed(mdmf: bool) -> None:
    key = some_key()
    header, shares = build(mdmf, 2, 3, b"some contents", key)
    gap = range(header.sections.verification_key.end, header.sections.data.start) if mdmf else range(0)
    unchecked = set(gap) | set(range(*header.sections.encprivkey))
    for at in range(header.eof):
        if at in unchecked or (at % 7 and at > 200):
            continue
        damaged = bytearray(shares[1])
        damaged[at] ^= 0x10
        try:
            found = mutable_share.check_share(damaged, 1, key.public.fingerprint)
        except FormatError:
            continue
        # Offsets are not signed, but a share with other offsets belongs to no version together with good
        # ones.
        assert found != header


@pytest.mark.parametrize("mdmf", [False, True])
def test_shares_that_are_refused(mdmf: bool) -> None:
    key = some_key()
    header, shares = build(mdmf, 2, 3, bytes(1000), key)
    share, fingerprint = shares[0], key.public.fingerprint
    for bad in (b"", b"\x02" + share[1:], share[: header.SIZE - 1], share[: header.eof - 1]):
        with pytest.raises(FormatError):
            mutable_share.check_share(bad, 0, fingerprint)
    for shnum in (1, 2, 3, 255):
        with pytest.raises(FormatError):
            mutable_share.check_share(share, shnum, fingerprint)
    with pytest.raises(FormatError):
        mutable_share.check_share(share, 0, bytes(32))


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (0, 5)])
@pytest.mark.parametrize("mdmf", [False, True])
def test_impossible_encodings_are_refused(mdmf: bool, k: int, n: int) -> None:
    key = some_key()
    header, _ = build(mdmf, 2, 3, bytes(100), key)
    packed = bytearray(header.pack())
    packed[41 if mdmf else 57 : 43 if mdmf else 59] = bytes([k, n])
    with pytest.raises(FormatError):
        mutable_share.parse_header(packed)
    with pytest.raises(FormatError):
        mutable_share.plan(mdmf, 1, k, n, 100, key, SALT)


@pytest.mark.parametrize("mdmf", [False, True])
def test_lengths_and_offsets_that_do_not_fit_are_refused(mdmf: bool) -> None:
    key = some_key()
    header, _ = build(mdmf, 2, 3, bytes(1000), key)
    places = [(43, ">Q"), (51, ">Q")] if mdmf else [(59, ">Q"), (67, ">Q")]
    offsets = range(59, 123, 8) if mdmf else [75, 79, 83, 87]
    places += [(at, ">Q" if mdmf else ">L") for at in offsets]
    for at, form in places:
        for value in (0, 1, 2**31, 2 ** (8 * struct.calcsize(form)) - 1):
            packed = bytearray(header.pack())
            struct.pack_into(form, packed, at, value)
            if bytes(packed) == header.pack():
                continue
            with pytest.raises(FormatError):
                mutable_share.check_share(bytes(packed) + bytes(4000), 0, key.public.fingerprint)


def test_keys_that_are_refused() -> None:
    small = other_rsa.generate_private_key(65537, 1024)
    wrong = [small, ed25519.Ed25519PrivateKey.generate()]
    for bad in wrong:
        private = bad.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = bad.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        with pytest.raises(FormatError):
            rsa.SigningKey.from_der(private)
        with pytest.raises(FormatError):
            rsa.VerifyKey.from_der(public)
    with pytest.raises(FormatError):
        rsa.VerifyKey.from_der(b"nonsense")
    with pytest.raises(FormatError):
        rsa.unseal(some_key().sealed(), bytes(16))
    assert not some_key().public.verifies(bytes(256), b"x")
    assert repr(some_key()) == "SigningKey()"


def test_chain_elements_that_contradict_are_refused() -> None:
    element = struct.pack(">H32s", 1, bytes(32))
    assert mutable.parse_chain(element) == {1: bytes(32)}
    for bad in (element[:-1], element + struct.pack(">H32s", 1, bytes([1] * 32))):
        with pytest.raises(FormatError):
            mutable.parse_chain(bad)
