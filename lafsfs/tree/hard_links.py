"""Files with several names (contrib/doc/adr/hard-links.md).

Each name's entry carries the file's whole state, and the same inode number. A change reaches the entries of all names
whose directories are loaded. So that it counts for the others as well, a file with several names has one more entry,
its *anchor*, in a directory of the root that the mount does not show; it is loaded with the root and changes with the
file. Of two entries that carry the same number, the one with the later ctime tells the state of the file.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lafsfs.errors import LafsError
from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.change import Change
from lafsfs.tree.directories import LINKS_DIRECTORY, Folder
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.links import Link
from lafsfs.tree.seen import Seen

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)


class HardLinks:
    """The anchors of one tree. Without them (a root that cannot be written, servers that do not answer) all goes on,
    but a name in a directory that is not loaded may show an older state of its file.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._kept: Folder | None = None
        self._homeless: list[Inode] = []  # their anchors went with our directory

    @property
    def _folder(self) -> Folder | None:
        kept = self._kept
        return kept if kept is not None and kept.loaded and kept.inode.nlink > 0 else None

    # --- the hidden directory ------------------------------------------------------------------------

    async def open(self) -> None:
        """Load the anchors if there are any; the root is loaded."""
        await self._find()
        if self._folder is not None:
            for inode in list(self._tree.inodes):
                self.attach(inode)

    async def refresh(self, inode: Inode) -> None:
        """Bring a file with several names up to date, as fresh as the mount's `refresh` option says."""
        if self._folder is None:
            await self._find()
        elif self._kept is not None:
            await self._tree.folder(self._kept.inode.ino)
        state = self.state(inode.ino)
        if state is not None and state.attributes.ctime > inode.attributes.ctime:
            self._tree.follow(inode, state)
        self.attach(inode)

    async def _find(self) -> None:
        tree = self._tree
        root = tree.inode(ROOT).folder
        if root is None or LINKS_DIRECTORY not in root.kids:
            return
        inode = tree.resolve(root, LINKS_DIRECTORY)
        if inode is None or not inode.is_dir:
            return
        try:
            self._keep(await tree.folder(inode.ino))
        except LafsError as problem:
            log.warning("the state of files with several names is not at hand: %s", problem)

    def _keep(self, folder: Folder) -> None:
        if self._kept is folder:
            return
        folder.inode.opens += 1  # stays loaded
        self._kept = folder
        homeless, self._homeless = self._homeless, []
        for inode in homeless:
            if inode.nlink > 1:
                change = Change(self._tree)
                self.add(change, inode)
                change.commit(freeing=True)

    @property
    def at_hand(self) -> bool:
        """Whether `prepare` has nothing to wait for."""
        root, folder = self._tree.inode(ROOT).folder, self._folder
        return all(one is not None and self._tree.is_fresh(one) for one in (root, folder))

    async def prepare(self) -> None:
        """Make the hidden directory if it is missing and can be made."""
        await self._find()
        tree = self._tree
        root = await tree.folder(ROOT)
        if self._folder is not None or LINKS_DIRECTORY in root.kids:
            return
        if root.node is not None and not root.node.writable:
            return
        attributes = new_attributes(stat.S_IFDIR | 0o700, tree.options.uid, tree.options.gid)
        inode = Inode(tree.inodes.fresh_number(), attributes, None, nlink=2)
        inode.folder = Folder(inode, None)
        inode.folder.loaded = True
        change = Change(tree)
        change.touch(inode, mode=attributes.mode)
        change.point(root, LINKS_DIRECTORY, inode)
        change.commit()
        self._keep(inode.folder)

    def yielded(self) -> None:
        """Another client made the hidden directory first: ours goes, what was in it finds its way to theirs."""
        folder = self._kept
        if folder is None:
            return
        table = self._tree.inodes
        self._homeless = [inode for _, ino in folder.kids.values() if (inode := table.get(ino)) is not None]
        table.unlink(folder.inode, ROOT, LINKS_DIRECTORY)
        change = Change(self._tree)
        for name in list(folder.kids):
            change.point(folder, name, None)
        change.count_links(folder.inode, -folder.inode.nlink)
        change.commit(freeing=True)
        self._kept = None
        folder.inode.opens -= 1
        table.drop_if_unused(folder.inode)

    # --- anchors ---------------------------------------------------------------------------------------

    def is_anchor(self, link: Link) -> bool:
        """Whether a link of an inode is none that users see."""
        return self._kept is not None and link[0] == self._kept.inode.ino

    def has_anchor(self, inode: Inode) -> bool:
        return self._kept is not None and (self._kept.inode.ino, _key(inode.ino)) in inode.links

    def names(self, inode: Inode) -> Iterator[Link]:
        """The names of a file that are known here."""
        return (link for link in inode.links if not self.is_anchor(link))

    def count(self, inode: Inode) -> int:
        """How many names of a file are known here."""
        return len(inode.links) - self.has_anchor(inode)

    def state(self, ino: int | None) -> Seen | None:
        """What the anchor of a file says, None if there is none, or if it is ours and not published yet."""
        folder = self._folder
        if folder is None or ino is None or _key(ino) not in folder.kids:
            return None
        raw = folder.base_raw(_key(ino))
        return self._tree.see(folder, raw) if raw is not None else None

    def find(self, ino: int) -> Inode | None:
        """The file with this number, if it is in memory or has an anchor."""
        known = self._tree.inodes.get(ino)
        folder = self._folder
        if known is not None or folder is None or _key(ino) not in folder.kids:
            return known
        return self._tree.resolve(folder, _key(ino))

    def is_older(self, ino: int | None) -> bool:
        """Whether the grid's anchor tells of a later change than the file that we would have it tell of."""
        inode = self._tree.inodes.get(ino) if ino is not None else None
        theirs = self.state(ino)
        return inode is None or (theirs is not None and theirs.attributes.ctime > inode.attributes.ctime)

    def attach(self, inode: Inode) -> None:
        """Have changes of a file reach its anchor."""
        folder = self._folder
        if folder is None or inode.is_dir or (folder.node is not None and not folder.node.writable):
            return
        name = _key(inode.ino)
        if name in folder.kids:
            folder.show(name, inode.ino)
            self._tree.inodes.link(inode, folder.inode.ino, name)

    def add(self, change: Change, inode: Inode) -> None:
        """The file has several names when `change` is done. `prepare` was called."""
        folder = self._folder
        if folder is not None and (folder.node is None or folder.node.writable):
            change.point(folder, _key(inode.ino), inode)

    def tidy(self, change: Change, inode: Inode, names: int) -> None:
        """`change` leaves the file with `names` known names: one that needs no anchor any more gets rid of it."""
        folder = self._folder
        nlink = change.nlink(inode)
        if folder is None or nlink > 1 or (nlink == 1 and names != 1):
            return
        if _key(inode.ino) in folder.kids:
            change.point(folder, _key(inode.ino), None)


def _key(ino: int) -> bytes:
    return b"%016x" % ino
