"""A cap of some future kind: carried along, never interpreted."""

from __future__ import annotations

from dataclasses import dataclass, field

from lafsfs.errors import BadCapError
from lafsfs.formats import dirnode


@dataclass(frozen=True)
class UnknownNode:
    """An entry whose caps nobody here understands. Shows as an empty file that cannot be opened."""

    rw_uri: bytes = field(repr=False)
    ro_uri: bytes = field(repr=False)

    @classmethod
    def of(cls, child: dirnode.Child) -> UnknownNode:
        return cls(child.rw_uri, child.ro_uri)

    @property
    def size(self) -> int:
        return 0

    async def read(self, offset: int, size: int) -> bytes:
        """BadCapError, always."""
        raise BadCapError("a capability of a kind that this version does not know")
