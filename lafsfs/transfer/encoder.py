"""Plaintext -> the bytes of immutable shares, a batch of segments at a time (formats.md 4.2 to 4.4).

Pure, and blocking: hashing and encoding take time.
"""

from __future__ import annotations

from collections.abc import Sequence

from lafsfs.formats import aes, chk, erasure, hashing, merkle
from lafsfs.formats.chk import Params, ShareLayout, Ueb
from lafsfs.formats.hashing import Buffer


class ChkEncoder:
    """Encodes one file.

    Batches go, in order, through `encrypt`; then through `hash_ciphertext` (in order too) and
    `encode_segment` (any order, any thread); when all are through, `finish` gives what ends each share.
    """

    def __init__(self, key: bytes, params: Params, version: int | None = None) -> None:
        self.params = params
        self.layout = ShareLayout.for_params(params, version)
        self._stream = aes.Stream(key)
        self._crypttext = hashing.crypttext_hasher()
        self._segment_hashes: list[bytes] = [b""] * params.num_segments
        self._block_hashes: list[list[bytes]] = [[b""] * params.num_segments for _ in range(params.n)]

    def header(self) -> bytes:
        """How every share begins."""
        return self.layout.pack_header(self.params)

    def total_size(self) -> int:
        """Bytes of every share; the length of the UEB does not depend on the hashes in it."""
        zero = bytes(hashing.HASH_SIZE)
        return self.layout.total_size(len(Ueb(self.params, zero, zero, zero).pack()))

    def encrypt(self, batch: memoryview) -> None:
        """Turn the next plaintext into ciphertext, in place."""
        self._stream.crypt_into(batch, batch)

    def hash_ciphertext(self, batch: Buffer) -> None:
        """Account for the next ciphertext in the hash over all of it."""
        self._crypttext.update(batch)

    def encode_segment(self, segnum: int, segment: memoryview) -> list[Buffer]:
        """The n blocks of a ciphertext segment, some of them views of it; their hashes are kept."""
        params = self.params
        self._segment_hashes[segnum] = hashing.crypttext_segment_hash(segment)
        size = params.block_size_of(segnum)
        if len(segment) != size * params.k:
            segment = memoryview(bytes(segment).ljust(size * params.k, b"\0"))
        pieces = [segment[i * size : (i + 1) * size] for i in range(params.k)]
        blocks = erasure.encode(params.k, params.n, pieces)
        for shnum, block in enumerate(blocks):
            self._block_hashes[shnum][segnum] = hashing.block_hash(block)
        return blocks

    def finish(self) -> tuple[Sequence[bytes], bytes, bytes]:
        """For each share everything behind its data (trees, chain, UEB); the UEB hash; the UEB."""
        params = self.params
        crypttext_tree = merkle.nodes(self._segment_hashes)
        block_trees = [merkle.nodes(leaves) for leaves in self._block_hashes]
        share_tree = merkle.nodes([tree[0] for tree in block_trees])
        ueb = Ueb(params, self._crypttext.digest(), crypttext_tree[0], share_tree[0]).pack()
        before = bytes(params.tree_size) + b"".join(crypttext_tree)
        after = self.layout.pack_ueb(ueb)
        tails = []
        for shnum, tree in enumerate(block_trees):
            chain = {number: share_tree[number] for number in chk.chain_numbers(shnum, params.n)}
            tails.append(b"".join((before, *tree, chk.pack_chain(chain), after)))
        return tails, hashing.ueb_hash(ueb), ueb
