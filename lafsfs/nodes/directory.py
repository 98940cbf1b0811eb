"""A directory: its contents as a `Packed`, and the next version of them.

What is in it is not interpreted here: entries are changed with `Packed.with_changes`, children understood
with `formats.dirnode.child_caps`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from lafsfs.errors import LafsError, ReadOnlyError, UncoordinatedWriteError
from lafsfs.formats import caps
from lafsfs.formats.packed import Packed
from lafsfs.nodes.slot import MutableSlot, Pinned
from lafsfs.nodes.types import FileNode
from lafsfs.transfer.encoding import BytesContents
from lafsfs.transfer.servermap import Version

_IN_THREAD = 256 << 10  # bytes of packed entries
_MAX_DIRECTORY = 1 << 30
_READ_ATTEMPTS = 20
"""A reader that loses this often against writers is told so."""


@dataclass(frozen=True)
class Snapshot:
    """The contents of one version. Keeps what a publish against it needs. `torn`: it cannot be read from the servers
    any more, nor can a newer one; this is the state that they were in.
    """

    version: Version
    packed: Packed = field(repr=False)
    pinned: Pinned | None = field(default=None, repr=False, compare=False)
    torn: bytes | None = field(default=None, repr=False, compare=False)

    @property
    def whole(self) -> bool:
        """Whether every server has of it what it should have, as far as is known to who just published it."""
        return self.settled and (self.pinned is None or not self.pinned.misses_servers)

    @property
    def rivalled(self) -> bool:
        """Whether somebody else wrote another version with the same number, at the same time."""
        return self.pinned is not None and self.pinned.rivalled

    @property
    def behind(self) -> frozenset[str]:
        """The ids of servers that showed something older beside it."""
        return self.pinned.behind if self.pinned is not None else frozenset()

    @property
    def settled(self) -> bool:
        """Whether no other version competes with this one. If not, publish again even without changes
        of one's own when an earlier publish ended in an UncoordinatedWriteError.
        """
        return self.torn is None and (self.pinned is None or self.pinned.settled)


class Directory:
    """A directory of any kind. One publish at a time; reading is always allowed."""

    def __init__(self, cap: caps.DirCap, source: MutableSlot | FileNode) -> None:
        self.cap = cap
        self._source = source

    @property
    def writable(self) -> bool:
        return self.writekey is not None

    @property
    def writekey(self) -> bytes | None:
        """The key under which the write caps of children are sealed; None for read-only caps."""
        return self._source.writekey if isinstance(self._source, MutableSlot) else None

    @property
    def deep_immutable(self) -> bool:
        """Whether this directory and all below can never change."""
        return not isinstance(self._source, MutableSlot)

    async def version(self) -> Version:
        """The newest version, by one small read of enough servers; none at all when it cannot change.

        NotEnoughSharesError, NotEnoughServersError; RollbackError when the grid offers less than was seen
        before.
        """
        if isinstance(self._source, MutableSlot):
            return await self._source.version()
        return _immutable_version(self._source.cap)

    async def read(self, *, older_ok: bool = False) -> Snapshot:
        """The newest version's contents.

        Errors as for `version`. When the newest version cannot be recovered but an older one can, the
        older is only given if `older_ok`. FormatError when the contents are no directory.
        """
        if isinstance(self._source, MutableSlot):
            return await self._read_mutable(self._source, older_ok)
        size = self._source.size
        assert size is not None
        data = await self._source.read(0, size)
        return Snapshot(_immutable_version(self._source.cap), await _parse(data))

    async def publish(self, base: Snapshot | None, packed: Packed) -> Snapshot:
        """Publish `packed` as the version after `base`, in one request per server while nobody else
        writes.

        None stands for a directory of which no version is recoverable. UncoordinatedWriteError when the
        grid holds anything else than `base`: then read, merge and publish again. ReadOnlyError without
        the write cap. NotEnoughServersError when fewer than k shares could be written. Nothing is retried
        here.
        """
        if not isinstance(self._source, MutableSlot) or self._source.writekey is None:
            raise ReadOnlyError("the directory is read-only")
        slot = self._source
        data = await pack(packed)
        if base is None or base.pinned is None:
            state = base.torn if base is not None else None
            pinned = await slot.replace_nothing(BytesContents(data), state)
        else:
            pinned = await slot.overwrite(base.pinned.header, base.pinned.servermap, BytesContents(data))
        return Snapshot(pinned.version, packed, pinned)

    async def everywhere(self) -> Pinned | None:
        """The newest version as all servers show it, those that do not answer left out; None for a directory that
        cannot change. Errors as for `version`.
        """
        return await self._source.pin_everywhere() if isinstance(self._source, MutableSlot) else None

    async def _read_mutable(self, slot: MutableSlot, older_ok: bool) -> Snapshot:
        for attempt in range(_READ_ATTEMPTS):
            pinned = await slot.pin(older_ok=older_ok)
            try:
                data = await _contents(slot, pinned)
            except UncoordinatedWriteError:
                # A later version took its place meanwhile: that one is what the caller wants.
                if attempt == _READ_ATTEMPTS - 1:
                    raise
            else:
                pinned.reader.close()
                return Snapshot(pinned.version, await _parse(data), pinned)
        raise AssertionError("not reached")


async def _contents(slot: MutableSlot, pinned: Pinned) -> bytes:
    failure: LafsError | None = None
    data = b""
    async with trio.open_nursery() as nursery:
        if slot.writekey is not None:
            # So that a publish does not have to fetch the key first. It tells its own errors then.
            nursery.start_soon(_prefetch_key, slot, pinned)
        try:
            data = await _whole(pinned)
            nursery.cancel_scope.deadline = trio.current_time() + 2.0
        except LafsError as error:  # raised below, for the nursery would wrap it in a group
            failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return data


async def _prefetch_key(slot: MutableSlot, pinned: Pinned) -> None:
    try:
        await slot.signing_key(pinned.servermap)
    except LafsError:
        return


async def _whole(pinned: Pinned) -> bytes:
    size = pinned.header.data_length
    return await pinned.reader.read(0, min(size, _MAX_DIRECTORY))


async def _parse(data: bytes) -> Packed:
    if len(data) < _IN_THREAD:
        return Packed.parse(data)
    return await trio.to_thread.run_sync(Packed.parse, data)


async def pack(packed: Packed) -> bytes:
    """The bytes of a directory, made in a thread when there are many entries."""
    if len(packed) < 1000:
        return packed.pack()
    return await trio.to_thread.run_sync(packed.pack)


def immutable_snapshot(cap: caps.DirCap, packed: Packed) -> Snapshot:
    """The only version of an immutable directory, which holds `packed`."""
    return Snapshot(_immutable_version(cap.file), packed)


def _immutable_version(cap: caps.FileCap) -> Version:
    if isinstance(cap, caps.ChkCap):
        return Version(0, cap.ueb_hash, cap.size)
    return Version(0, b"", cap.size if isinstance(cap, caps.LiteralCap) else 0)
