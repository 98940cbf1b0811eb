"""chk.json: every share encoded from its inputs, uploaded, and read back from the shares that are there as files."""

from __future__ import annotations

import base64
import hashlib
import random
from typing import Any

import pytest

from lafsfs.config import ClientSecrets, Encoding, GridProfile
from lafsfs.formats import base32, caps, chk, hashing, keys, merkle
from lafsfs.grid.servers import Grid
from lafsfs.transfer.download import ChkReader
from lafsfs.transfer.encoder import ChkEncoder
from lafsfs.transfer.encoding import BytesContents
from lafsfs.transfer.upload import upload
from tests import vectors_support as vectors
from tests.support.grids import entry_of
from tests.support.storage import StorageServer
from tests.vectors_support import every_leaf_of, reads

CHK = vectors.load("chk.json")
VECTORS = CHK["vectors"]
WITH_FILES = [v for v in VECTORS if any("file" in share for share in v["shares"].values())]


def _params(v: Any) -> chk.Params:
    return chk.params_for(v["size"], v["k"], v["n"], v["max_segment_size"])


def _encoded(
    key: bytes, params: chk.Params, version: int, plaintext: bytes
) -> tuple[list[bytes], bytes, bytes]:
    """Whole shares, UEB hash and UEB, as an upload makes them."""
    encoder = ChkEncoder(key, params, version)
    shares = [[encoder.header()] for _ in range(params.n)]
    for segnum in range(params.num_segments):
        batch = memoryview(bytearray(plaintext[segnum * params.segsize : (segnum + 1) * params.segsize]))
        encoder.encrypt(batch)
        encoder.hash_ciphertext(batch)
        for share, block in zip(shares, encoder.encode_segment(segnum, batch), strict=True):
            share.append(bytes(block))
    tails, ueb_hash, ueb = encoder.finish()
    whole = [b"".join([*share, tail]) for share, tail in zip(shares, tails, strict=True)]
    assert {len(share) for share in whole} == {encoder.total_size()}
    return whole, ueb_hash, ueb


def _as_tahoe_writes_it(share: bytes, shnum: int, n: int) -> bytes:
    """The share with its chain in the order in which CPython iterates over a set of its node numbers."""
    layout = chk.ShareLayout.parse(share)
    chain = chk.parse_chain(share[layout.chain : layout.ueb])
    order: set[int] = set()
    for number in (*merkle.needed(shnum, n), merkle.pow2(n) - 1 + shnum):
        order.add(number)  # one by one: the order of insertion matters
    assert order == set(chain)
    packed = b"".join(number.to_bytes(2, "big") + chain[number] for number in order)
    return share[: layout.chain] + packed + share[layout.ueb :]


@reads("chk.json")
@pytest.mark.parametrize("vector", VECTORS, ids=vectors.names(VECTORS))
def test_encoding(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        plaintext = vectors.recipe(v["seed"], v["size"])
        assert v["id"]
        assert hashlib.sha256(plaintext).hexdigest() == v["plaintext_sha256"]
        params, key = _params(v), base32.decode(v["key_b32"])
        assert v["convergence_b32"] == CHK["convergence_b32"]
        hasher = keys.convergence_hasher(
            base32.decode(v["convergence_b32"]), params.k, params.n, params.segsize
        )
        hasher.update(plaintext)
        assert hasher.digest() == key
        shares, ueb_hash, ueb = _encoded(key, params, v["share_layout"], plaintext)
        cap = caps.ChkCap(key, ueb_hash, params.k, params.n, params.size)
        assert cap.to_string() == v["cap"]
        assert cap.verify_cap().to_string() == v["verify_cap"]
        assert base32.encode(cap.storage_index) == v["storage_index"]
        assert base32.encode(ueb_hash) == v["ueb_hash_b32"]
        assert ueb == base64.b64decode(v["ueb_b64"])
        assert chk.Ueb.parse(ueb, params.k, params.n, params.size).pack() == ueb
        for number in v["shares"]:
            _compare(v["shares"][number], shares[int(number)], int(number), params.n)


def _compare(entry: Any, share: bytes, shnum: int, n: int) -> None:
    """The share is the one of the vector, byte for byte, but for the order of the chain."""
    assert len(share) == entry["size"]
    if "file" in entry:
        given = vectors.share_file(entry)
        assert hashlib.sha256(given).hexdigest() == entry["sha256"]
        layout = chk.ShareLayout.parse(given)
        assert chk.ShareLayout.parse(share) == layout
        assert share[: layout.chain] == given[: layout.chain]
        chain = given[layout.chain : layout.ueb]
        assert chk.parse_chain(share[layout.chain : layout.ueb]) == chk.parse_chain(chain)
        assert share[layout.ueb :] == given[layout.ueb :]
    assert hashlib.sha256(_as_tahoe_writes_it(share, shnum, n)).hexdigest() == entry["sha256"]


def _grid(server: StorageServer, v: Any) -> Grid:
    encoding = Encoding(v["k"], 1, v["n"], v["max_segment_size"])
    secrets = ClientSecrets(convergence=base32.decode(v["convergence_b32"]), lease=bytes(32))
    return Grid(GridProfile(servers=(entry_of(server),), encoding=encoding), secrets)


@reads()
@pytest.mark.parametrize("vector", VECTORS, ids=vectors.names(VECTORS))
async def test_upload_gives_the_same_cap(vector: Any, ten: list[StorageServer]) -> None:
    plaintext = vectors.recipe(vector["seed"], vector["size"])
    async with _grid(ten[0], vector) as grid:
        if vector["share_layout"] == 1:
            cap = await upload(grid, BytesContents(plaintext))
            assert cap.to_string() == vector["cap"]
            assert await ChkReader(grid, None, cap).read(0, vector["size"]) == plaintext


@reads()
@pytest.mark.parametrize("vector", WITH_FILES, ids=vectors.names(WITH_FILES))
async def test_reading_from_any_k_shares(vector: Any, ten: list[StorageServer]) -> None:
    plaintext = vectors.recipe(vector["seed"], vector["size"])
    cap = caps.parse(vector["cap"])
    assert isinstance(cap, caps.ChkCap)
    files = {int(number): entry for number, entry in vector["shares"].items() if "file" in entry}
    chosen = random.Random(vector["id"]).sample(sorted(files), vector["k"])
    # A server of the shared ten that the uploads above did not fill with the same shares.
    async with _grid(ten[1], vector) as grid:
        (server,) = grid.servers
        for number in chosen:
            data = vectors.share_file(files[number])
            await server.allocate(cap.storage_index, [number], len(data), b"secret")
            await server.write_share(cap.storage_index, number, b"secret", 0, data, len(data))
        assert await ChkReader(grid, None, cap).read(0, cap.size + 1) == plaintext
        middle = cap.size // 2
        assert await ChkReader(grid, None, cap).read(middle, 5) == plaintext[middle : middle + 5]


def test_ueb_hash_of_every_vector_is_checked() -> None:
    for vector in VECTORS:
        ueb = base64.b64decode(vector["ueb_b64"])
        assert hashing.ueb_hash(ueb) == base32.decode(vector["ueb_hash_b32"])
