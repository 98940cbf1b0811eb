"""Checking one share of an immutable file in full, with the verify cap only (formats.md 4.5, 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import trio

from lafsfs.errors import CorruptShareError
from lafsfs.formats import caps, chk, hashing, merkle
from lafsfs.grid.server import StorageServer

T = TypeVar("T")

_WINDOW = 4 << 20
_IN_THREAD = 16 << 10


@dataclass(frozen=True)
class ChkHashes:
    """The checked hashes of one share: UEB, tree over ciphertext segments, hashes of the share's blocks."""

    layout: chk.ShareLayout
    ueb: chk.Ueb
    ueb_bytes: bytes = field(repr=False)
    crypttext_tree: bytes = field(repr=False)
    leaves: list[bytes] = field(repr=False)

    @property
    def params(self) -> chk.Params:
        return self.ueb.params


class ChkShare:
    """One immutable share on one server. Errors: ServerError; FormatError for anything that is wrong
    with it.
    """

    def __init__(self, server: StorageServer, cap: caps.ChkVerifyCap, shnum: int) -> None:
        self.server = server
        self.shnum = shnum
        self._cap = cap
        self._hashes: ChkHashes | None = None

    async def hashes(self) -> ChkHashes:
        """Everything but the blocks, checked up to the UEB hash in the cap."""
        if self._hashes is None:
            self._hashes = await self._fetch_hashes()
        return self._hashes

    async def blocks(self, first: int, last: int) -> list[memoryview]:
        """The blocks of segments `first` to `last`, inclusive, checked."""
        hashes = await self.hashes()
        params = hashes.params
        start = first * params.block_size
        sizes = [params.block_size_of(segment) for segment in range(first, last + 1)]
        data = await self._read(hashes.layout.data + start, sum(sizes))
        blocks, at = [], 0
        for size in sizes:
            blocks.append(memoryview(data)[at : at + size])
            at += size
        await in_thread(len(data), partial(_check_blocks, blocks, hashes.leaves[first : last + 1]))
        return blocks

    async def verify(self) -> None:
        """Fetch and check every byte."""
        params = (await self.hashes()).params
        step = max(1, _WINDOW // params.block_size)
        for first in range(0, params.num_segments, step):
            await self.blocks(first, min(first + step, params.num_segments) - 1)

    async def _fetch_hashes(self) -> ChkHashes:
        cap = self._cap
        head = await self.server.read_immutable(cap.storage_index, self.shnum, 0, chk.MAX_HEADER_SIZE)
        layout = chk.ShareLayout.parse(head)
        raw = await self._ueb(layout)
        chk.check_ueb(raw, cap.ueb_hash)
        ueb = chk.Ueb.parse(raw, cap.k, cap.n, cap.size)
        size = ueb.params.tree_size
        crypttext_tree = await self._read(layout.crypttext_tree, size)
        block_tree = await self._read(layout.block_tree, size)
        chain = await self._read(layout.chain, min(layout.ueb - layout.chain, 34 * 512))
        check = partial(self._check, layout, ueb, raw, crypttext_tree, block_tree, chain)
        return await in_thread(2 * size, check)

    async def _ueb(self, layout: chk.ShareLayout) -> bytes:
        length = int.from_bytes(await self._read(layout.ueb, layout.length_size), "big")
        if not 0 < length <= 4096:
            raise CorruptShareError("a UEB of an impossible length")
        return await self._read(layout.ueb + layout.length_size, length)

    async def _read(self, offset: int, size: int) -> bytes:
        data = await self.server.read_immutable(self._cap.storage_index, self.shnum, offset, size)
        if len(data) != size:
            raise CorruptShareError("the share is cut off")
        return data

    def _check(
        self,
        layout: chk.ShareLayout,
        ueb: chk.Ueb,
        raw: bytes,
        crypttext_tree: bytes,
        block_tree: bytes,
        chain: bytes,
    ) -> ChkHashes:
        count = ueb.params.num_segments
        if tree_leaves(crypttext_tree, count)[1] != ueb.crypttext_root_hash:
            raise CorruptShareError("the ciphertext hash tree does not lead to the root in the UEB")
        leaves, root = tree_leaves(block_tree, count)
        tree = merkle.IncompleteTree(ueb.params.n)
        tree.set_root(ueb.share_root_hash)
        tree.add(chk.parse_chain(chain), {self.shnum: root})
        if not tree.leaf_is_known(self.shnum):
            raise CorruptShareError("the share hash chain is incomplete")
        return ChkHashes(layout, ueb, raw, crypttext_tree, leaves)


def tree_leaves(data: bytes, count: int) -> tuple[list[bytes], bytes]:
    """(leaves, root) of a stored hash tree. CorruptShareError unless every node in it is right."""
    hashes = [data[at : at + 32] for at in range(0, len(data), 32)]
    first = merkle.pow2(count) - 1
    leaves = hashes[first : first + count]
    if merkle.nodes(leaves) != hashes:
        raise CorruptShareError("a hash tree contradicts itself")
    return leaves, hashes[0]


async def in_thread(size: int, call: Callable[[], T]) -> T:
    """Run CPU-heavy work over `size` bytes in a thread, small work right here."""
    return await trio.to_thread.run_sync(call) if size > _IN_THREAD else call()


def _check_blocks(blocks: list[memoryview], leaves: list[bytes]) -> None:
    for block, leaf in zip(blocks, leaves, strict=True):
        if hashing.block_hash(block) != leaf:
            raise CorruptShareError("a block does not match its hash")
