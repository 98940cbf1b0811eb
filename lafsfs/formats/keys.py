"""Key derivations: from keys to storage indexes, write enablers and lease secrets (formats.md section 2)."""

from __future__ import annotations

import hashlib

from lafsfs.formats.hashing import TaggedHasher, tagged, tagged2
from lafsfs.formats.netstring import netstring

KEY_SIZE = 16

_CONVERGENCE_TAG = b"allmydata_immutable_content_to_key_with_added_secret_v1+"


def convergence_hasher(secret: bytes, k: int, n: int, segsize: int) -> TaggedHasher:
    """Hasher that turns the plaintext of a file into its convergent key of 16 bytes.

    `segsize` is the actual segment size of this file (`chk.Params.segsize`), not the maximum.
    """
    encoding = b"%d,%d,%d" % (k, n, segsize)
    return TaggedHasher(_CONVERGENCE_TAG + netstring(secret) + netstring(encoding), KEY_SIZE)


def storage_index_of_key(key: bytes) -> bytes:
    """Storage index of an immutable file, from its key."""
    return tagged(b"allmydata_immutable_key_to_storage_index_v1", key, KEY_SIZE)


def writekey_of(privkey_der: bytes) -> bytes:
    """Write key of a mutable file, from the exact PKCS#8 bytes of its private key."""
    return tagged(b"allmydata_mutable_privkey_to_writekey_v1", privkey_der, KEY_SIZE)


def fingerprint_of(pubkey_der: bytes) -> bytes:
    """Fingerprint (32 bytes) of a mutable file, from its SubjectPublicKeyInfo."""
    return tagged(b"allmydata_mutable_pubkey_to_fingerprint_v1", pubkey_der)


def readkey_of(writekey: bytes) -> bytes:
    """Read key of a mutable file."""
    return tagged(b"allmydata_mutable_writekey_to_readkey_v1", writekey, KEY_SIZE)


def mutable_storage_index_of(readkey: bytes) -> bytes:
    """Storage index of a mutable file."""
    return tagged(b"allmydata_mutable_readkey_to_storage_index_v1", readkey, KEY_SIZE)


def data_key_of(salt: bytes, readkey: bytes) -> bytes:
    """Key of the contents of one version (SDMF) or segment (MDMF)."""
    return tagged2(b"allmydata_mutable_readkey_to_datakey_v1", salt, readkey, KEY_SIZE)


def write_enabler_master(writekey: bytes) -> bytes:
    """What the write enablers of all servers are derived from (32 bytes)."""
    return tagged(b"allmydata_mutable_writekey_to_write_enabler_master_v1", writekey)


def write_enabler(writekey: bytes, seed20: bytes) -> bytes:
    """The secret (32 bytes) that lets the holder of `writekey` write on the server with that TubID."""
    tag = b"allmydata_mutable_write_enabler_master_and_nodeid_to_write_enabler_v1"
    return tagged2(tag, write_enabler_master(writekey), seed20)


class LeaseSecrets:
    """Lease secrets of one client: client secret -> file secret -> bucket secret, each 32 bytes."""

    __slots__ = ("_cancel", "_renew")

    def __init__(self, lease_secret: bytes) -> None:
        self._renew = client_renewal_secret(lease_secret)
        self._cancel = client_cancel_secret(lease_secret)

    def renew(self, storage_index: bytes, seed20: bytes) -> bytes:
        """The renewal secret for a storage index on the server with that TubID."""
        return bucket_renewal_secret(file_renewal_secret(self._renew, storage_index), seed20)

    def cancel(self, storage_index: bytes, seed20: bytes) -> bytes:
        """The cancel secret for a storage index on the server with that TubID."""
        return bucket_cancel_secret(file_cancel_secret(self._cancel, storage_index), seed20)


def client_renewal_secret(lease_secret: bytes) -> bytes:
    """First link of the renewal chain. The secret is the tag and the constant the value, not the reverse."""
    return tagged(lease_secret, b"allmydata_client_renewal_secret_v1")


def client_cancel_secret(lease_secret: bytes) -> bytes:
    """First link of the cancel chain, built like `client_renewal_secret`."""
    return tagged(lease_secret, b"allmydata_client_cancel_secret_v1")


def file_renewal_secret(client_secret: bytes, storage_index: bytes) -> bytes:
    """Second link of the renewal chain."""
    return tagged2(b"allmydata_file_renewal_secret_v1", client_secret, storage_index)


def file_cancel_secret(client_secret: bytes, storage_index: bytes) -> bytes:
    """Second link of the cancel chain."""
    return tagged2(b"allmydata_file_cancel_secret_v1", client_secret, storage_index)


def bucket_renewal_secret(file_secret: bytes, seed20: bytes) -> bytes:
    """Last link of the renewal chain."""
    return tagged2(b"allmydata_bucket_renewal_secret_v1", file_secret, seed20)


def bucket_cancel_secret(file_secret: bytes, seed20: bytes) -> bytes:
    """Last link of the cancel chain."""
    return tagged2(b"allmydata_bucket_cancel_secret_v1", file_secret, seed20)


def stored_lease_secret(secret: bytes) -> bytes:
    """What a v2 container keeps in place of a lease secret: its BLAKE2b-256."""
    return hashlib.blake2b(secret, digest_size=32).digest()


def child_salt_of(rw_uri: bytes) -> bytes:
    """Salt (16 bytes) under which a directory seals the write cap of a child."""
    return tagged(b"allmydata_dirnode_child_rwcap_to_salt_v1", rw_uri, KEY_SIZE)


def child_key_of(salt: bytes, writekey: bytes) -> bytes:
    """Key (16 bytes) that seals the write cap of a child; `writekey` is the directory's."""
    return tagged2(
        b"allmydata_mutable_writekey_and_salt_to_dirnode_child_capkey_v1", salt, writekey, KEY_SIZE
    )


def dirnode_mac(key: bytes, data: bytes) -> bytes:
    """The MAC behind a sealed write cap: like HMAC, but with the 16-byte key not padded to a block."""
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + data).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).digest()
