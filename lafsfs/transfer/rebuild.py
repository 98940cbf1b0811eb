"""Computing the missing shares of an immutable file from those that are left (formats.md 11).

Works on ciphertext: the verify cap is enough. What comes out must have the share root hash that the UEB pins.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import trio

from lafsfs.errors import CorruptShareError, FormatError, NotEnoughSharesError, ServerError
from lafsfs.formats import caps, chk, erasure, hashing, merkle
from lafsfs.grid.server import StorageServer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.check import CheckResult
from lafsfs.transfer.verify_chk import ChkShare, in_thread

log = logging.getLogger(__name__)

_PIECE = 1 << 20


async def rebuild(grid: Grid, cap: caps.ChkVerifyCap, before: CheckResult) -> None:
    """Compute the missing shares into an unlinked file, check them, and place them."""
    sources = _Sources(grid, cap, before)
    model = await sources.model()
    missing = [shnum for shnum in range(cap.n) if shnum not in before.good]
    hashes = await model.hashes()
    params = hashes.params
    with tempfile.TemporaryFile(prefix="lafsfs-") as spool:
        leaves: list[list[bytes]] = [[] for _ in range(cap.n)]
        for segment in range(params.num_segments):
            numbers, blocks = await sources.segment(segment)

            def encode(
                segment: int = segment,
                numbers: Sequence[int] = numbers,
                blocks: Sequence[memoryview] = blocks,
            ) -> None:
                pieces = erasure.decode(cap.k, cap.n, blocks, numbers)
                for shnum, block in enumerate(erasure.encode(cap.k, cap.n, pieces)):
                    leaves[shnum].append(hashing.block_hash(block))
                    if shnum in missing:
                        at = missing.index(shnum) * params.share_data_size + segment * params.block_size
                        os.pwrite(spool.fileno(), block, at)

            await in_thread(params.segsize, encode)
        trees = [merkle.nodes(row) for row in leaves]
        share_tree = merkle.nodes([tree[0] for tree in trees])
        if share_tree[0] != hashes.ueb.share_root_hash:
            raise CorruptShareError("the shares that are left do not belong to one file")
        homes = _Homes(grid, cap, before)
        for index, shnum in enumerate(missing):
            chain = {number: share_tree[number] for number in chk.chain_numbers(shnum, cap.n)}
            layout = chk.ShareLayout.for_params(params)
            tail = b"".join(
                (
                    bytes(params.tree_size),
                    hashes.crypttext_tree,
                    b"".join(trees[shnum]),
                    chk.pack_chain(chain),
                    layout.pack_ueb(hashes.ueb_bytes),
                )
            )
            share = _NewShare(
                shnum, layout.pack_header(params), spool, index * params.share_data_size, params, tail
            )
            await homes.place(share)


class _Sources:
    """Good shares to compute others from; one that fails is replaced."""

    def __init__(self, grid: Grid, cap: caps.ChkVerifyCap, before: CheckResult) -> None:
        servers = {server.server_id: server for server in grid.servers}
        self._k = cap.k
        self._shares = [
            ChkShare(servers[server_id], cap, shnum)
            for shnum, holders in sorted(before.good.items())
            for server_id in sorted(holders)
        ]

    async def model(self) -> ChkShare:
        """A share whose hashes are good."""
        while self._shares:
            try:
                await self._shares[0].hashes()
            except (ServerError, FormatError) as error:
                self._drop(self._shares[0], error)
            else:
                return self._shares[0]
        raise NotEnoughSharesError("no share is good")

    async def segment(self, segment: int) -> tuple[list[int], list[memoryview]]:
        """(share numbers, blocks) of k different good shares."""
        found: dict[int, memoryview] = {}
        for share in list(self._shares):
            if len(found) == self._k:
                break
            if share.shnum in found:
                continue
            try:
                (found[share.shnum],) = await share.blocks(segment, segment)
            except (ServerError, FormatError) as error:
                self._drop(share, error)
        if len(found) < self._k:
            raise NotEnoughSharesError("too few good shares are left")
        return list(found), list(found.values())

    def _drop(self, share: ChkShare, error: Exception) -> None:
        log.info("share %d on %s is of no use: %s", share.shnum, share.server.name, error)
        self._shares.remove(share)


@dataclass(frozen=True)
class _NewShare:
    """A share to upload: header, data in a file, hashes and UEB."""

    shnum: int
    header: bytes
    spool: BinaryIO
    data_at: int
    params: chk.Params
    tail: bytes

    @property
    def size(self) -> int:
        return len(self.header) + self.params.share_data_size + len(self.tail)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the share. Blocking."""
        parts = []
        end = offset + size
        data_end = len(self.header) + self.params.share_data_size
        if offset < len(self.header):
            parts.append(self.header[offset:end])
        first, last = max(offset, len(self.header)), min(end, data_end)
        if first < last:
            parts.append(os.pread(self.spool.fileno(), last - first, self.data_at + first - len(self.header)))
        if end > data_end:
            parts.append(self.tail[max(0, offset - data_end) : end - data_end])
        return b"".join(parts)


class _Homes:
    """Finds servers for new shares: those with the fewest shares of the file first, in permuted order.

    A server that holds a corrupt share of a number cannot take that number; another one does.
    """

    def __init__(self, grid: Grid, cap: caps.ChkVerifyCap, before: CheckResult) -> None:
        self._servers = grid.for_upload(cap.storage_index)
        self._index = cap.storage_index
        self._load = {server.server_id: 0 for server in self._servers}
        for holders in before.good.values():
            for server_id in holders:
                if server_id in self._load:
                    self._load[server_id] += 1

    async def place(self, share: _NewShare) -> None:
        """Upload a share to the first server that takes it. NotEnoughServersError is left to the check
        after.
        """
        for server in sorted(self._servers, key=lambda server: self._load[server.server_id]):
            try:
                if await self._upload(server, share):
                    self._load[server.server_id] += 1
                    return
            except ServerError as error:
                log.info("share %d does not go to %s: %s", share.shnum, server.name, error)
        log.warning("no server takes share %d", share.shnum)

    async def _upload(self, server: StorageServer, share: _NewShare) -> bool:
        secret = secrets.token_bytes(32)
        answer = await server.allocate(self._index, [share.shnum], share.size, secret)
        if share.shnum not in answer.allocated:
            return False
        finished = False
        try:
            for offset in range(0, share.size, _PIECE):
                size = min(_PIECE, share.size - offset)
                piece = await trio.to_thread.run_sync(share.read, offset, size)
                done = await server.write_share(self._index, share.shnum, secret, offset, piece, share.size)
                finished = done.finished
        finally:
            if not finished:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 3):
                    await _abort(server, self._index, share.shnum, secret)
        return finished


async def _abort(server: StorageServer, storage_index: bytes, shnum: int, secret: bytes) -> None:
    try:
        await server.abort(storage_index, shnum, secret)
    except ServerError as error:
        log.info("an upload could not be given up: %s", error)
