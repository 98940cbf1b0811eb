"""Small files fetched ahead of a program that reads a directory file by file (tar, cp -r, git, grep).

Each of them alone would cost a round trip or two before the next is asked for. Whoever has read three files of a
directory in its order, or in that of numbers in their names, is taken for a walker: the files that follow are fetched
side by side, more of them as long as they are read indeed, fewer when they are not.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import LafsError
from lafsfs.formats.caps import ChkCap, parse
from lafsfs.nodes.maker import FileNode
from lafsfs.tree.inodes import Inode
from lafsfs.tree.numbered import Numbered

if TYPE_CHECKING:
    from lafsfs.tree.directories import Folder
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

SMALL = 64 << 10  # bytes; larger files have a readahead of their own
WALKER = 3  # files in order
FIRST, MOST = 4, 32  # files fetched ahead
AT_ONCE = MOST
_WALKS = 64  # directories remembered
_LOOK = 128  # names looked at for files to fetch


class _Walk:
    """Where a program is in a directory (cookies as in `Folder`), and how far ahead of it was fetched."""

    def __init__(self) -> None:
        self.at = 0
        self.ahead = 0
        self.streak = 0
        self.window = FIRST
        self.waiting = 0  # fetched, not read yet
        self.name = b""  # read last
        self.counted = 0  # so many names in a row were the next number
        self.counted_to: Numbered | None = None  # the last that was read, or fetched ahead

    def comes_to(self, name: bytes) -> None:
        """Follow the numbers in names."""
        number = Numbered.of_two(self.name, name)
        self.name = name
        self.counted = self.counted + 1 if number is not None else 0
        ahead = self.counted_to
        if number is None or ahead is None or ahead[:1] + ahead[2:] != number[:1] + number[2:]:
            self.counted_to = number
        else:
            self.counted_to = max(ahead, number)


class Walks:
    """Follows the reads of all directories."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._walks: OrderedDict[int, _Walk] = OrderedDict()
        self._kept: OrderedDict[bytes, tuple[FileNode, _Walk]] = OrderedDict()
        self._send, self._receive = trio.open_memory_channel[tuple[FileNode, int]](4 * MOST)

    @property
    def waiting(self) -> int:
        """Files that were fetched, or will be, and not read yet."""
        return len(self._kept)

    async def run(self) -> None:
        """Fetch until cancelled."""
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._fetch)

    async def _fetch(self) -> None:
        async for node, size in self._receive:
            try:
                await node.read(0, size)
            except LafsError as problem:  # whoever reads the file will meet the same, and be told
                log.debug("a file was not fetched ahead: %s", problem)

    def reads(self, inode: Inode) -> None:
        """A program reads the beginning of a file whose content is on the grid."""
        if inode.first_link is None or inode.caps is None:
            return
        directory, name = inode.first_link
        above = self._tree.inodes.get(directory)
        kid = above.folder.kids.get(name) if above is not None and above.folder is not None else None
        if kid is None or above is None:
            return
        walk = self._walk(directory, kid[0])
        walk.comes_to(name)
        expected = self._kept.pop(inode.caps[1], None)
        if expected is not None:
            expected[1].waiting -= 1
            expected[1].window = min(MOST, expected[1].window + 2)
        if max(walk.streak, walk.counted) >= WALKER and walk.waiting <= walk.window // 2:
            try:
                self._fetch_ahead(above, walk)
            except (LafsError, OSError) as problem:  # a broken entry; not the one that is read
                log.debug("files are not fetched ahead: %s", problem)

    def _walk(self, directory: int, cookie: int) -> _Walk:
        """The walk that comes to `cookie`: the one before goes on, or a new one begins."""
        walk = self._walks.pop(directory, None)
        if walk is None or (cookie < walk.at and walk.counted < WALKER):
            before, walk = walk, _Walk()
            if before is not None:
                walk.name, walk.counted, walk.counted_to = before.name, before.counted, before.counted_to
        self._walks[directory] = walk
        walk.streak += cookie > walk.at
        walk.at = cookie
        walk.ahead = max(walk.ahead, cookie)
        if len(self._walks) > _WALKS:
            self._walks.popitem(last=False)
        return walk

    def _fetch_ahead(self, directory: Inode, walk: _Walk) -> None:
        assert directory.folder is not None
        for name in self._next_names(directory.folder, walk):
            inode = self._tree.resolve(directory.folder, name)
            if inode is not None:
                self._want(inode, walk)
                self._tree.inodes.drop_if_unused(inode)

    def _next_names(self, folder: Folder, walk: _Walk) -> Iterator[bytes]:
        """What is to be fetched next, as long as not too much is waiting."""
        if walk.counted >= WALKER and walk.counted_to is not None:
            for _ in range(_LOOK):
                following = walk.counted_to.next()
                if walk.waiting >= walk.window or following.name not in folder.kids:
                    return
                walk.counted_to = following
                yield following.name
            return
        for cookie, name, _ in list(islice(folder.after(walk.ahead), _LOOK)):
            if walk.waiting >= walk.window:
                return
            walk.ahead = cookie
            yield name

    def _want(self, inode: Inode, walk: _Walk) -> None:
        """Fetch a file if it is a small one on the grid."""
        if inode.content is not None or inode.caps is None or not 0 < inode.attributes.size <= SMALL:
            return
        text = inode.caps[1]
        if text in self._kept or not isinstance(parse(text), ChkCap):
            return
        node = self._tree.file_node(inode.caps)
        try:
            self._send.send_nowait((node, inode.attributes.size))
        except trio.WouldBlock:
            return
        self._kept[text] = node, walk
        walk.waiting += 1
        if len(self._kept) > 2 * MOST:
            _, (_, wasted) = self._kept.popitem(last=False)
            wasted.waiting -= 1
            wasted.window = max(1, wasted.window // 2)
