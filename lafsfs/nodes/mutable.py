"""A mutable file: read a pinned version, overwrite, write into the middle."""

from __future__ import annotations

from collections.abc import Callable

from lafsfs.errors import UncoordinatedWriteError
from lafsfs.formats.mdmf import MdmfHeader
from lafsfs.nodes.slot import MutableCap, MutableSlot, Pinned
from lafsfs.transfer.encoding import BytesContents, Contents
from lafsfs.transfer.servermap import Version
from lafsfs.transfer.update import Patch


class MutableFile:
    """A mutable file (SDMF or MDMF). `read` keeps to one version until `latest` is called.

    Errors of reading: NotEnoughSharesError, NotEnoughServersError, RollbackError. Of writing also
    ReadOnlyError and UncoordinatedWriteError. Writers take turns; the object does not lock.
    """

    def __init__(self, slot: MutableSlot) -> None:
        self._slot = slot
        self._pinned: Pinned | None = None

    @classmethod
    def published(cls, slot: MutableSlot, pinned: Pinned) -> MutableFile:
        """The node of a file that was just created."""
        node = cls(slot)
        node._pinned = pinned
        return node

    @property
    def cap(self) -> MutableCap:
        return self._slot.cap

    @property
    def writable(self) -> bool:
        return self._slot.writekey is not None

    def tell_before_sending(self, tell: Callable[[Version], None]) -> None:
        """Have `tell` called with every new version just before it goes to the servers."""
        self._slot.before_sending = tell

    @property
    def size(self) -> int | None:
        """Bytes of the pinned version; None before the first read."""
        return None if self._pinned is None else self._pinned.header.data_length

    @property
    def pinned(self) -> Version | None:
        """The version that `read` reads, if there is one yet."""
        return None if self._pinned is None else self._pinned.version

    @property
    def state(self) -> bytes | None:
        """What the servers held when the pinned version was found: the `state` of a NotEnoughSharesError then."""
        return None if self._pinned is None else self._pinned.servermap.state()

    async def newest(self) -> Version:
        """The newest version on the grid, by a small read; `read` keeps to the pinned one."""
        return await self._slot.version()

    async def latest(self, *, older_ok: bool = False) -> Version:
        """Pin the newest version, or with `older_ok` the newest that can be recovered, and return it."""
        self._pinned = await self._slot.pin(older_ok=older_ok)
        return self._pinned.version

    async def read(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes of the pinned version, fewer only at its end."""
        pinned = await self._pin()
        return await pinned.reader.read(offset, size)

    async def overwrite(self, data: bytes | Contents, base: Version | None) -> Version:
        """Replace everything; the new version, which is pinned then.

        With `base` only that version is replaced (UncoordinatedWriteError when the newest is another
        one); None replaces whatever is the newest.
        """
        contents = data if not isinstance(data, bytes) else BytesContents(data)
        pinned = await self._base(base)
        self._pinned = await self._slot.overwrite(pinned.header, pinned.servermap, contents)
        return self._pinned.version

    async def update(
        self, offset: int, data: bytes, base: Version | None, new_size: int | None = None
    ) -> Version:
        """Write `data` at `offset`, and make the file `new_size` bytes long if that is given.

        A gap behind the old end is filled with zeros. Of an MDMF file only the touched segments travel,
        when that is safe; else the whole file is written. `base` as for `overwrite`.
        """
        if new_size is None:
            old_size = (await self._base(base)).header.data_length
            new_size = max(old_size, offset + len(data)) if data else old_size
        view = memoryview(data)[: max(0, new_size - offset)]
        return await self.patch(Patch(offset, view, new_size), base)

    async def patch(self, patch: Patch, base: Version | None) -> Version:
        """As `update`, with several pieces at once."""
        pinned = await self._base(base)
        done = None
        if isinstance(pinned.header, MdmfHeader):
            done = await self._slot.patch(pinned.header, pinned.servermap, patch)
        if done is None:
            contents = _Patched(pinned, patch)
            done = await self._slot.overwrite(pinned.header, pinned.servermap, contents)
        self._pinned = done
        return done.version

    async def _pin(self) -> Pinned:
        if self._pinned is None:
            self._pinned = await self._slot.pin()
        return self._pinned

    async def _base(self, base: Version | None) -> Pinned:
        """The version to write on: the pinned one if it is `base`, else the newest."""
        pinned = self._pinned
        if base is not None and pinned is not None and pinned.version == base:
            return pinned
        pinned = await self._slot.pin()
        if base is not None and pinned.version != base:
            raise UncoordinatedWriteError("the newest version is not the one that was changed")
        return pinned


class _Patched:
    """The contents of a version with a patch applied, read as needed."""

    def __init__(self, pinned: Pinned, patch: Patch) -> None:
        self._pinned = pinned
        self._patch = patch
        self.size = patch.new_size

    async def read_into(self, offset: int, buf: memoryview) -> None:
        patch = self._patch
        piece = bytearray(len(buf))
        if not patch.covers(offset, offset + len(buf)):
            old = await self._pinned.reader.read(offset, len(buf))
            piece[: len(old)] = old
        patch.apply(offset, piece)
        buf[:] = piece
