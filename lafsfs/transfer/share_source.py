"""One immutable share on one server, as something to read from."""

from __future__ import annotations

from lafsfs.errors import CorruptShareError
from lafsfs.formats import chk
from lafsfs.grid.server import StorageServer

_TAIL = 256 << 10


class ShareSource:
    """Reads ranges of a share. `layout` is known after `open`.

    ServerError when the server fails, CorruptShareError when the bytes cannot be those of a share.
    """

    def __init__(self, server: StorageServer, storage_index: bytes, shnum: int) -> None:
        self.server = server
        self.shnum = shnum
        self.late = 0
        """How often others were asked because this one took too long."""
        self.layout: chk.ShareLayout | None = None
        self._storage_index = storage_index
        self._held: list[tuple[int, bytes]] = []

    def __repr__(self) -> str:
        return f"<ShareSource {self.shnum} on {self.server.name}>"

    @property
    def holds_something(self) -> bool:
        """Whether parts of it were read ahead."""
        return bool(self._held)

    async def open(self, size: int = 0) -> chk.ShareLayout:
        """Read the header; hold the first `size` bytes of the share, so that they are not fetched again."""
        if self.layout is None:
            head = await self._hold(0, max(size, chk.MAX_HEADER_SIZE))
            self.layout = chk.ShareLayout.parse(head)
        return self.layout

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """Exactly these bytes of the share."""
        held = self.held(offset, size)
        if held is not None:
            return held
        data = await self.server.read_immutable(self._storage_index, self.shnum, offset, size)
        if len(data) != size:
            raise CorruptShareError("the share is cut off")
        return data

    def held(self, offset: int, size: int) -> memoryview | None:
        """These bytes, if they were read ahead."""
        for start, data in self._held:
            if start <= offset and offset + size <= start + len(data):
                return memoryview(data)[offset - start : offset - start + size]
        return None

    async def read_ueb(self) -> bytes:
        """The UEB, unchecked. Holds the hash trees in front of it too, unless they are large."""
        layout = await self.open()
        ueb = self._ueb_in(self._held[-1]) if self._held else None
        if ueb is None:
            room = layout.length_size + chk.MAX_UEB_SIZE
            near = layout.ueb - _TAIL <= layout.crypttext_tree < layout.ueb
            start = layout.crypttext_tree if near else layout.ueb
            await self._hold(start, layout.ueb + room - start)
            ueb = self._ueb_in(self._held[-1])
        if ueb is None:
            raise CorruptShareError("the UEB is cut off")
        return ueb

    def _ueb_in(self, region: tuple[int, bytes]) -> bytes | None:
        """The UEB, if all of it is in that part of the share."""
        layout = self.layout
        assert layout is not None
        start, data = region
        at, size = layout.ueb - start, layout.length_size
        length = int.from_bytes(data[at : at + size], "big") if at >= 0 else 0
        if not 0 < length <= chk.MAX_UEB_SIZE or len(data) < at + size + length:
            return None
        return data[at + size : at + size + length]

    def forget(self) -> None:
        """Give back the memory of what is held."""
        self._held.clear()

    async def _hold(self, offset: int, size: int) -> bytes:
        data = await self.server.read_immutable(self._storage_index, self.shnum, offset, size)
        self._held.append((offset, data))
        return data
