"""One version of a mutable file -> bytes (formats.md 6.4).

Every byte is checked before it is used: block against block hash tree, its root against the share hash
chain, that against the signed root hash. A share that fails is reported to its server and replaced by
another; one that lags is raced against another. Results come as soon as k shares are good.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from lafsfs.errors import (
    CorruptShareError,
    FormatError,
    NotEnoughServersError,
    NotEnoughSharesError,
    ServerError,
    UncoordinatedWriteError,
)
from lafsfs.formats import mutable
from lafsfs.formats.mutable import Header, Span
from lafsfs.grid.server import StorageServer
from lafsfs.transfer.servermap import ServerMap, Share
from lafsfs.transfer.survey import Target

log = logging.getLogger(__name__)

READ_DEADLINE = 60.0
_HEDGE = 1.0
_WINDOW = 4 << 20  # plaintext bytes fetched and decoded at a time
_IN_THREAD = 16 << 10


@dataclass(frozen=True)
class _Fetched:
    """What one share gave for a run of segments: the stored bytes (salt and block) of each."""

    shnum: int
    stored: Sequence[memoryview]


class ShareReader:
    """Sections of one share, from its head if they are there, checked against the version's header."""

    def __init__(self, share: Share, header: Header, target: Target) -> None:
        self.share = share
        self._header = header
        self._target = target
        self._leaves: list[bytes] | None = None

    @property
    def checked(self) -> bool:
        """Whether the hashes of this share are known already."""
        return self._leaves is not None

    async def read(self, span: Span) -> memoryview:
        """The bytes of a section. ServerError, or CorruptShareError when the share ends before."""
        head = self.share.head
        if span.end <= len(head):
            return memoryview(head)[span.start : span.end]
        have = head[span.start :]
        start = span.start + len(have)
        server = self.share.server
        got = await server.read_mutable(self._target.storage_index, self.share.shnum, start, span.end - start)
        if len(have) + len(got) != span.size:
            raise CorruptShareError("the share is cut off")
        return memoryview(have + got if have else got)

    async def is_replaced(self) -> bool:
        """Whether the server holds another version under this share number by now. ServerError."""
        now = await self.share.server.read_mutable(
            self._target.storage_index, self.share.shnum, 0, self._header.SIZE
        )
        return now != self._header.pack()

    async def leaves(self) -> list[bytes]:
        """The hashes of all blocks of the share, checked up to the signed root."""
        if self._leaves is None:
            at = self._header.sections
            tree = await self.read(at.block_tree)
            chain = mutable.parse_chain(await self.read(at.chain))
            if len(tree) > _IN_THREAD:
                self._leaves = await trio.to_thread.run_sync(self._check, tree, chain)
            else:
                self._leaves = self._check(tree, chain)
        return self._leaves

    def _check(self, tree: memoryview, chain: dict[int, bytes]) -> list[bytes]:
        leaves = mutable.parse_block_tree(self._header, tree)
        mutable.check_chain(self._header, self.share.shnum, chain, bytes(tree[: mutable.HASH_SIZE]))
        return leaves

    async def blocks(self, first: int, last: int) -> _Fetched:
        """What is stored for the segments `first` to `last`, inclusive, checked."""
        spans = [self._header.stored_span(segment) for segment in range(first, last + 1)]
        whole = Span(spans[0].start, spans[-1].end)
        at = self._header.sections
        if not self.checked and not self._header.is_mdmf:
            # One segment, with its hashes just before it: a single request for all that is not in the head.
            everything = await self.read(Span(at.chain.start, whole.end))
            chain = mutable.parse_chain(everything[: at.chain.size])
            tree = everything[at.chain.size :][: at.block_tree.size]
            self._leaves = self._check(tree, chain)
            data = everything[whole.start - at.chain.start :]
        else:
            data = await self._tree_and_data(whole)
        stored = [data[span.start - whole.start : span.end - whole.start] for span in spans]
        leaves = await self.leaves()
        wanted = leaves[first : last + 1]
        if len(data) > _IN_THREAD:
            await trio.to_thread.run_sync(_check_blocks, stored, wanted)
        else:
            _check_blocks(stored, wanted)
        return _Fetched(self.share.shnum, stored)

    async def _tree_and_data(self, whole: Span) -> memoryview:
        """The data, with the hash tree fetched at the same time if it is not known."""
        if self.checked:
            return await self.read(whole)
        found: list[memoryview] = []
        failures: list[Exception] = []

        async def data() -> None:
            try:
                found.append(await self.read(whole))
            except (ServerError, FormatError) as error:
                failures.append(error)

        async def hashes() -> None:
            try:
                await self.leaves()
            except (ServerError, FormatError) as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(data)
            nursery.start_soon(hashes)
        if failures:
            raise failures[0]
        return found[0]


def _check_blocks(stored: Sequence[memoryview], leaves: Sequence[bytes]) -> None:
    for data, leaf in zip(stored, leaves, strict=True):
        if mutable.block_leaf(data) != leaf:
            raise CorruptShareError("a block does not match its hash")


class VersionReader:
    """Reads one version, pinned: what it returns never mixes versions.

    `servermap` is where its shares were seen; shares that turn out to be corrupt are marked there. When
    too few of them are good, `ask_all` is awaited once for a map of all servers.
    """

    def __init__(
        self,
        target: Target,
        readkey: bytes,
        header: Header,
        servermap: ServerMap,
        ask_all: Callable[[], Awaitable[ServerMap]] | None = None,
    ) -> None:
        self._ask_all = ask_all
        self.header = header
        self._target = target
        self._readkey = readkey
        self._map = servermap
        self._readers = [ShareReader(share, header, target) for share in servermap.shares_of(header)]
        self._bad: set[int] = set()
        self.replaced = False
        """Whether somebody was seen to have written a later version over shares of this one."""

    @property
    def size(self) -> int:
        return self.header.data_length

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes at `offset`, fewer only at the end of the file.

        NotEnoughSharesError or NotEnoughServersError when too few good shares are to be had (READ_DEADLINE);
        UncoordinatedWriteError when that is because a later version was written over this one.
        """
        end = min(offset + size, self.size)
        if end <= offset:
            return b""
        parts = []
        at = offset
        while at < end:
            first = at // self.header.segment_size
            stop = min(end, max(at + _WINDOW, (first + 1) * self.header.segment_size))
            parts.append(await self._window(at, stop))
            at = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def segments(self, first: int, last: int) -> list[bytes]:
        """The plaintext of the segments `first` to `last`, inclusive."""
        fetched = await self._fetch(first, last)
        size = sum(len(data) for share in fetched for data in share.stored)
        if size > _IN_THREAD:
            return await trio.to_thread.run_sync(self._decode, first, fetched)
        return self._decode(first, fetched)

    def close(self) -> None:
        """Nothing will be read any more: forget what only reading needs."""
        self._readers = []
        self._map.forget_heads()

    async def _window(self, start: int, stop: int) -> bytes:
        segment_size = self.header.segment_size
        first, last = start // segment_size, (stop - 1) // segment_size
        plain = await self.segments(first, last)
        data = plain[0] if len(plain) == 1 else b"".join(plain)
        skip = start - first * segment_size
        return data[skip : skip + stop - start]

    def _decode(self, first: int, fetched: Sequence[_Fetched]) -> list[bytes]:
        result = []
        numbers = [share.shnum for share in fetched]
        for i in range(len(fetched[0].stored)):
            split = [self.header.split_stored(share.stored[i]) for share in fetched]
            if len({salt for salt, _ in split}) != 1:
                raise NotEnoughSharesError("the shares of this version contradict each other")
            blocks = [block for _, block in split]
            result.append(
                mutable.decode_segment(self.header, first + i, blocks, numbers, self._readkey, split[0][0])
            )
        return result

    # --- k shares, from whoever answers first ----------------------------------------------------------

    def _candidates(self) -> list[ShareReader]:
        """Shares in the order in which to try them: known ones, quick servers, primary blocks first."""

        def preference(reader: ShareReader) -> tuple[bool, bool, bool, int]:
            in_head = self.header.eof <= len(reader.share.head)
            slow = reader.share.server.health.quarantined
            return (
                slow,
                not (reader.checked or in_head),
                reader.share.shnum >= self.header.k,
                reader.share.shnum,
            )

        return sorted((r for r in self._readers if id(r) not in self._bad), key=preference)

    async def _fetch(self, first: int, last: int) -> list[_Fetched]:
        with trio.move_on_after(READ_DEADLINE):
            try:
                return await _Race(self, first, last).run(self._candidates())
            except (NotEnoughSharesError, NotEnoughServersError):
                if self._ask_all is None or self.replaced:
                    raise
            await self._find_more(self._ask_all)
            return await _Race(self, first, last).run(self._candidates())
        raise NotEnoughServersError("the servers did not give enough shares in time")

    async def _find_more(self, ask_all: Callable[[], Awaitable[ServerMap]]) -> None:
        """Look for shares of the version on servers that were not asked, or had not answered."""
        self._ask_all = None
        found = await ask_all()
        for place, share in found.shares.items():
            if place not in self._map.shares:
                self._map.shares[place] = share
                if share.header == self.header:
                    self._readers.append(ShareReader(share, self.header, self._target))
        self._map.answered.update(found.answered)
        self._map.complete = self._map.complete or found.complete

    async def reject(self, reader: ShareReader, error: Exception) -> None:
        """Never use a share again. If it is damaged, and not just replaced by now, tell its server."""
        self._bad.add(id(reader))
        server: StorageServer = reader.share.server
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 3):
            try:
                if await reader.is_replaced():
                    self.replaced = True
                    return
            except ServerError as unreachable:
                log.info("a bad share could not be looked at again: %s", unreachable)
            self._map.mark_corrupt(server.server_id, reader.share.shnum)
            await server.advise_corrupt("mutable", self._target.storage_index, reader.share.shnum, str(error))


class _Race:
    """Gets one run of segments from k different shares."""

    def __init__(self, version: VersionReader, first: int, last: int) -> None:
        self._version = version
        self._first, self._last = first, last
        self._done: dict[int, _Fetched] = {}
        self._running: set[int] = set()
        self._unreachable = False
        self._send, self._news = trio.open_memory_channel[None](math.inf)

    async def run(self, candidates: list[ShareReader]) -> list[_Fetched]:
        k = self._version.header.k
        waiting = list(candidates)
        async with trio.open_nursery() as nursery:
            self._start(nursery, waiting, k)
            while len(self._done) < k and self._running:
                with trio.move_on_after(_HEDGE if waiting else math.inf) as scope:
                    await self._news.receive()
                missing = k - len(self._done) - len(self._running)
                self._start(nursery, waiting, 1 if scope.cancelled_caught else missing)
            nursery.cancel_scope.cancel()
        if len(self._done) >= k:
            return [self._done[shnum] for shnum in sorted(self._done)[:k]]
        if self._version.replaced:
            raise UncoordinatedWriteError("a later version was written over the one being read")
        kind = NotEnoughServersError if self._unreachable else NotEnoughSharesError
        raise kind(f"only {len(self._done)} of {k} shares needed could be read")

    def _start(self, nursery: trio.Nursery, waiting: list[ShareReader], count: int) -> None:
        while count > 0 and waiting:
            reader = next((r for r in waiting if r.share.shnum not in self._busy()), None)
            if reader is None:
                return
            waiting.remove(reader)
            self._running.add(reader.share.shnum)
            nursery.start_soon(self._get, reader)
            count -= 1

    def _busy(self) -> set[int]:
        return self._running | self._done.keys()

    async def _get(self, reader: ShareReader) -> None:
        shnum = reader.share.shnum
        try:
            fetched = await reader.blocks(self._first, self._last)
        except ServerError:
            self._unreachable = True
            self._finish(shnum)
        except FormatError as error:
            await self._version.reject(reader, error)
            self._finish(shnum)
        else:
            self._done[shnum] = fetched
            self._finish(shnum)

    def _finish(self, shnum: int) -> None:
        self._running.discard(shnum)
        self._send.send_nowait(None)
