"""primitives.json: encodings, hashes, keys, Merkle trees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from lafsfs.errors import CorruptShareError
from lafsfs.formats import aes, base32, chk, hashing, keys, merkle, netstring
from lafsfs.gbs import headers
from tests import vectors_support as vectors
from tests.vectors_support import every_leaf_of, reads

PRIMITIVES = vectors.load("primitives.json")


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


@reads("primitives.json", "base32")
def test_base32() -> None:
    for vector in PRIMITIVES["base32"]:
        with every_leaf_of(vector) as v:
            assert base32.encode(_hex(v["hex"])) == v["b32"]
            assert base32.decode(v["b32"]) == _hex(v["hex"])


@reads("primitives.json", "netstring")
def test_netstring() -> None:
    for vector in PRIMITIVES["netstring"]:
        with every_leaf_of(vector) as v:
            packed = _hex(v["netstring_hex"])
            assert netstring.netstring(_hex(v["hex"])) == packed
            assert netstring.read(b"x" + packed + b"y", 1) == (_hex(v["hex"]), 1 + len(packed))


@reads("primitives.json", "tagged_hash", "tagged_pair_hash")
def test_tagged_hashes() -> None:
    for vector in PRIMITIVES["tagged_hash"]:
        with every_leaf_of(vector) as v:
            size = 32 if v["truncate"] is None else v["truncate"]
            tag, value = _hex(v["tag_hex"]), _hex(v["value_hex"])
            assert hashing.tagged(tag, value, size) == _hex(v["hash_hex"])
            hasher = hashing.TaggedHasher(tag, size)
            hasher.update(value[:1])
            hasher.update(value[1:])
            assert hasher.digest() == _hex(v["hash_hex"])
    for vector in PRIMITIVES["tagged_pair_hash"]:
        with every_leaf_of(vector) as v:
            size = 32 if v["truncate"] is None else v["truncate"]
            result = hashing.tagged2(_hex(v["tag_hex"]), _hex(v["a_hex"]), _hex(v["b_hex"]), size)
            assert result == _hex(v["hash_hex"])


def _crypttext_hash(data: bytes) -> bytes:
    hasher = hashing.crypttext_hasher()
    hasher.update(data)
    return hasher.digest()


# lafsfs itself does not need three of them: the plaintext hashes and the hash of Tahoe's backup database.
FUNCTIONS: dict[str, Callable[..., bytes]] = {
    "backupdb_dirhash": lambda a: hashing.tagged(b"allmydata_backupdb_dirhash_v1", a),
    "block_hash": hashing.block_hash,
    "bucket_cancel_secret_hash": keys.bucket_cancel_secret,
    "bucket_renewal_secret_hash": keys.bucket_renewal_secret,
    "crypttext_hash": _crypttext_hash,
    "crypttext_segment_hash": hashing.crypttext_segment_hash,
    "file_cancel_secret_hash": keys.file_cancel_secret,
    "file_renewal_secret_hash": keys.file_renewal_secret,
    "hmac": keys.dirnode_mac,
    "mutable_rwcap_key_hash": keys.child_key_of,
    "mutable_rwcap_salt_hash": keys.child_salt_of,
    "my_cancel_secret_hash": keys.client_cancel_secret,
    "my_renewal_secret_hash": keys.client_renewal_secret,
    "permute_server_hash": hashing.permuted_position,
    "plaintext_hash": lambda a: hashing.tagged(b"allmydata_plaintext_v1", a),
    "plaintext_segment_hash": lambda a: hashing.tagged(b"allmydata_plaintext_segment_v1", a),
    "ssk_pubkey_fingerprint_hash": keys.fingerprint_of,
    "ssk_readkey_data_hash": keys.data_key_of,
    "ssk_readkey_hash": keys.readkey_of,
    "ssk_storage_index_hash": keys.mutable_storage_index_of,
    "ssk_write_enabler_hash": keys.write_enabler,
    "ssk_write_enabler_master_hash": keys.write_enabler_master,
    "ssk_writekey_hash": keys.writekey_of,
    "storage_index_hash": keys.storage_index_of_key,
    "uri_extension_hash": hashing.ueb_hash,
}


@reads("primitives.json", "functions")
@pytest.mark.parametrize("name", PRIMITIVES["functions"])
def test_named_function(name: str) -> None:
    with every_leaf_of(PRIMITIVES["functions"][name]) as v:
        arguments = [_hex(a) for a in v["args_hex"]]
        assert FUNCTIONS[name](*arguments) == _hex(v["hash_hex"])


@reads("primitives.json", "convergence")
def test_convergence_keys() -> None:
    for vector in PRIMITIVES["convergence"]:
        with every_leaf_of(vector) as v:
            hasher = keys.convergence_hasher(_hex(v["secret_hex"]), v["k"], v["n"], v["segment_size"])
            hasher.update(_hex(v["data_hex"]))
            assert hasher.digest() == _hex(v["key_hex"])


@reads("primitives.json", "empty_leaf")
def test_empty_leaves() -> None:
    for vector in PRIMITIVES["empty_leaf"]:
        with every_leaf_of(vector) as v:
            assert hashing.empty_leaf_hash(v["i"]) == _hex(v["hash_hex"])


def _leaves(vector: Any) -> list[bytes]:
    assert vector["leaves_recipe"] == "sha256(set + 'leaf' + i)"
    name = vectors.load("meta.json")["set"]
    return [hashlib.sha256(f"{name}leaf{i}".encode()).digest() for i in range(vector["n"])]


@reads("primitives.json", "hashtree")
@pytest.mark.parametrize("vector", PRIMITIVES["hashtree"], ids=lambda v: str(v["n"]))
def test_hash_trees(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        leaves = _leaves(v)
        tree = merkle.nodes(leaves)
        assert len(tree) == v["tree_len"]
        assert tree[0] == merkle.root(leaves) == _hex(v["root_hex"])
        assert hashlib.sha256(b"".join(tree)).hexdigest() == v["sha256_of_concat"]
        needed_hashes = v["needed_hashes"].plain() if "needed_hashes" in v else {}
        stored_order = v["stored_order_with_leaf"].plain() if "stored_order_with_leaf" in v else {}
        for leaf, expected in needed_hashes.items():
            needed = merkle.needed(int(leaf), len(leaves))
            assert sorted(needed) == sorted(expected)
            _check_one_leaf(leaves, tree, int(leaf), needed)
        for leaf, expected in stored_order.items():
            assert chk.chain_numbers(int(leaf), len(leaves)) == sorted(expected)


def _check_one_leaf(leaves: list[bytes], tree: list[bytes], leaf: int, needed: list[int]) -> None:
    """A leaf passes with exactly the needed nodes, and not with one of them damaged or missing."""
    incomplete = merkle.IncompleteTree(len(leaves))
    incomplete.set_root(tree[0])
    given = {i: tree[i] for i in needed}
    for i in needed:
        for bad in ({**given, i: bytes(32)}, {j: h for j, h in given.items() if j != i}):
            with pytest.raises(CorruptShareError):
                incomplete.add(bad, {leaf: leaves[leaf]})
            assert not incomplete.leaf_is_known(leaf)
    incomplete.add(given, {leaf: leaves[leaf]})
    assert incomplete.leaf_is_known(leaf)


@reads("primitives.json", "rwcap")
def test_sealed_write_caps() -> None:
    for vector in PRIMITIVES["rwcap"]:
        with every_leaf_of(vector) as v:
            rw_uri, sealed = v["rw_uri"].encode(), _hex(v["encrypted_hex"])
            salt = keys.child_salt_of(rw_uri)
            key = keys.child_key_of(salt, _hex(v["writekey_hex"]))
            body = salt + aes.crypt(key, rw_uri)
            assert body + keys.dirnode_mac(key, body) == sealed


@reads("primitives.json", "authorization")
def test_authorization_header() -> None:
    for vector in PRIMITIVES["authorization"]:
        with every_leaf_of(vector) as v:
            assert headers.authorization(v["swissnum"]) == v["header"]
