"""Plaintext -> immutable shares on servers -> cap (formats.md 4, 8.4)."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import trio

from lafsfs.cache.segments import SegmentCache
from lafsfs.formats import caps, chk, hashing, keys
from lafsfs.formats.chk import Params
from lafsfs.formats.hashing import Buffer
from lafsfs.grid.servers import Grid
from lafsfs.transfer.concurrent import Budget, compute, compute_all, together
from lafsfs.transfer.convergence import Beginning, convergent_key
from lafsfs.transfer.encoder import ChkEncoder
from lafsfs.transfer.keeper import keeper_of
from lafsfs.transfer.kept import segment_part
from lafsfs.transfer.placing import Homes, NewFile, find_homes, give_up
from lafsfs.transfer.sending import ShareSender, finish_all, send_all

log = logging.getLogger(__name__)

_BATCH = 8 << 20
_memory = Budget(96 << 20)
_CACHE_UP_TO = 256 << 10
_WHOLE = 32 << 10  # bytes of a share; sent for nothing, so many cost less than the round trip they may spare
_SECRET_TAG = b"lafsfs_upload_secret_v1"


class Source(Protocol):
    """Plaintext that does not change while it is uploaded. `read_into` fills the buffer exactly."""

    size: int

    async def read_into(self, offset: int, buf: memoryview) -> None: ...


class Ledger(Protocol):
    """Where an upload keeps what it needs to go on after a crash: opaque bytes that hold secrets."""

    def load(self) -> bytes | None: ...

    def save(self, state: bytes) -> None: ...


async def upload(
    grid: Grid,
    source: Source,
    *,
    ledger: Ledger | None = None,
    progress: Callable[[int], None] | None = None,
    cache: SegmentCache | None = None,
    literal_limit: int = chk.MAX_LITERAL_SIZE,
    known: Beginning | None = None,
) -> caps.ChkCap | caps.LiteralCap:
    """Put an immutable file on the grid; when this returns its shares are there, with servers-of-happiness.

    Up to `literal_limit` bytes become a literal cap, without any server. `progress` is told how many bytes of plaintext
    are done. The key is convergent, so a repeated upload finds what exists; what is `known` of the plaintext need not
    be hashed for it again. All uploads together take some 100 MiB of memory, waiting for one another.
    NotEnoughServersError when happiness is not reached, or lost midway. What was begun is then aborted, unless a
    `ledger` remembers it for the next try.
    """
    if source.size <= literal_limit:
        data = bytearray(source.size)
        await source.read_into(0, memoryview(data))
        return caps.LiteralCap(bytes(data))
    encoding = grid.encoding
    params = chk.params_for(source.size, encoding.k, encoding.n, encoding.max_segment_size)
    batches = _Batches(source, params)
    async with _memory.hold(batches.memory()):
        first = await batches.read(0)
        key = await convergent_key(grid, params, batches.read, first, known)
        async with _one_at_a_time(grid, key):
            return await _Upload(grid, batches, params, key, first, ledger, progress, cache).run()


class _Batches:
    """The plaintext in whole segments, about _BATCH bytes at a time. A batch is valid until the next but one is read,
    that at 0 for ever: new memory for each would have to be cleared.
    """

    def __init__(self, source: Source, params: Params) -> None:
        self._source = source
        self._params = params
        self._size = max(1, _BATCH // params.segsize) * params.segsize
        self._buffers: list[bytearray] = []

    def memory(self) -> int:
        """Bytes that an upload needs, shares included: one batch is sent while another is encoded."""
        several = self._params.size > self._size
        return min(self._params.size, self._size) * (1 + several) * (1 + self._params.n // self._params.k)

    async def read(self, offset: int) -> memoryview:
        """The batch at `offset`; empty at the end."""
        size = min(self._size, self._params.size - offset)
        if size <= 0:
            return memoryview(b"")
        batch = memoryview(self._buffer() if offset else bytearray(size))[:size]
        await self._source.read_into(offset, batch)
        return batch

    def _buffer(self) -> bytearray:
        if len(self._buffers) < 2:
            self._buffers.append(bytearray(self._size))
        else:
            self._buffers.reverse()
        return self._buffers[-1]


@dataclass
class _Turn:
    lock: trio.Lock
    users: int = 0


_turns: WeakKeyDictionary[Grid, dict[bytes, _Turn]] = WeakKeyDictionary()


@asynccontextmanager
async def _one_at_a_time(grid: Grid, key: bytes) -> AsyncIterator[None]:
    """Of several uploads of the same contents one goes first; the others then find its shares."""
    turns = _turns.setdefault(grid, {})
    turn = turns.setdefault(key, _Turn(trio.Lock()))
    turn.users += 1
    try:
        async with turn.lock:
            yield
    finally:
        turn.users -= 1
        if not turn.users:
            del turns[key]


class _Upload:
    """One upload: a first batch, placement, then a batch being encoded while the one before it is sent."""

    def __init__(
        self,
        grid: Grid,
        batches: _Batches,
        params: Params,
        key: bytes,
        first: memoryview,
        ledger: Ledger | None,
        progress: Callable[[int], None] | None,
        cache: SegmentCache | None,
    ) -> None:
        self._grid, self._batches, self._params, self._key = grid, batches, params, key
        self._first: memoryview | None = first
        self._ledger, self._progress, self._cache = ledger, progress, cache
        self._encoder = ChkEncoder(key, params)
        index = keys.storage_index_of_key(key)
        secret = hashing.tagged2(_SECRET_TAG, grid.secrets.lease, index)
        header = self._encoder.header()
        self._file = NewFile(index, params.n, self._encoder.total_size(), secret, header)
        self._ueb_hash = self._ueb = b""
        self._ciphertext: memoryview | None = None  # of a small file, all of it

    async def run(self) -> caps.ChkCap:
        happy = self._grid.encoding.happy
        resumable = self._ledger is not None
        done, parts = await self._beginning()
        homes = await find_homes(self._grid, self._file, happy, self._remembered(), resumable=resumable)
        try:
            self._remember(homes)
            await self._transfer(homes, happy, done, parts)
        except BaseException:
            # An upload that is remembered goes on later; servers forget those that do not by themselves.
            if not resumable:
                await give_up(homes, self._file)
            raise
        params = self._params
        return caps.ChkCap(self._key, self._ueb_hash, params.k, params.n, params.size)

    # --- the ledger ----------------------------------------------------------------------------------

    def _remembered(self) -> dict[str, list[int]]:
        """The placement of an earlier attempt at the same contents."""
        state = self._ledger.load() if self._ledger is not None else None
        try:
            known: Any = json.loads(state) if state else {}
            if known.get("key") != self._key.hex() or known.get("secret") != self._file.upload_secret.hex():
                return {}
            return {str(server): [int(s) for s in shares] for server, shares in known["placement"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _remember(self, homes: Homes) -> None:
        if self._ledger is not None and homes.open:
            placement = {server.server_id: sorted(shares) for server, shares in homes.open.items()}
            secret = self._file.upload_secret.hex()
            state = {"key": self._key.hex(), "secret": secret, "placement": placement}
            self._ledger.save(json.dumps(state).encode())

    # --- data ----------------------------------------------------------------------------------------

    async def _beginning(self) -> tuple[int, list[list[Buffer]]]:
        """As `_next` at 0, with the headers. If that is all, the shares are finished, and small ones go out whole."""
        first, self._first = self._first, None
        assert first is not None
        parts = await self._encoded(first, 0)
        if len(first) == self._params.size <= _CACHE_UP_TO and self._params.num_segments == 1:
            self._ciphertext = first
        for share in parts:
            share.insert(0, self._file.header)
        if len(first) == self._params.size:
            await self._finish(parts)
            if self._file.share_size <= _WHOLE:
                self._file = replace(self._file, whole=dict(enumerate(map(b"".join, parts))))
        return len(first), parts

    async def _finish(self, parts: list[list[Buffer]]) -> None:
        """Append what ends each share."""
        finish = self._encoder.finish
        tails, self._ueb_hash, self._ueb = await compute(_tail_work(self._params), finish)
        for share, tail in zip(parts, tails, strict=True):
            share.append(tail)

    async def _transfer(self, homes: Homes, happy: int, done: int, parts: list[list[Buffer]]) -> None:
        """Send `parts`, which begin each share and stand for `done` bytes, and encode and send all the rest."""
        senders = [
            ShareSender(server, self._file, shnum, missing)
            for server, shares in homes.open.items()
            for shnum, missing in shares.items()
        ]
        position = 0
        while done < self._params.size:
            sending = partial(send_all, senders, homes, happy, parts, position)
            _, following = await together(sending, partial(self._next, done))
            position += sum(len(piece) for piece in parts[0])
            batch_size, parts = following
            self._tell(done)
            done += batch_size
            if done == self._params.size:
                await self._finish(parts)
        await send_all(senders, homes, happy, parts, position)
        finish_all(senders, homes, happy)
        self._tell(done)
        self._keep()

    def _tell(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done)

    async def _next(self, offset: int) -> tuple[int, list[list[Buffer]]]:
        """(plaintext bytes, parts of each share) of the batch at `offset`."""
        batch = await self._batches.read(offset)
        return len(batch), await self._encoded(batch, offset)

    async def _encoded(self, batch: memoryview, offset: int) -> list[list[Buffer]]:
        """The blocks of a batch, for each share. The batch becomes ciphertext."""
        encoder, params = self._encoder, self._params
        first = offset // params.segsize
        segments = [batch[at : at + params.segsize] for at in range(0, len(batch), params.segsize)]
        await compute(len(batch), partial(encoder.encrypt, batch))
        calls: list[Callable[[], Any]] = [partial(encoder.hash_ciphertext, batch)]
        calls += [partial(encoder.encode_segment, first + i, part) for i, part in enumerate(segments)]
        _, *rows = await compute_all(len(batch), calls)
        if params.n == 1:
            return [[batch]]
        return [list(blocks) for blocks in zip(*rows, strict=True)]

    def _keep(self) -> None:
        """Put the ciphertext of a small file in the cache: it is likely to be read soon."""
        if self._cache is not None and self._ciphertext is not None:
            part = segment_part(self._file.storage_index, self._ueb_hash, 0, self._ueb, self._ciphertext)
            keeper_of(self._grid, self._cache).keep(self._grid, part)


def _tail_work(params: Params) -> int:
    """Roughly the bytes that are hashed to finish the trees of a file."""
    return (params.n + 1) * params.tree_size * 2
