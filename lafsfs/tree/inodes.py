"""The inode table: what the kernel holds, what is open, what is changed."""

from __future__ import annotations

import hashlib
import secrets
import stat
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from lafsfs.tree.attributes import Attributes
from lafsfs.tree.glimpses import NOWHERE, Glimpse
from lafsfs.tree.links import Link, Links, with_link, without_link
from lafsfs.tree.staging import StagedFile

if TYPE_CHECKING:
    from lafsfs.tree.directories import Folder

ROOT = 1

T = TypeVar("T")

Caps = tuple[bytes, bytes]  # (rw_uri, ro_uri) as a directory entry holds them; b"" where there is none


class Inline:
    """Unpublished content small enough to live in the journal. `data` is a copy kept while the file is open."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | None) -> None:
        self.data = data


class Staged:
    """Unpublished content in a log of its own, over the content that `Inode.caps` stands for."""

    __slots__ = ("file",)

    def __init__(self, file: StagedFile) -> None:
        self.file = file


class Inode:
    """One file, directory or special file.

    `content` is None when the bytes are those of `caps`. `caps` is None when the object is not on the grid yet.
    `anchors` counts the inodes and glimpses in memory whose names are in this directory.
    `hint` is where a directory was when the journal last heard of it; it is no link, and may be out of date.
    `extra` holds metadata keys of other clients that must survive a rename. `pending` counts the changed edges that
    lead here; `stored` says whether the journal has a row. `version` grows with every change of content, `edition` with
    every change of what is said of it under its names.
    `born` is the name that a directory was made under, until others can know it. `lost` is the name that somebody else
    took from a file which is open for writing here, `alias` the number that its entries carry then. `followed`: another
    client changed the content, and the kernel may not know its size yet. `interim`: the caps are of what was there
    while the file was being written, and its names may go to the grid with them before it is finished.
    """

    __slots__ = (
        "__weakref__",
        "alias",
        "anchors",
        "attributes",
        "born",
        "caps",
        "content",
        "edition",
        "extra",
        "folder",
        "followed",
        "hint",
        "ino",
        "interim",
        "links",
        "lookups",
        "lost",
        "nlink",
        "opens",
        "pending",
        "stored",
        "version",
        "writers",
        "xattrs",
    )

    def __init__(self, ino: int, attributes: Attributes, caps: Caps | None, nlink: int = 1) -> None:
        self.ino = ino
        self.attributes = attributes
        self.caps = caps
        self.nlink = nlink
        self.links: Links = ()
        self.xattrs: dict[bytes, bytes] | None = None
        self.extra: bytes | None = None
        self.content: Inline | Staged | None = None
        self.folder: Folder | None = None
        self.hint: Link | None = None
        self.born: Link | None = None
        self.lost: Link | None = None
        self.alias: int | None = None
        self.followed = False
        self.interim = False
        self.anchors = 0
        self.lookups = 0
        self.opens = 0
        self.writers = 0
        self.pending = 0
        self.stored = False
        self.version = 0
        self.edition = 0

    def twin(self, number: int) -> Inode:
        """A new inode that is as this one is on the grid."""
        twin = Inode(number, self.attributes, self.caps, 2 if self.is_dir else 1)
        twin.xattrs, twin.extra = self.xattrs, self.extra
        return twin

    def as_now(self) -> Inode:
        """What an entry says of this inode now, whatever happens to it later."""
        copy = Inode(self.ino, self.attributes, self.caps, self.nlink)
        copy.xattrs, copy.extra = self.xattrs, self.extra
        copy.alias, copy.edition = self.alias, self.edition
        return copy

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.attributes[0])

    def is_file_at(self, directory: int, name: bytes) -> bool:
        """Whether it is no directory, and this name leads to it."""
        return (directory, name) in self.links and not stat.S_ISDIR(self.attributes[0])

    @property
    def read_cap(self) -> bytes:
        """What others read it by; empty as long as the grid does not have it."""
        return self.caps[1] if self.caps is not None else b""

    @property
    def first_link(self) -> Link | None:
        """The name that has led here for longest, if one is known."""
        return next(iter(self.links), None)

    @property
    def dirty(self) -> bool:
        """Whether the content, or the existence of a directory, is not on the grid yet."""
        return self.content is not None or self.caps is None

    @property
    def settled(self) -> bool:
        """Whether the object and, of a directory, all names in it are on the grid as they are here."""
        return not self.dirty and (self.folder is None or not self.folder.pending)

    @property
    def allocated(self) -> int:
        """Bytes that the content takes: holes take none as long as they are not published."""
        size = self.attributes.size
        if not isinstance(self.content, Staged):
            return size
        log = self.content.file
        return min(size, log.extents.live + log.base_limit)

    @property
    def unused(self) -> bool:
        """Whether nobody would miss this object: it can be built again from the grid."""
        # All known names of a file must follow its changes, so one with several is not forgotten.
        held = self.lookups > 0 or self.opens > 0 or self.anchors > 0 or len(self.links) > 1
        return not held and not self.stored and self.ino != ROOT

    @property
    def idle(self) -> bool:
        """Whether the kernel remembers this object, but nobody uses it, and all of it is on the grid."""
        used = self.opens or self.pending or self.stored or self.lookups <= 0
        return not used and not self.dirty

    @property
    def reducible(self) -> bool:
        """Whether it is idle, and nothing may be known of it but what its entry tells."""
        special = (self.alias, self.lost, self.born, self.hint) != (None, None, None, None)
        return self.idle and not special and not self.followed and not self.anchors and self.nlink == 1

    def row(self) -> list[object]:
        """The journal's form of this inode."""
        content: list[object] | None = None
        if isinstance(self.content, Inline):
            content = ["i"]
        elif isinstance(self.content, Staged):
            file = self.content.file
            content = ["s", file.name, file.first_size, file.first_limit, file.length]
        parent = (self.first_link or self.hint) if self.is_dir else None
        return [
            self.attributes,
            self.nlink,
            self.xattrs,
            self.extra,
            self.caps,
            content,
            parent,
            self.born,
        ]


class InodeTable:
    """All inodes in memory, by number, and glimpses of what else the kernel knows (glimpses.py)."""

    def __init__(self) -> None:
        self._inodes: dict[int, Inode] = {}
        self._glimpses: dict[int, Glimpse] = {}
        self.dropped: Callable[[int, int], None] = lambda ino, directory: None  # told of what is forgotten
        # 63 bits; 16 million numbers to the next start.
        self._last_number = (secrets.randbits(38) | 1 << 38) << 24

    def __len__(self) -> int:
        return len(self._inodes) + len(self._glimpses)

    @property
    def whole(self) -> int:
        """How many there are that are more than glimpses."""
        return len(self._inodes)

    def __iter__(self) -> Iterator[Inode]:
        return iter(self._inodes.values())

    def __contains__(self, ino: int) -> bool:
        return ino in self._inodes

    def get(self, ino: int) -> Inode | None:
        return self._inodes.get(ino)

    def add(self, inode: Inode) -> None:
        """Have an inode there; the references that the kernel has to a glimpse of it are its own from now on."""
        self._inodes[inode.ino] = inode
        glimpse = self._glimpses.pop(inode.ino, None)
        if glimpse is not None:
            inode.lookups += glimpse.lookups
            inode.followed = glimpse.is_lost
            if glimpse.link not in inode.links:  # a request that is under way may still have had it
                self._count_anchor(glimpse.directory, -1)

    def oldest(self, count: int) -> Iterator[Inode]:
        """So many inodes, those first that were added or given here longest ago."""
        return _oldest(self._inodes, count)

    # --- glimpses ------------------------------------------------------------------------------------

    def glimpse(self, ino: int) -> Glimpse | None:
        """What is known of a file of which there is no inode."""
        return self._glimpses.get(ino)

    def is_glimpsed(self, ino: int) -> bool:
        """Whether a glimpse is all there is of a number, and leads somewhere."""
        glimpse = self._glimpses.get(ino)
        return glimpse is not None and not glimpse.is_lost

    def glimpsed(self, ino: int, glimpse: Glimpse) -> None:
        """The kernel was told once more of a file of which there is no inode; `glimpse` as it was before."""
        before = self._glimpses.get(ino)
        if before is None or before.is_lost:
            self._count_anchor(glimpse.directory, +1)
        self._glimpses[ino] = glimpse.known(1)

    def reduce(self, inode: Inode, glimpse: Glimpse) -> None:
        """Keep nothing but a glimpse of a file that nobody uses."""
        self._count_anchor(glimpse.directory, +1)
        self._glimpses[inode.ino] = glimpse
        inode.lookups = 0
        self.drop_if_unused(inode)

    def lose_sight(self, ino: int) -> None:
        """What a glimpse was of is not under its name any more; the kernel still has its references."""
        glimpse = self._glimpses.get(ino)
        if glimpse is not None and not glimpse.is_lost:
            self._glimpses[ino] = Glimpse(NOWHERE, b"", glimpse.lookups, b"")
            self._release(glimpse.directory)

    def oldest_glimpses(self, count: int) -> Iterator[Link]:
        """The names of so many of those that were had or given here longest ago."""
        glimpses = _oldest(self._glimpses, count)
        return (glimpse.link for glimpse in glimpses if not glimpse.is_lost)

    # --- names ---------------------------------------------------------------------------------------

    def drop_if_unused(self, inode: Inode) -> None:
        """Forget an inode that can be built again, and the directories that only it held."""
        if not inode.unused or self._inodes.get(inode.ino) is not inode:
            return
        del self._inodes[inode.ino]
        if inode.first_link is not None:
            self.dropped(inode.ino, inode.first_link[0])
        for directory, _ in inode.links:
            self._release(directory)

    def link(self, inode: Inode, directory: int, name: bytes) -> None:
        """Remember that `name` in `directory` leads to `inode`."""
        link = (directory, name)
        if link not in inode.links:
            inode.links = with_link(inode.links, link)
            self._count_anchor(directory, +1)

    def unlink(self, inode: Inode, directory: int, name: bytes) -> None:
        """`name` in `directory` leads somewhere else now."""
        if (directory, name) in inode.links:
            inode.links = without_link(inode.links, (directory, name))
            self._release(directory)

    def _count_anchor(self, directory: int, more: int) -> None:
        parent = self._inodes.get(directory)
        if parent is not None:
            parent.anchors += more

    def _release(self, directory: int) -> None:
        parent = self._inodes.get(directory)
        if parent is not None:
            parent.anchors -= 1
            self.drop_if_unused(parent)

    def forget(self, ino: int, count: int) -> None:
        """The kernel gave up `count` references."""
        inode = self._inodes.get(ino)
        if inode is not None:
            inode.lookups -= count
            self.drop_if_unused(inode)
        else:
            self._forget_glimpse(ino, count)

    def _forget_glimpse(self, ino: int, count: int) -> None:
        glimpse = self._glimpses.get(ino)
        if glimpse is None:
            return
        if glimpse.lookups > count:
            self._glimpses[ino] = glimpse.known(-count)
            return
        del self._glimpses[ino]
        if not glimpse.is_lost:
            self.dropped(ino, glimpse.directory)
            self._release(glimpse.directory)

    def fresh_number(self) -> int:
        """A number never used before: a random start for every mount, then ascending (neighbours in the journal)."""
        while True:
            self._last_number += 1
            if self._last_number not in self._inodes and self._last_number not in self._glimpses:
                return self._last_number


def _oldest(table: dict[int, T], count: int) -> Iterator[T]:
    """The first `count` of a table, each of which becomes its last."""
    for number in list(islice(table, count)):
        one = table[number] = table.pop(number)
        yield one


def derived_number(directory: int, name: bytes) -> int:
    """The inode number of an entry that carries none: the same on every mount as long as it keeps its place."""
    key = directory.to_bytes(8, "big")
    digest = hashlib.blake2b(name, key=key, digest_size=8, person=b"lafsfs inode").digest()
    return max(int.from_bytes(digest, "big") >> 1, ROOT + 1)
