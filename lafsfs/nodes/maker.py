"""Caps -> nodes, and new objects on the grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping

from lafsfs.cache.segments import SegmentCache
from lafsfs.errors import BadCapError
from lafsfs.formats import caps, chk, rsa
from lafsfs.formats.packed import Packed
from lafsfs.grid.servers import Grid
from lafsfs.nodes.directory import Directory, Snapshot, immutable_snapshot, pack
from lafsfs.nodes.immutable import ImmutableFile
from lafsfs.nodes.literal import LiteralFile
from lafsfs.nodes.mutable import MutableFile
from lafsfs.nodes.slot import Memory, MutableCap, MutableSlot
from lafsfs.nodes.types import FileNode
from lafsfs.transfer.convergence import Beginning, of_large_file
from lafsfs.transfer.encoding import BytesContents, Contents
from lafsfs.transfer.keeper import keeper_of
from lafsfs.transfer.keypool import KeyPool
from lafsfs.transfer.leases import RenewResult, renew
from lafsfs.transfer.upload import Ledger, Source, upload

__all__ = ["FileNode", "NewDirectory", "NodeMaker"]


class NewDirectory:
    """A mutable directory that has a key and is not on the grid yet."""

    def __init__(self, key: rsa.SigningKey, slot: MutableSlot) -> None:
        self._key = key
        self._slot = slot

    @property
    def writekey(self) -> bytes:
        """The key under which the write caps of children are sealed."""
        return self._key.writekey

    async def publish(self, packed: Packed) -> tuple[Directory, Snapshot]:
        """Make the first version. NotEnoughServersError when it could not be placed."""
        pinned = await self._slot.create(self._key, BytesContents(await pack(packed)))
        return Directory(caps.DirCap(self._slot.cap), self._slot), Snapshot(pinned.version, packed, pinned)


class NodeMaker:
    """Makes nodes for one mount. `memory` is what is known of mutable objects, whichever node learnt it."""

    def __init__(self, grid: Grid, cache: SegmentCache | None, keypool: KeyPool) -> None:
        self._grid = grid
        self._cache = cache
        self._keypool = keypool
        self.memory = Memory()

    def keep_when(self, rests: Callable[[], bool]) -> None:
        """From now on what is read is written into the cache when `rests` says that programs do."""
        if self._cache is not None:
            keeper_of(self._grid, self._cache).rests = rests

    @property
    def floors(self) -> MutableMapping[bytes, int]:
        """Highest sequence number seen per storage index; to be kept across mounts by the caller."""
        return self.memory.floors

    # --- existing objects ----------------------------------------------------------------------------

    def file(self, cap: caps.FileCap) -> FileNode:
        """The file that a cap stands for. BadCapError for verify caps, which cannot be read."""
        if isinstance(cap, caps.LiteralCap):
            return LiteralFile(cap)
        if isinstance(cap, caps.ChkCap):
            return ImmutableFile(self._grid, self._cache, cap)
        if isinstance(cap, caps.MutableWriteCap | caps.MutableReadCap):
            return self.mutable_file(cap)
        raise BadCapError("a verify cap gives no access to the contents")

    def mutable_file(self, cap: MutableCap) -> MutableFile:
        """The mutable file that a cap stands for."""
        return MutableFile(MutableSlot(self._grid, cap, self.memory))

    def directory(self, cap: caps.DirCap) -> Directory:
        """The directory that a cap stands for. BadCapError for verify caps."""
        if isinstance(cap.file, caps.MutableWriteCap | caps.MutableReadCap):
            return Directory(cap, MutableSlot(self._grid, cap.file, self.memory))
        return Directory(cap, self.file(cap.file))

    def space(self) -> tuple[int, int]:
        """(bytes of files that fit on the grid, of which free), from what servers announced; 0 while unknown."""
        versions = [server.known_version for server in self._grid.servers]
        available = sum(version.available for version in versions if version is not None)
        encoding = self._grid.encoding
        free = available * encoding.k // encoding.n
        return free, free

    # --- new objects ---------------------------------------------------------------------------------

    async def upload(
        self,
        source: Source,
        ledger: Ledger | None = None,
        progress: Callable[[int], None] | None = None,
        literal_limit: int = chk.MAX_LITERAL_SIZE,
        known: Beginning | None = None,
    ) -> caps.ChkCap | caps.LiteralCap:
        """Upload an immutable file (see `transfer.upload.upload`)."""
        return await upload(
            self._grid,
            source,
            ledger=ledger,
            progress=progress,
            cache=self._cache,
            literal_limit=literal_limit,
            known=known,
        )

    def beginning(self) -> Beginning:
        """For who hashes a large immutable file while it is written."""
        return of_large_file(self._grid)

    async def create_mutable(self, data: bytes | Contents, mdmf: bool) -> MutableFile:
        """A new mutable file with these contents, published. NotEnoughServersError."""
        key = await self._keypool.take()
        slot = self._new_slot(key, mdmf)
        contents = BytesContents(data) if isinstance(data, bytes) else data
        return MutableFile.published(slot, await slot.create(key, contents))

    async def create_directory(
        self, make: Callable[[bytes], Packed], mdmf: bool = False
    ) -> tuple[Directory, Snapshot]:
        """A new mutable directory, published in one go. `make(writekey)` gives what is to be in it.

        NotEnoughServersError when it could not be placed.
        """
        new = await self.new_directory(mdmf)
        return await new.publish(make(new.writekey))

    async def new_directory(self, mdmf: bool = False) -> NewDirectory:
        """A new mutable directory that is to be published by the caller."""
        key = await self._keypool.take()
        return NewDirectory(key, self._new_slot(key, mdmf))

    async def create_immutable_directory(self, packed: Packed) -> tuple[Directory, Snapshot]:
        """A new immutable directory; its entries were made without a writekey. NotEnoughServersError."""
        cap = caps.DirCap(await self.upload(BytesContents(await pack(packed))))
        return self.directory(cap), immutable_snapshot(cap, packed)

    # --- what keeps them ----------------------------------------------------------------------------

    async def renew_leases(self, storage_indexes: Iterable[bytes]) -> RenewResult:
        """Renew, or add, our lease on every share (see `transfer.leases.renew`)."""
        return await renew(self._grid, storage_indexes)

    def _new_slot(self, key: rsa.SigningKey, mdmf: bool) -> MutableSlot:
        cap = caps.MutableWriteCap(key.writekey, key.public.fingerprint, mdmf)
        return MutableSlot(self._grid, cap, self.memory)
