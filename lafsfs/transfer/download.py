"""Immutable shares on servers -> verified plaintext (formats.md 4.5).

What is read is checked where it counts: the UEB against the cap, and every ciphertext segment against the
ciphertext hash tree whose root the UEB pins. That settles that the data is right, whichever shares it came
from; the block hashes of a share only serve to find out which one is wrong, so they are fetched when a
segment fails its check.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import trio

from lafsfs.cache.segments import SegmentCache
from lafsfs.errors import (
    CorruptShareError,
    FormatError,
    LafsError,
    NotEnoughServersError,
    NotEnoughSharesError,
    ServerError,
)
from lafsfs.formats import aes, caps, chk, erasure, hashing
from lafsfs.formats.hashing import Buffer
from lafsfs.grid.servers import Grid
from lafsfs.transfer import kept
from lafsfs.transfer.concurrent import compute, compute_all, together
from lafsfs.transfer.keeper import Keeper, keeper_of
from lafsfs.transfer.leaf_hashes import LeafHashes
from lafsfs.transfer.readahead import Readahead
from lafsfs.transfer.segment_memory import Fetch, memory_of
from lafsfs.transfer.share_finder import ShareFinder
from lafsfs.transfer.share_source import ShareSource
from lafsfs.transfer.verify_chk import ChkShare

log = logging.getLogger(__name__)

_WHOLE_SHARE = 256 << 10
_REQUEST = 2 << 20
_MOST_SEGMENTS = 512  # in one request; only matters when they are tiny
_AHEAD_OF_ONE_READ = 8 << 20
_REQUESTS_AHEAD = 8


class ChkReader:
    """Reads one immutable file, for any number of tasks at once. What one has fetched serves all."""

    def __init__(self, grid: Grid, cache: SegmentCache | None, cap: caps.ChkCap) -> None:
        self._grid, self._cap = grid, cap
        self._parts = None if cache is None else keeper_of(grid, cache)
        self._index = cap.storage_index
        self._memory = memory_of(grid)
        self._pin = cap.key + cap.ueb_hash
        small = cap.size // max(1, cap.k) <= _WHOLE_SHARE // 2
        self._finder = ShareFinder(grid, self._index, cap.k, cap.n, guess=small)
        self._readahead = Readahead()
        self._opening, self._learning = trio.Lock(), trio.Lock()
        self._file: _OpenFile | None = None

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes of plaintext, fewer only at the end of the file.

        NotEnoughSharesError when they cannot be recovered, NotEnoughServersError when that may be because
        servers did not answer, FormatError for a cap that no file can have.
        """
        size = min(size, self._cap.size - offset)
        if size <= 0:
            return b""
        file = self._file or await self._open(offset)
        segsize = file.params.segsize
        first, last = offset // segsize, (offset + size - 1) // segsize
        ahead = self._readahead.window(offset, size)
        limit = min(file.params.size, offset + size + ahead) - 1
        parts = []
        for segnum in range(first, last + 1):
            horizon = min(limit, (segnum + 1) * segsize - 1 + max(ahead, _AHEAD_OF_ONE_READ))
            most = segnum + _REQUESTS_AHEAD * file.segments_per_request
            if file.params.num_segments > 1:
                self._start(file, segnum, min(most, max(segnum, horizon // segsize)))
            segment = await self._segment(file, segnum)
            begin = max(0, offset - segnum * segsize)
            end = min(len(segment), offset + size - segnum * segsize)
            parts.append(memoryview(segment)[begin:end])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    # --- opening -------------------------------------------------------------------------------------

    async def _open(self, offset: int) -> _OpenFile:
        """Learn the UEB: from the cache if the wanted segment is there, else from the first good share.

        Of a small file whole shares are read, enough of them at once.
        """
        async with self._opening:
            cap = self._cap
            if self._file is None:
                guess = chk.params_for(cap.size, cap.k, cap.n)
                self._file = await self._open_from_cache(offset // guess.segsize)
            if self._file is None:
                layout = chk.ShareLayout.for_params(guess)
                whole = layout.total_size(512)
                small = whole <= _WHOLE_SHARE
                await self._finder.gather(
                    cap.k if small else 1, whole, partial(self._open_share, whole if small else 0)
                )
            assert self._file is not None
            return self._file

    async def _open_share(self, size: int, share: ShareSource) -> None:
        """Open a share and check its UEB; `size` bytes of its beginning are held."""
        layout = await share.open(size)
        ueb = await share.read_ueb()
        chk.check_ueb(ueb, self._cap.ueb_hash)
        if self._file is None:
            self._file = _OpenFile(self._parsed(ueb), ueb, layout)

    async def _open_from_cache(self, segnum: int) -> _OpenFile | None:
        parts, index, ueb_hash = self._parts, self._index, self._cap.ueb_hash
        if parts is None or not kept.has_segment(parts, index, ueb_hash, segnum):
            return None
        found = kept.peek_at_segment(parts, index, ueb_hash, segnum)
        if found is None:
            look = partial(kept.get_segment, parts, index, ueb_hash, segnum)
            found = await trio.to_thread.run_sync(look)
        if found is None or hashing.ueb_hash(found[0]) != ueb_hash:
            return None
        file = _OpenFile(self._parsed(found[0]), found[0], None)
        file.at_hand = segnum, found[1]
        return file

    def _parsed(self, ueb: bytes) -> chk.Ueb:
        """A UEB that the cap pins. Its contents are the uploader's doing, not the fault of a share."""
        try:
            return chk.Ueb.parse(ueb, self._cap.k, self._cap.n, self._cap.size)
        except FormatError as error:
            raise NotEnoughSharesError(f"the file was uploaded with an unusable UEB: {error}") from error

    # --- segments ------------------------------------------------------------------------------------

    async def _segment(self, file: _OpenFile, segnum: int) -> Buffer:
        """A segment of plaintext; the fetch of it is under way or done."""
        key = (self._pin, segnum)
        while (segment := self._memory.get(key)) is None:
            fetch = self._memory.fetching.get(key)
            if fetch is None and file.params.num_segments == 1:
                fetch = await self._fetch_the_only_one(file)
            elif fetch is None:
                self._start(file, segnum, segnum)
                fetch = self._memory.fetching[key]
            if not fetch.done.is_set():
                await fetch.done.wait()
            if fetch.error is not None:
                raise fetch.error
            if segnum in fetch.segments:
                return fetch.segments[segnum]
        return segment

    async def _fetch_the_only_one(self, file: _OpenFile) -> Fetch:
        """Fetch the segment of a small file for a reader who waits for it, without a task in the background."""
        fetch = self._memory.fetching[self._pin, 0] = Fetch()
        try:
            await self._fetch(file, 0, 0, fetch)
        except trio.Cancelled:
            fetch.error = None  # whoever waits for it too fetches it again
            raise
        return fetch

    def _start(self, file: _OpenFile, first: int, last: int) -> None:
        """Start fetching those of the segments `first` to `last` that are neither here nor on their way."""
        memory, per_request = self._memory, file.segments_per_request
        run: list[int] = []
        for segnum in range(first, last + 1):
            key = (self._pin, segnum)
            absent = key not in memory and key not in memory.fetching
            if run and (not absent or len(run) == per_request):
                self._start_run(file, run)
                run = []
            if absent:
                run.append(segnum)
        if run and (len(run) == per_request or run[0] == first or last == file.params.num_segments - 1):
            # A short run at the far end is left to grow, so that requests stay large.
            self._start_run(file, run)

    def _start_run(self, file: _OpenFile, run: Sequence[int]) -> None:
        fetch = Fetch()
        for segnum in run:
            self._memory.fetching[self._pin, segnum] = fetch
        try:
            self._grid.start_soon(self._fetch, file, run[0], run[-1], fetch)
        except LafsError:
            self._ended(fetch, run[0], run[-1])
            raise

    async def _fetch(self, file: _OpenFile, first: int, last: int, fetch: Fetch) -> None:
        """Background task: bring a run of segments, from the cache or the grid, into memory."""
        fresh: dict[int, _Segment] = {}
        try:
            fetch.error = NotEnoughServersError("the grid was closed")
            await self._learn_leaves(file, first, last)
            fetch.segments = await self._from_cache(file, first, last)
            absent = [s for s in range(first, last + 1) if s not in fetch.segments]
            if absent:
                fresh = await self._from_grid(file, absent[0], absent[-1])
                fetch.segments.update({segnum: segment.plain for segnum, segment in fresh.items()})
            fetch.error = None
        except LafsError as error:
            fetch.error = error
        except Exception as error:
            # A bug must fail the reads that wait for this, not everything else that uses the grid.
            log.exception("fetching segments failed")
            fetch.error = LafsError(f"reading failed: {type(error).__name__}")
        finally:
            self._ended(fetch, first, last)
        if self._parts is not None:
            index, ueb_hash = self._index, self._cap.ueb_hash
            for segnum, segment in fresh.items():
                part = kept.segment_part(index, ueb_hash, segnum, file.ueb_bytes, segment.cipher)
                self._parts.keep(self._grid, part)

    def _ended(self, fetch: Fetch, first: int, last: int) -> None:
        for segnum in range(first, last + 1):
            key = (self._pin, segnum)
            self._memory.fetching.pop(key, None)
            if segnum in fetch.segments:
                self._memory.put(key, fetch.segments[segnum])
        fetch.done.set()

    # --- the disk cache ------------------------------------------------------------------------------

    async def _from_cache(self, file: _OpenFile, first: int, last: int) -> dict[int, Buffer]:
        """Those of the segments that are in the cache, checked and decrypted."""
        parts = self._parts
        if parts is None or (file.layout is not None and file.params.num_segments == 1):
            return {}  # a small file whose UEB was not there is not there itself
        if file.at_hand is not None and file.at_hand[0] == first == last:
            segment, file.at_hand = file.at_hand[1], None
            return await compute(len(segment), partial(self._checked, parts, file, {first: segment}))
        index, ueb_hash = self._index, self._cap.ueb_hash
        there = [s for s in range(first, last + 1) if kept.has_segment(parts, index, ueb_hash, s)]
        if not there:
            return {}
        return await trio.to_thread.run_sync(self._look, parts, file, there)

    def _look(self, parts: Keeper, file: _OpenFile, segnums: Sequence[int]) -> dict[int, Buffer]:
        found = ((s, kept.get_segment(parts, self._index, self._cap.ueb_hash, s)) for s in segnums)
        return self._checked(parts, file, {segnum: entry[1] for segnum, entry in found if entry is not None})

    def _checked(self, parts: Keeper, file: _OpenFile, segments: Mapping[int, Buffer]) -> dict[int, Buffer]:
        """The plaintext of those that are as they should be. The others are discarded."""
        good: dict[int, Buffer] = {}
        for segnum, segment in segments.items():
            if hashing.crypttext_segment_hash(segment) == file.leaves.get(segnum):
                good[segnum] = self._decrypted(file, segnum, segment)
            else:
                log.warning("a damaged part of the cache is discarded")
                kept.discard_segment(parts, self._index, self._cap.ueb_hash, segnum)
        return good

    def _decrypted(self, file: _OpenFile, segnum: int, segment: Buffer) -> Buffer:
        plain = bytearray(len(segment))
        aes.crypt_into(self._cap.key, segment, plain, segnum * file.params.segsize)
        return plain

    # --- hash tree -----------------------------------------------------------------------------------

    async def _learn_leaves(self, file: _OpenFile, first: int, last: int) -> None:
        """Have the ciphertext hashes of these segments, checked up to the root in the UEB."""
        if file.leaves.get(first) is not None and file.leaves.get(last) is not None:
            return
        async with self._learning:
            for segnum in sorted({first, last}):
                if file.leaves.get(segnum) is None:
                    await self._learn_group(file, file.leaves.group_of(segnum))

    async def _learn_group(self, file: _OpenFile, group: int) -> None:
        leaves, parts = file.leaves, self._parts
        row, top = leaves.row_range(group), leaves.top_range()
        if parts is not None and kept.has_leaves(parts, self._index, self._cap.ueb_hash, group):
            look = partial(kept.get_leaves, parts, self._index, self._cap.ueb_hash, group, row[1])
            found = await trio.to_thread.run_sync(look)
            try:
                if found is not None:
                    leaves.add(group, *found)
                    return
            except CorruptShareError:
                log.warning("a damaged part of the cache is not used")

        async def fetch(share: ShareSource) -> tuple[bytes, bytes]:
            at = (await share.open()).crypttext_tree
            checked_row = bytes(await share.read(at + row[0], row[1]))
            checked_top = bytes(await share.read(at + top[0], top[1])) if top[1] else b""
            await compute(2 * row[1], partial(leaves.add, group, checked_row, checked_top))
            return checked_row, checked_top

        (checked,) = (await self._finder.gather(1, row[1], fetch)).values()
        if parts is not None:
            part = kept.leaves_part(self._index, self._cap.ueb_hash, group, *checked)
            parts.keep(self._grid, part)

    # --- blocks --------------------------------------------------------------------------------------

    async def _from_grid(self, file: _OpenFile, first: int, last: int) -> dict[int, _Segment]:
        """The segments `first` to `last`, from k shares whose blocks give what the hash tree wants."""
        params = file.params
        start = first * params.block_size
        end = last * params.block_size + params.block_size_of(last)

        def look(share: ShareSource) -> Buffer | None:
            return None if share.layout is None else share.held(share.layout.data + start, end - start)

        async def fetch(share: ShareSource) -> Buffer:
            layout = share.layout or file.layout or await share.open()
            return await share.read(layout.data + start, end - start)

        while True:
            blocks: dict[ShareSource, Buffer] | None = self._finder.held(params.k, look)
            if blocks is None:
                blocks = await self._finder.gather(params.k, end - start, fetch)
            size = 2 * params.segsize * (last - first + 1)
            calls = [partial(self._decoded, file, s, first, blocks) for s in range(first, last + 1)]
            segments = await compute_all(size, calls)
            found = {first + i: segment for i, segment in enumerate(segments) if segment is not None}
            if len(found) == len(segments):
                for share in blocks:
                    share.forget()
                return found
            await self._find_culprits(list(blocks), first, last)

    def _decoded(
        self, file: _OpenFile, segnum: int, first: int, blocks: dict[ShareSource, Buffer]
    ) -> _Segment | None:
        """One segment from the blocks of a run that begins at `first`; None if it is wrong."""
        params = file.params
        at, size = (segnum - first) * params.block_size, params.block_size_of(segnum)
        numbers = [share.shnum for share in blocks]
        cut = [memoryview(data)[at : at + size] for data in blocks.values()]
        pieces = erasure.decode(params.k, params.n, cut, numbers)
        whole = pieces[0] if params.k == 1 else b"".join(pieces)
        cipher = memoryview(whole)[: params.segment_size(segnum)]
        if hashing.crypttext_segment_hash(cipher) != file.leaves.get(segnum):
            return None
        return _Segment(cipher, self._decrypted(file, segnum, cipher))

    async def _find_culprits(self, shares: Sequence[ShareSource], first: int, last: int) -> None:
        """Check shares that gave a wrong segment, each by its own hash tree, and take out the bad ones.

        NotEnoughSharesError if all are as they were uploaded: then no choice of shares helps.
        """
        verdicts = await together(*(partial(self._is_good, share, first, last) for share in shares))
        if all(verdicts):
            raise NotEnoughSharesError("the file was uploaded wrongly: its shares contradict its hashes")

    async def _is_good(self, share: ShareSource, first: int, last: int) -> bool:
        held, share.layout = share.layout, None
        share.forget()
        checked = ChkShare(share.server, self._cap.verify_cap(), share.shnum)
        try:
            await checked.blocks(first, last)
        except (ServerError, FormatError) as error:
            await self._finder.rejected(share, error)
            return False
        # Good after all: if its layout is another than that of the others, it was read at the wrong place.
        share.layout = (await checked.hashes()).layout
        return held == share.layout


class _Segment(NamedTuple):
    cipher: Buffer
    plain: Buffer


class _OpenFile:
    """What is known of a file after opening. `layout` is that of one of its shares, probably of all."""

    def __init__(self, ueb: chk.Ueb, ueb_bytes: bytes, layout: chk.ShareLayout | None) -> None:
        self.params = ueb.params
        self.ueb_bytes = ueb_bytes
        self.layout = layout
        self.at_hand: tuple[int, memoryview] | None = None  # a segment that came with the UEB, unchecked
        self.leaves = LeafHashes(ueb.params.num_segments, ueb.crypttext_root_hash)
        per_request = _REQUEST * ueb.params.k // ueb.params.segsize
        self.segments_per_request = min(_MOST_SEGMENTS, max(1, per_request))
