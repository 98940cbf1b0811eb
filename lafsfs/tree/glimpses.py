"""Files that the kernel knows from a listing, or from longer ago, and that nobody is using: there may be very many.

Of such a file no inode is kept, but a glimpse: the name that leads to it, what stat shows, and how many references the
kernel has. That takes a third of the memory. Whoever asks for more gets an inode, made anew from the entry.
Only immutable files on the grid that have one name, no extended attributes, and nothing unpublished are treated so.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

from lafsfs.tree.attributes import Attributes
from lafsfs.tree.links import Link

NOWHERE = 0  # the directory of a glimpse whose name leads to something else now
_ATTRIBUTES = struct.Struct("<IIIIQqqqq")


class Glimpse(NamedTuple):
    """One file. `packed` are its attributes."""

    directory: int
    name: bytes
    lookups: int
    packed: bytes

    @classmethod
    def of(cls, link: Link, attributes: Attributes, lookups: int = 0) -> Self:
        return cls(*link, lookups, _ATTRIBUTES.pack(*attributes))

    @property
    def fields(self) -> tuple[int, ...]:
        """The attributes as a plain tuple."""
        return _ATTRIBUTES.unpack(self.packed)

    @property
    def attributes(self) -> Attributes:
        return Attributes._make(_ATTRIBUTES.unpack(self.packed))

    @property
    def link(self) -> Link:
        return self.directory, self.name

    @property
    def is_lost(self) -> bool:
        """Whether its name leads to something else now."""
        return self.directory == NOWHERE

    def leads(self, directory: int, name: bytes) -> bool:
        """Whether this name leads there, or none that is known does."""
        mine = self.directory
        return (mine == directory and self.name == name) or mine == NOWHERE

    def known(self, more: int) -> Glimpse:
        """The same when the kernel has so many references more."""
        return Glimpse(self.directory, self.name, self.lookups + more, self.packed)
