"""keys.json and mutable.json: RSA keys, and every share of every version, parsed, checked and made again."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from lafsfs.formats import aes, base32, caps, keys, mutable, mutable_share, rsa
from lafsfs.formats.mutable import Header
from tests import vectors_support as vectors
from tests.vectors_support import every_leaf_of, reads

KEYS = vectors.load("keys.json")
MUTABLE = vectors.load("mutable.json")
FILES = MUTABLE["vectors"]


def signing_key(name: str) -> rsa.SigningKey:
    return rsa.SigningKey.from_der(base64.b64decode(KEYS[name]["private_pkcs8_der_b64"]))


@reads("keys.json")
@pytest.mark.parametrize("name", KEYS)
def test_key(name: str) -> None:
    with every_leaf_of(KEYS[name]) as v:
        der = base64.b64decode(v["private_pkcs8_der_b64"])
        key = rsa.SigningKey.from_der(der)
        assert key.der == der
        assert key.public.der == base64.b64decode(v["public_spki_der_b64"])
        pem = serialization.load_pem_private_key(v["private_pem"].encode(), None)
        assert (
            pem.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            == der
        )
        assert rsa.unseal(key.sealed(), key.writekey).der == der
        assert rsa.VerifyKey.from_der(key.public.der).verifies(key.sign(b"x"), b"x")


@reads("mutable.json", "vectors", "lease_secret_b32")
@pytest.mark.parametrize("vector", FILES, ids=vectors.names(FILES))
def test_keys_and_caps_of_a_file(vector: Any) -> None:
    key = signing_key(vector["key"])
    with every_leaf_of({k: v for k, v in vector.items() if k != "versions"}) as v:
        assert v["id"]
        assert v["key"] in KEYS
        assert v["format"] in ("SDMF", "MDMF")
        cap = caps.MutableWriteCap(key.writekey, key.public.fingerprint, v["format"] == "MDMF")
        assert cap.to_string() == v["cap"]
        assert caps.parse(v["cap"]) == cap
        assert cap.read_cap().to_string() == v["read_cap"]
        assert cap.verify_cap().to_string() == v["verify_cap"]
        assert base32.encode(cap.writekey) == v["writekey_b32"]
        assert base32.encode(cap.readkey) == v["readkey_b32"]
        assert base32.encode(cap.fingerprint) == v["fingerprint_b32"]
        assert base32.encode(cap.storage_index) == v["storage_index"]
        assert 1 <= v["k"] <= v["n"]
        seed20 = base32.decode(v["server_tubid"])
        assert keys.write_enabler_master(cap.writekey).hex() == v["write_enabler_master_hex"]
        assert keys.write_enabler(cap.writekey, seed20).hex() == v["write_enabler_hex"]
        _check_lease_secrets(v["lease_secrets"], cap.storage_index, seed20)


def _check_lease_secrets(v: Any, storage_index: bytes, seed20: bytes) -> None:
    secret = base32.decode(MUTABLE["lease_secret_b32"])
    client_renew, client_cancel = bytes.fromhex(v["client_renew_hex"]), bytes.fromhex(v["client_cancel_hex"])
    assert keys.file_renewal_secret(client_renew, storage_index).hex() == v["file_renew_hex"]
    assert keys.file_cancel_secret(client_cancel, storage_index).hex() == v["file_cancel_hex"]
    secrets = keys.LeaseSecrets(secret)
    assert secrets.renew(storage_index, seed20).hex() == v["bucket_renew_hex"]
    assert secrets.cancel(storage_index, seed20).hex() == v["bucket_cancel_hex"]


def _versions() -> list[Any]:
    return [pytest.param(f, i, id=f"{f['id']}-v{i + 1}") for f in FILES for i in range(len(f["versions"]))]


def _plaintext(file: Any, index: int) -> bytes:
    """What a version holds: the recipe, or the version before with a piece written over it."""
    version = file["versions"][index]
    if "update" not in version:
        return vectors.recipe(version["seed"], version["size"])
    before = bytearray(_plaintext(file, index - 1))
    update = version["update"]
    piece = vectors.recipe(update["seed"], update["length"])
    before[update["offset"] : update["offset"] + len(piece)] = piece
    return bytes(before)


@reads("mutable.json", "vectors")
@pytest.mark.parametrize(("file", "index"), _versions())
def test_version(file: Any, index: int) -> None:
    """Every share of the version is checked in full, decrypts, and is made again byte for byte."""
    plaintext = _plaintext(file, index)
    key = signing_key(file["key"])
    with every_leaf_of(file["versions"][index]) as v:
        if "update" in v:
            v["update"].plain()
        assert v["seed"] or "update" in v
        assert len(plaintext) == v["size"]
        assert hashlib.sha256(plaintext).hexdigest() == v["plaintext_sha256"]
        shares = {
            int(number): vectors.share_file(s) for number, s in v["shares"].plain().items() if "file" in s
        }
        headers = {
            mutable_share.check_share(s, number, key.public.fingerprint) for number, s in shares.items()
        }
        (header,) = headers
        _check_header(header, v["header"], file["format"])
        assert (header.k, header.n) == (file["k"], file["n"])
        for combination in _combinations(sorted(shares), header.k):
            assert _decode(header, {n: shares[n] for n in combination}, key) == plaintext
        made = _containers(file, index)
        assert set(range(header.n)) == {int(number) for number in v["shares"]}
        for number, entry in v["shares"].plain().items():
            assert made[int(number)] == shares.get(int(number), made[int(number)])
            assert len(made[int(number)]) == entry["size"]
            assert hashlib.sha256(made[int(number)]).hexdigest() == entry["sha256"]


def _check_header(header: Header, v: Any, layout: str) -> None:
    assert v["version"] == header.VERSION == int(layout == "MDMF")
    numbers = (header.seqnum, header.k, header.n, header.segment_size, header.data_length)
    assert numbers == (v["seqnum"], v["k"], v["n"], v["segment_size"], v["data_length"])
    assert header.root_hash.hex() == v["root_hash_hex"]
    assert header.salt.hex() == (v["salt_hex"] if header.salt else "")
    at = header.sections
    offsets = {
        "signature": at.signature.start,
        "share_hash_chain": at.chain.start,
        "block_hash_tree": at.block_tree.start,
        "share_data": at.data.start,
        "enc_privkey": at.encprivkey.start,
        "EOF": header.eof,
    }
    if header.is_mdmf:
        offsets["verification_key"] = at.verification_key.start
        offsets["verification_key_end"] = at.verification_key.end
    assert v["offsets"].plain() == offsets


def _combinations(numbers: list[int], k: int) -> list[list[int]]:
    """The first k, the last k, and every k in a row."""
    return [numbers[at : at + k] for at in range(len(numbers) - k + 1)]


def _decode(header: Header, shares: dict[int, bytes], key: rsa.SigningKey) -> bytes:
    readkey = keys.readkey_of(key.writekey)
    parts = []
    for segment in range(header.num_segments):
        stored = [
            header.split_stored(share[slice(*header.stored_span(segment))]) for share in shares.values()
        ]
        assert len({salt for salt, _ in stored}) == 1
        blocks = [block for _, block in stored]
        parts.append(mutable.decode_segment(header, segment, blocks, list(shares), readkey, stored[0][0]))
    for share in shares.values():
        assert rsa.unseal(share[slice(*header.sections.encprivkey)], key.writekey).der == key.der
    return b"".join(parts)


def _encode(header: Header, model: bytes, plaintext: bytes, key: rsa.SigningKey) -> list[bytes]:
    """All n shares from plaintext, key and the salts found in one share; the signature is that share's."""
    new = mutable_share.plan(
        header.is_mdmf, header.seqnum, header.k, header.n, len(plaintext), key, header.salt
    )
    encoder = mutable_share.VersionEncoder(new, keys.readkey_of(key.writekey))
    blocks = []
    for segment in range(new.num_segments):
        salt, _ = header.split_stored(model[slice(*header.stored_span(segment))])
        start = segment * new.segment_size
        blocks.append(encoder.add(segment, plaintext[start : start + new.segment_length(segment)], salt))
    signed = encoder.sign(key)
    assert signed.header == header
    signature = model[slice(*header.sections.signature)]
    result = []
    for shnum in range(header.n):
        share = bytearray(header.eof)
        parts = signed.changing_parts(shnum) + signed.fixed_parts(
            key.public.der, aes.crypt(key.writekey, key.der)
        )
        parts += [(new.stored_span(segment).start, row[shnum]) for segment, row in enumerate(blocks)]
        for offset, data in parts:
            share[offset : offset + len(data)] = data
        share[slice(*header.sections.signature)] = signature
        result.append(bytes(share))
    return result


def _containers(file: Any, index: int) -> list[bytes]:
    """What the containers of all n shares hold after a version, stale ends of earlier ones included."""
    contents = [b""] * file["n"]
    for number, version in enumerate(file["versions"][: index + 1]):
        shares = [vectors.share_file(s) for s in version["shares"].values() if "file" in s]
        header = mutable_share.parse_header(shares[0])
        new = _encode(header, shares[0], _plaintext(file, number), signing_key(file["key"]))
        contents = [share + old[len(share) :] for share, old in zip(new, contents, strict=True)]
    return contents
