"""Whole shares of mutable files: planning, encoding and checking a version (formats.md 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lafsfs.errors import CorruptShareError, FormatError
from lafsfs.formats import merkle, mutable, rsa
from lafsfs.formats.hashing import Buffer
from lafsfs.formats.mdmf import MdmfHeader
from lafsfs.formats.mutable import Header
from lafsfs.formats.sdmf import SdmfHeader

_LAYOUTS: dict[int, type[SdmfHeader] | type[MdmfHeader]] = {0: SdmfHeader, 1: MdmfHeader}


def parse_header(data: Buffer) -> SdmfHeader | MdmfHeader:
    """The header of a share of either layout. FormatError when it is neither or inconsistent."""
    layout = _LAYOUTS.get(memoryview(data)[0]) if len(data) else None
    if layout is None:
        raise FormatError("neither an SDMF nor an MDMF share")
    return layout.parse(data)


def checkstring_at(start: Buffer) -> bytes:
    """The checkstring of a share that begins with `start`, also when its header makes no sense."""
    view = memoryview(start)
    layout = _LAYOUTS.get(view[0], SdmfHeader) if len(view) else SdmfHeader
    return bytes(view[: layout.CHECKSTRING_SIZE])


def plan(
    mdmf: bool, seqnum: int, k: int, n: int, data_length: int, key: rsa.SigningKey, salt: bytes
) -> Header:
    """The header of a new version, still without its root hash. `salt` is used for SDMF only."""
    if not 1 <= k <= n <= mutable.MAX_SHARES:
        raise FormatError("k and n of a mutable file are out of range")
    chain = 34 * len(merkle.needed(0, n))
    public, private = len(key.public.der), len(key.der)
    if mdmf:
        return MdmfHeader.planned(seqnum, k, n, data_length, chain, public, private)
    return SdmfHeader.planned(seqnum, salt, k, n, data_length, chain, public, private)


@dataclass(frozen=True)
class Signed:
    """A version ready to be written: what is the same in all shares, and the trees of each."""

    header: Header
    signature: bytes
    block_trees: Sequence[bytes]
    chains: Sequence[bytes]

    def changing_parts(self, shnum: int) -> list[tuple[int, bytes]]:
        """(offset, bytes) of what every version replaces besides the blocks: header, trees, signature."""
        at = self.header.sections
        return [
            (0, self.header.pack()),
            (at.chain.start, self.chains[shnum]),
            (at.signature.start, self.signature),
            (at.block_tree.start, self.block_trees[shnum]),
        ]

    def fixed_parts(self, verification_key: bytes, encprivkey: bytes) -> list[tuple[int, bytes]]:
        """(offset, bytes) of the two keys."""
        at = self.header.sections
        return [(at.verification_key.start, verification_key), (at.encprivkey.start, encprivkey)]


class VersionEncoder:
    """Encodes the segments of one version, in any order, and then its hash trees.

    For a partial update give the block hashes of the version before, `leaves[shnum][segment]`, cut or
    extended to the new number of segments; segments that are not added keep theirs. All n rows must be
    complete at `sign`. Not safe for two threads at once.
    """

    def __init__(
        self, header: Header, readkey: bytes, leaves: Sequence[Sequence[bytes | None]] | None = None
    ) -> None:
        self._header = header
        self._readkey = readkey
        if leaves is None:
            leaves = [[None] * header.num_segments for _ in range(header.n)]
        self._leaves = [list(row) for row in leaves]

    def add(self, segment: int, plaintext: Buffer, salt: bytes) -> list[bytes]:
        """Encode one segment: what each of the n shares stores at `stored_span(segment)`."""
        header = self._header
        if len(plaintext) != header.segment_length(segment):
            raise ValueError("a segment of the wrong length")
        blocks = mutable.encode_segment(header, segment, plaintext, self._readkey, salt)
        prefix = salt if header.STORED_SALT else b""
        stored = [prefix + bytes(block) for block in blocks]
        for row, data in zip(self._leaves, stored, strict=True):
            row[segment] = mutable.block_leaf(data)
        return stored

    def sign(self, key: rsa.SigningKey) -> Signed:
        """Build all trees, complete the header with the root hash, and sign it."""
        trees = [merkle.nodes(self._complete(row)) for row in self._leaves]
        share_tree = merkle.nodes([tree[0] for tree in trees])
        n = self._header.n
        chains = [
            mutable.pack_chain({node: share_tree[node] for node in merkle.needed(shnum, n)})
            for shnum in range(n)
        ]
        header = replace(self._header, root_hash=share_tree[0])
        return Signed(header, key.sign(header.prefix), [b"".join(tree) for tree in trees], chains)

    @staticmethod
    def _complete(row: Sequence[bytes | None]) -> list[bytes]:
        leaves = [leaf for leaf in row if leaf is not None]
        if len(leaves) != len(row):
            raise ValueError("a segment was never encoded")
        return leaves


def check_share(share: Buffer, shnum: int, fingerprint: bytes) -> Header:
    """Check every byte of a whole share that can be checked without a key; its header.

    FormatError or CorruptShareError when anything is wrong. Bytes behind the end of the share are stale and
    not looked at, nor is the gap before the data of an MDMF share.
    """
    header = parse_header(share)
    view = memoryview(share)
    at = header.sections
    if len(view) < header.eof:
        raise CorruptShareError("the share is cut off")
    check_signature(
        header, bytes(view[slice(*at.verification_key)]), bytes(view[slice(*at.signature)]), fingerprint
    )
    leaves = mutable.parse_block_tree(header, view[slice(*at.block_tree)])
    root = merkle.root(leaves)
    mutable.check_chain(header, shnum, mutable.parse_chain(view[slice(*at.chain)]), root)
    for segment, leaf in enumerate(leaves):
        if mutable.block_leaf(view[slice(*header.stored_span(segment))]) != leaf:
            raise CorruptShareError("a block does not match its hash")
    return header


def check_signature(header: Header, verification_key: bytes, signature: bytes, fingerprint: bytes) -> None:
    """Raise CorruptShareError unless the key is the one the cap names and it signed this header."""
    try:
        key = rsa.VerifyKey.from_der(verification_key)
    except FormatError as error:
        raise CorruptShareError("the share holds no usable verification key") from error
    if key.fingerprint != fingerprint:
        raise CorruptShareError("the share's verification key is not the one of the cap")
    if not key.verifies(signature, header.prefix):
        raise CorruptShareError("the signature of the share is wrong")
