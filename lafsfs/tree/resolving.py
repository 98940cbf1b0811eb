"""From an entry of the grid to an inode: a new one, one that is known by another name, or one that was lost."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING, cast
from weakref import WeakSet

from lafsfs.errors import LafsError
from lafsfs.tree.change import Change, repend
from lafsfs.tree.directories import UNKNOWN, Folder
from lafsfs.tree.entries import directory_cap, see
from lafsfs.tree.glimpses import Glimpse
from lafsfs.tree.inodes import ROOT, Inode, InodeTable, derived_number
from lafsfs.tree.kernel import Kernel
from lafsfs.tree.links import Link
from lafsfs.tree.moves import above_itself, take_away
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.plain_entries import plain
from lafsfs.tree.seen import Seen

if TYPE_CHECKING:
    from lafsfs.tree.hard_links import HardLinks
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)


class Resolving:
    """The part of the tree that makes inodes from entries."""

    options: TreeOptions
    inodes: InodeTable
    hard_links: HardLinks
    kernel: Kernel
    lost_directories: WeakSet[Inode]
    """Removed by others, and not found by another name, but still known here. (What is forgotten and found again later
    is another object, with the same number.)
    """
    journalled: dict[Link, int]

    def resolve(self, folder: Folder, name: bytes) -> Inode | None:
        """The inode that a name leads to, made from its entry if need be; None if there is no such name."""
        kid = folder.kids.get(name)
        if kid is None:
            return None
        known = self.inodes.get(kid[1]) if kid[1] != UNKNOWN else None
        if known is not None and not known.is_dir and (folder.inode.ino, name) in known.links:
            return known  # as nearly all are when a directory is listed again
        raw = folder.base_raw(name)
        cap = directory_cap(raw) if raw is not None and name not in folder.pending else None
        if cap is not None:
            above = above_itself(cast("Tree", self), folder, cap)
            if above is not None:
                self._orphan(folder, name, known)
                if take_away(cast("Tree", self), folder, name, above):
                    return None
                known = known if known is not None and known.folder is None else None
        if known is not None and (
            (folder.inode.ino, name) in known.links or name in folder.pending or raw is None
        ):
            self.inodes.link(known, folder.inode.ino, name)
            return known
        # A number that was given up may have gone to another entry that carries it since.
        if raw is None:
            raise OSError(errno.EIO, "an entry without an object")
        return self._from_grid(folder, name, self.see(folder, raw))

    def known(self, number: int, besides: Link | None = None) -> Inode | None:
        """The inode with this number, made from a glimpse if there is one, by another name than `besides`."""
        inode = self.inodes.get(number)
        glimpse = self.inodes.glimpse(number) if inode is None else None
        if glimpse is None or (besides is not None and glimpse.leads(*besides)):
            return inode
        above = self.inodes.get(glimpse.directory)
        if above is None or above.folder is None:
            return None
        above.anchors += 1
        self.inodes.lose_sight(number)  # if it is found, it takes the references of the kernel over
        try:
            inode = self.resolve(above.folder, glimpse.name)
        except OSError as problem:
            log.debug("a file that was listed cannot be found again: %s", problem.strerror)
        above.anchors -= 1
        self.inodes.drop_if_unused(above)
        if inode is None or inode.ino != number:
            return None
        inode.followed = False  # the kernel was told what it shows
        return inode

    def glimpse(self, folder: Folder, name: bytes, number: int) -> tuple[int, Glimpse] | None:
        """What a name leads to, its number first, if no inode is needed to tell. The kernel has to be told of it, and
        `InodeTable.glimpsed` then. `number` is the one that the name has, of which there is no inode, or UNKNOWN.
        """
        if name in folder.pending:
            return None
        link = folder.inode.ino, name
        before = self.inodes.glimpse(number)
        if before is not None and before.name == name and before.directory == link[0]:
            return number, before
        raw = folder.base_raw(name)
        seen = plain(raw) if raw is not None else None
        if seen is None or seen.ino is None or seen.ino <= ROOT or seen.nlink != 1:
            return None
        if number not in (UNKNOWN, seen.ino) or seen.ino in self.inodes:
            return None
        before = self.inodes.glimpse(seen.ino)
        if before is not None and not before.leads(*link):
            return None
        if number == UNKNOWN:
            folder.show(name, seen.ino)
        return seen.ino, Glimpse.of(link, seen.attributes, before.lookups if before else 0)

    def reduce(self, inode: Inode) -> bool:
        """Keep nothing but a glimpse of an inode, if its entry tells all that there is to know of it."""
        link = inode.first_link
        above = self.inodes.get(link[0]) if link is not None and len(inode.links) == 1 else None
        folder = above.folder if above is not None else None
        if link is None or folder is None or not inode.reducible or link[1] in folder.pending:
            return False
        if folder.kids.get(link[1], (0, UNKNOWN))[1] != inode.ino:
            return False
        raw = folder.base_raw(link[1])
        seen = plain(raw) if raw is not None else None
        if seen != Seen(inode.attributes, inode.caps or (b"", b""), inode.ino, 1, inode.xattrs, inode.extra):
            return False
        self.inodes.reduce(inode, Glimpse.of(link, inode.attributes, inode.lookups))
        return True

    def _orphan(self, folder: Folder, name: bytes, known: Inode | None) -> None:
        """A name turns out to lead to a directory above it: no inode is found by that name any more."""
        if known is None or known.folder is None:
            return
        self.inodes.unlink(known, folder.inode.ino, name)
        folder.show(name, UNKNOWN)
        if not known.links and known.nlink > 0 and known.ino != ROOT:
            known.nlink = 0
            self.lost_directories.add(known)

    def see(self, folder: Folder, raw: bytes) -> Seen:
        return see(raw, folder.node.writekey if folder.node is not None else None, self.options)

    def _from_grid(self, folder: Folder, name: bytes, seen: Seen) -> Inode:
        directory = folder.inode.ino
        number = (self._journalled(directory, name, seen) if self.journalled else None) or seen.ino
        link = directory, name
        there = self.known(number, link) if number else None
        if number is None or number <= ROOT or (there is not None and not self._is_same(there, seen)):
            number = derived_number(directory, name)
            there = self.known(number, link)
        if there is not None and not self._is_same(there, seen):
            number = self.inodes.fresh_number()
            there = None
        if there is None:
            there = self._made(number, seen)
        elif there.nlink <= 0:
            there.nlink = seen.nlink or (2 if seen.attributes.is_dir else 1)
            there.lost = None
            ours = there not in self.lost_directories
            self.lost_directories.discard(there)
            if ours and there.folder is not None and there.folder.pending:
                # What we removed in it before we removed it itself is not removed now.
                for gone in list(there.folder.pending):
                    repend(self.inodes, there.folder, gone, None)
                there.folder.start_over(there.folder.node)
            self._take(there, seen)
        others = there.links
        folder.show(name, number)
        self.inodes.link(there, directory, name)
        if there.is_dir:
            self._take(there, seen)  # what is known, or journalled, may be older than the entry
        elif seen.attributes.ctime != there.attributes.ctime:
            self._reconcile(there, seen, bool(others))
        return there

    def _journalled(self, directory: int, name: bytes, seen: Seen) -> int | None:
        """The number of a directory that the journal has changes for; the entry may carry another one."""
        number = self.journalled.pop((directory, name), None)
        inode = self.inodes.get(number) if number is not None else None
        return number if inode is not None and not inode.links and self._is_same(inode, seen) else None

    def _made(self, number: int, seen: Seen) -> Inode:
        """A new inode as its entry says, or as its anchor does if that tells of later changes."""
        several = (seen.nlink or 1) > 1 and not seen.attributes.is_dir
        anchor = self.hard_links.state(number) if several else None
        if anchor is not None and anchor.attributes.ctime > seen.attributes.ctime:
            seen = anchor
        inode = Inode(number, seen.attributes, seen.caps, seen.nlink or (2 if seen.attributes.is_dir else 1))
        inode.xattrs, inode.extra = seen.xattrs, seen.extra
        self.inodes.add(inode)
        if several:
            self.hard_links.attach(inode)
        return inode

    def _is_same(self, inode: Inode, seen: Seen) -> bool:
        """Whether an entry that carries the number of `inode` is a further name of it, or a lost name found again."""
        if inode.is_dir != seen.attributes.is_dir:
            return False
        if inode.links:
            several = inode.nlink > 1 or self.hard_links.has_anchor(inode)
            return not inode.is_dir and several and (seen.nlink or 1) > 1
        if inode.content is not None and not inode.stored:
            return False  # somebody has it open still, removed and changed
        same = inode.read_cap == seen.caps[1]
        if inode.is_dir:
            return same and (inode.nlink > 0 or not inode.stored)
        return same or not (inode.stored or inode.opens)

    def _reconcile(self, inode: Inode, seen: Seen, other_names: bool) -> None:
        """A name tells another state of a file than is known: the later change of the two counts for all names."""
        if not inode.stored and (seen.attributes.ctime > inode.attributes.ctime or not other_names):
            self._take(inode, seen)
        if other_names and not self.options.read_only:
            try:
                change = Change(cast("Tree", self))
                change.touch(inode)
                self.hard_links.tidy(change, inode, self.hard_links.count(inode))
                change.commit()
            except LafsError as problem:
                log.warning("the names of a file could not be brought together: %s", problem)

    def follow(self, inode: Inode, seen: Seen) -> None:
        """Another name of a file tells of a later change: it holds here, too, but for what we changed ourselves."""
        if not inode.stored and not (inode.opens and inode.caps != seen.caps):
            self._take(inode, seen)

    def _take(self, inode: Inode, seen: Seen) -> None:
        content = inode.caps != seen.caps
        inode.attributes, inode.caps, inode.xattrs, inode.extra = (
            seen.attributes,
            seen.caps,
            seen.xattrs,
            seen.extra,
        )
        if seen.nlink and not inode.is_dir:
            inode.nlink = seen.nlink
        inode.version += content
        inode.followed |= content
        self.kernel.inode_changed(inode.ino, content)
