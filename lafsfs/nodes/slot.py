"""A mutable slot: what mutable files and directories have in common (formats.md 6).

Knows the newest version seen (nothing older is believed), the signing key once it was needed, and the
versions that this process tried to write and failed to complete.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field

from lafsfs.errors import (
    FormatError,
    NotEnoughServersError,
    NotEnoughSharesError,
    ReadOnlyError,
    ServerError,
    UncoordinatedWriteError,
)
from lafsfs.formats import caps, mutable_share, rsa
from lafsfs.formats.mdmf import MdmfHeader
from lafsfs.formats.mutable import SALT_SIZE, Header
from lafsfs.grid.servers import Grid
from lafsfs.transfer.encoding import Contents, NewShares
from lafsfs.transfer.publish import Publisher
from lafsfs.transfer.retrieve import ShareReader, VersionReader
from lafsfs.transfer.servermap import ServerMap, Version
from lafsfs.transfer.survey import LIGHT_HEAD, READ_HEAD, Mode, Target, survey
from lafsfs.transfer.update import Patch, encode_patch, may_patch, touched_segments

_MAX_PATCH = 16 << 20  # more than so many bytes are published as a whole
MutableCap = caps.MutableWriteCap | caps.MutableReadCap


@dataclass
class Memory:
    """What is remembered of all slots of a mount.

    `floors`: highest sequence number seen per storage index; whoever keeps it across mounts fills and
    saves it. `written`: the last version that this mount wrote, of the slots that it wrote lately.
    """

    floors: MutableMapping[bytes, int] = field(default_factory=dict)
    keys: OrderedDict[bytes, rsa.SigningKey] = field(default_factory=OrderedDict, repr=False)
    max_keys: int = 512
    written: OrderedDict[bytes, Version] = field(default_factory=OrderedDict)
    max_written: int = 1024

    def saw(self, storage_index: bytes, seqnum: int) -> None:
        if seqnum > self.floors.get(storage_index, 0):
            self.floors[storage_index] = seqnum

    def wrote(self, storage_index: bytes, version: Version) -> None:
        self.written[storage_index] = version
        self.written.move_to_end(storage_index)
        while len(self.written) > self.max_written:
            self.written.popitem(last=False)

    def keep_key(self, storage_index: bytes, key: rsa.SigningKey) -> None:
        self.keys[storage_index] = key
        self.keys.move_to_end(storage_index)
        while len(self.keys) > self.max_keys:
            self.keys.popitem(last=False)


@dataclass(frozen=True)
class Pinned:
    """One version, where its shares are, and how to read it."""

    header: Header
    servermap: ServerMap = field(repr=False)
    reader: VersionReader = field(repr=False)
    rivalled: bool = False
    """Whether somebody else wrote another version with this number. One of the two knows, and goes on from both."""

    @property
    def version(self) -> Version:
        return Version.of(self.header)

    @property
    def settled(self) -> bool:
        """Whether all n shares are of this version and no server shows another one.

        After an UncoordinatedWriteError of ours, a version that is not settled may still lose against
        another: what is in it is only safe once it was published again (formats.md 6.5, *modify*).
        """
        shares = self.servermap.shares.values()
        numbers = {share.shnum for share in shares}
        return len(numbers) == self.header.n and all(share.header == self.header for share in shares)

    @property
    def behind(self) -> frozenset[str]:
        """The ids of servers that show something older, or corrupt, beside this version."""
        return frozenset(
            server_id
            for (server_id, _), share in self.servermap.shares.items()
            if share.header is None or share.header.order < self.header.order
        )

    @property
    def complete(self) -> bool:
        """Whether all n shares were found."""
        return len({share.shnum for share in self.servermap.shares_of(self.header)}) == self.header.n

    @property
    def misses_servers(self) -> bool:
        """Whether servers failed: they may have something older."""
        return bool(self.servermap.failed)

    @property
    def is_hopeless(self) -> bool:
        """Whether servers that failed are put aside for now."""
        return any(server.health.quarantined for server in self.servermap.failed.values())


class MutableSlot:
    """One mutable file on the grid. Not for two writers at once: the caller takes turns."""

    def __init__(self, grid: Grid, cap: MutableCap, memory: Memory) -> None:
        self.cap = cap
        self._grid = grid
        self._memory = memory
        self._readkey = cap.readkey
        self._target = Target.of(cap)
        self._known: ServerMap | None = None
        self._failed_writes: set[Header] = set()
        self.before_sending: Callable[[Version], None] | None = None

    @property
    def writekey(self) -> bytes | None:
        return self._target.writekey

    @property
    def _floor(self) -> int:
        return self._memory.floors.get(self._target.storage_index, 0)

    # --- reading -------------------------------------------------------------------------------------

    async def version(self) -> Version:
        """The newest version, by the headers of enough shares: one small read from each server.

        Errors as for `pin`.
        """
        floor = (
            self._floor
        )  # what is published meanwhile, by another name perhaps, need not be in the answers
        found = await self._survey(Mode.READ, LIGHT_HEAD)
        header = found.require_best(floor, self._failed_writes)
        self._saw(header)
        return Version.of(header)

    async def pin(self, *, older_ok: bool = False) -> Pinned:
        """The newest version, ready to be read.

        NotEnoughSharesError or NotEnoughServersError when the newest version cannot be recovered; an
        older one is given only when `older_ok`. RollbackError when it is older than one that was seen
        before.
        """
        # A writer learns at once where all shares are, so that it can publish without asking again.
        mode = Mode.WRITE if self.writekey is not None else Mode.READ
        return await self._pin(mode, older_ok)

    async def pin_everywhere(self) -> Pinned:
        """As `pin`, and every server was asked: what a server that answered does not show is not there."""
        return await self._pin(Mode.ALL, older_ok=False)

    async def _pin(self, mode: Mode, older_ok: bool) -> Pinned:
        floor = self._floor  # as in `version`
        found = await self._survey(mode, READ_HEAD)
        header = found.require_best(floor, self._failed_writes, older_ok=older_ok)
        self._saw(header)
        self._known = found
        return self._pinned(header, found)

    def _pinned(self, header: Header, servermap: ServerMap) -> Pinned:
        async def ask_all() -> ServerMap:
            return await self._survey(Mode.ALL, READ_HEAD)

        reader = VersionReader(self._target, self._readkey, header, servermap, ask_all)
        return Pinned(header, servermap, reader, servermap.has_rival(header, self._failed_writes))

    async def _survey(self, mode: Mode, head: int) -> ServerMap:
        return await survey(
            self._grid,
            self._target,
            mode,
            head=head,
            floor=self._floor,
            known=self._known,
            forgiven=self._failed_writes,
        )

    def _saw(self, header: Header) -> None:
        self._memory.saw(self._target.storage_index, header.seqnum)

    # --- writing -------------------------------------------------------------------------------------

    async def signing_key(self, servermap: ServerMap) -> rsa.SigningKey:
        """The private key, from memory or from any share. ReadOnlyError without the write cap."""
        if self._target.writekey is None:
            raise ReadOnlyError("the capability does not allow writing")
        key = self._memory.keys.get(self._target.storage_index)
        if key is None:
            key = await self._fetch_key(servermap, self._target.writekey)
            self._memory.keep_key(self._target.storage_index, key)
        return key

    async def _fetch_key(self, servermap: ServerMap, writekey: bytes) -> rsa.SigningKey:
        shares = sorted(
            servermap.good(), key=lambda pair: pair[1].sections.encprivkey.end > len(pair[0].head)
        )
        unreachable = bool(servermap.failed)
        for share, header in shares:
            try:
                sealed = await ShareReader(share, header, self._target).read(header.sections.encprivkey)
                return rsa.unseal(bytes(sealed), writekey)
            except ServerError:
                unreachable = True
            except FormatError:
                await share.server.advise_corrupt(
                    "mutable", self._target.storage_index, share.shnum, "private key is wrong"
                )
        kind = NotEnoughServersError if unreachable else NotEnoughSharesError
        raise kind("the private key could not be read from any share")

    async def create(self, key: rsa.SigningKey, contents: Contents) -> Pinned:
        """Publish version 1 of a file that nobody knows yet; `key` is new."""
        self._memory.keep_key(self._target.storage_index, key)
        fresh = ServerMap(self._target.fingerprint)
        fresh.complete = True
        encoding = self._grid.encoding
        return await self._publish_all(fresh, contents, encoding.k, encoding.n, unknown=True)

    async def overwrite(self, base: Header | None, servermap: ServerMap, contents: Contents) -> Pinned:
        """Publish the next version over `base`, which `servermap` shows.

        `base` None: only where no version is recoverable. UncoordinatedWriteError when the grid holds another
        version, before or while writing; NotEnoughServersError when too few shares could be written.
        """
        servermap = await self._writable_map(base, servermap)
        encoding = self._grid.encoding
        k, n = (base.k, base.n) if base is not None else (encoding.k, encoding.n)
        return await self._publish_all(servermap, contents, k, n)

    async def replace_nothing(self, contents: Contents, state: bytes | None = None) -> Pinned:
        """Publish where no version is recoverable, whatever remains of earlier ones.

        UncoordinatedWriteError when there is a recoverable version after all, or the servers do not show the `state`
        (of a ServerMap) that was expected; NotEnoughServersError when servers do not answer, which might hold one.
        """
        found = await self._survey(Mode.ALL, READ_HEAD)
        if found.best() is not None or state not in (None, found.state()):
            raise UncoordinatedWriteError("there is a version that was not known")
        if found.failed:
            raise NotEnoughServersError("servers that may hold the newest version do not answer")
        return await self.overwrite(None, found, contents)

    async def patch(self, base: Header, servermap: ServerMap, patch: Patch) -> Pinned | None:
        """Write into the middle. None when that is not possible or no gain, and `overwrite` has to be
        used.
        """
        servermap = await self._writable_map(base, servermap)
        if not isinstance(base, MdmfHeader) or not may_patch(base, servermap):
            return None
        count = len(touched_segments(base, patch))
        if count * base.segment_size > _MAX_PATCH:
            return None
        key = await self.signing_key(servermap)
        reader = VersionReader(self._target, self._readkey, base, servermap)
        encoded = await encode_patch(
            reader, base, servermap, self._target, self._readkey, key, servermap.highest_seqnum() + 1, patch
        )
        if encoded is None:
            return None
        publisher = Publisher(
            self._grid,
            self._target,
            servermap,
            encoded.header,
            lambda shnum: encoded.parts[shnum],
            encoded.size,
            partial=True,
            happy=self._grid.encoding.happy,
        )
        return await self._run(publisher, encoded.header)

    async def _writable_map(self, base: Header | None, servermap: ServerMap) -> ServerMap:
        """A map good enough for writing that still shows `base` as the newest version."""
        if not servermap.complete or self._misses_servers(servermap):
            servermap = await self._survey(Mode.WRITE, READ_HEAD)
        if servermap.best(self._failed_writes) != base:
            raise UncoordinatedWriteError("the newest version is not the one that was changed")
        return servermap

    def _misses_servers(self, servermap: ServerMap) -> bool:
        """Whether so many servers did not answer when the map was made that they are wanted now."""
        usable = self._grid.for_upload(self._target.storage_index)
        there = sum(server.server_id not in servermap.failed for server in usable)
        return bool(servermap.failed) and there < self._grid.encoding.happy

    async def _publish_all(
        self, servermap: ServerMap, contents: Contents, k: int, n: int, *, unknown: bool = False
    ) -> Pinned:
        key = await self.signing_key(servermap)
        seqnum = max(servermap.highest_seqnum(), self._floor) + 1
        # One salt serves an SDMF file; MDMF takes a new one for each segment by itself.
        planned = mutable_share.plan(
            self.cap.mdmf, seqnum, k, n, contents.size, key, secrets.token_bytes(SALT_SIZE)
        )
        with NewShares(planned, key, self._readkey) as shares:
            await shares.encode(contents)
            publisher = Publisher(
                self._grid,
                self._target,
                servermap,
                shares.header,
                shares.writes,
                shares.share_size,
                unknown=unknown,
                happy=self._grid.encoding.happy,
            )
            return await self._run(publisher, shares.header)

    async def _run(self, publisher: Publisher, header: Header) -> Pinned:
        self._failed_writes.add(header)
        if self.before_sending is not None:
            self.before_sending(Version.of(header))
        after = await publisher.run()
        self._failed_writes.clear()
        self._saw(header)
        self._memory.wrote(self._target.storage_index, Version.of(header))
        self._known = after
        return self._pinned(header, after)
