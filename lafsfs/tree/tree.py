"""The working tree: what was last seen on the grid plus the journal (design.md section 3).

Everything runs on one trio loop. Names and attributes change in one Change without an await; what waits (the grid,
large writes) is listed in contrib/doc/concurrency.md.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from weakref import WeakSet, WeakValueDictionary

import trio

from lafsfs.errors import JournalError, LafsError, PendingError, ReadOnlyError
from lafsfs.formats.caps import DirCap, UnknownCap, parse
from lafsfs.nodes.maker import FileNode, NodeMaker
from lafsfs.transfer.keeper import always
from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.cap_attributes import CapAttributes, explicit
from lafsfs.tree.changing import Changing
from lafsfs.tree.directories import Folder
from lafsfs.tree.files import Files
from lafsfs.tree.finding import Finder
from lafsfs.tree.floors import Floors
from lafsfs.tree.guarding import Guard
from lafsfs.tree.hard_links import HardLinks
from lafsfs.tree.inodes import ROOT, Caps, Inode, InodeTable, Staged
from lafsfs.tree.journal import Batch, Journal
from lafsfs.tree.kept import KeptDirectories
from lafsfs.tree.leases import Leases
from lafsfs.tree.links import directories_of
from lafsfs.tree.looking_ahead import LookingAhead
from lafsfs.tree.mending import ROUNDS, Mending
from lafsfs.tree.namespace import Namespace
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.publisher import Publisher
from lafsfs.tree.pushback import Pushback
from lafsfs.tree.recovery import recover
from lafsfs.tree.sealing import state_key, subkey
from lafsfs.tree.staging import StagingArea
from lafsfs.tree.status import TreeStatus, status_of
from lafsfs.tree.syncing import Syncer
from lafsfs.tree.torn import Torn
from lafsfs.tree.trimming import Trimming
from lafsfs.tree.viewing import Viewing
from lafsfs.tree.walking import Walks
from lafsfs.tree.xattrs import ExtendedAttributes

log = logging.getLogger(__name__)

CONFLICTS = "conflicts"
"""The journal's name for the list of conflict copies."""


class Tree(Viewing):
    """One mounted root. Make it with `open_tree`."""

    def __init__(self, nodes: NodeMaker, root: DirCap, state_dir: Path, options: TreeOptions) -> None:
        self.nodes = nodes
        self.options = options
        self.inodes = InodeTable()
        self.errors: deque[str] = deque(maxlen=500)
        self.conflicts: deque[str] = deque(maxlen=200)
        self.last_request = float("-inf")  # trio time at which a program last asked for something,
        self.requests = 0  # how many times programs did,
        self.running = 0  # and how many of them are not answered yet
        self._frozen = False
        # Directories in and below which nothing changes for a while (stillness.py).
        self.stilled: set[int] = set()
        self._measured = {}
        self.troubles = {}
        self.torn = Torn()
        self.looked_at = set()
        self.lost_directories = WeakSet()
        self.journalled = {}  # where directories of the journal were, to be found again there
        self._shared_nodes: WeakValueDictionary[bytes, FileNode] = WeakValueDictionary()
        self._version = 0
        key = state_key(root)
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.journal = Journal(state_dir / "journal", key)
        listed = self.journal.meta(CONFLICTS)
        self.conflicts.extend(listed if isinstance(listed, list) else [])
        self.staging = StagingArea(state_dir / "staged", subkey(key, b"staging"), options.staging_limit)
        self.kept = KeptDirectories(state_dir / "seen", key)
        self.floors = Floors(self.journal, subkey(key, b"floors"), nodes.floors)
        self.syncer = Syncer(self.journal, self.staging)
        self.staging.starved = self.journal.starved
        self.hard_links = HardLinks(self)
        self.publisher = Publisher(self)
        self.files = Files(self)
        self.walks = Walks(self)
        self.ahead = LookingAhead(self)
        self.names = Namespace(self)
        self.changing = Changing(self)
        self.xattrs = ExtendedAttributes(self)
        self.finder = Finder(self)
        self.inodes.dropped = self.finder.dropped
        self.cap_attributes = CapAttributes(self)
        self.leases = Leases(self)
        self.guard = Guard(self)
        self.mending = Mending(self)
        self.pushback = Pushback(self)
        self.trimming = Trimming(self)
        self._make_root(root)

    def _make_root(self, root: DirCap) -> None:
        mode = 0o40000 | (0o777 & ~self.options.umask)
        attributes = new_attributes(mode, self.options.uid, self.options.gid)
        writable = root.is_writable
        caps = (root.to_bytes() if writable else b"", root.read_cap().to_bytes())
        inode = Inode(ROOT, attributes, caps, nlink=2)
        inode.folder = Folder(inode, self.nodes.directory(root))
        inode.lookups = 1
        self.inodes.add(inode)

    def next_version(self) -> int:
        """A number that grows."""
        self._version += 1
        return self._version

    # --- finding things ------------------------------------------------------------------------------------

    def ancestors(self, inode: Inode) -> Iterator[Inode]:
        """The directories above, nearest first, as far as they are in memory."""
        seen: set[int] = set()
        left = list(directories_of(inode.links))
        while left:
            directory = self.inodes.get(left.pop())
            if directory is not None and directory.ino not in seen:
                seen.add(directory.ino)
                yield directory
                left += directories_of(directory.links)

    def path_of(self, inode: Inode) -> str:
        """A path below the root by which the inode is known, for people."""
        parts: list[bytes] = []
        while (
            inode.ino != ROOT
            and (link := next(self.hard_links.names(inode), inode.hint)) is not None
            and len(parts) < 1000
        ):
            directory, name = link
            parts.append(name)
            above = self.inodes.get(directory)
            if above is None:
                parts.append(b"...")
                break
            inode = above
        return b"/".join(reversed(parts)).decode(errors="backslashreplace") or "/"

    def settle(self, inode: Inode | None) -> None:
        """Drop the row of an inode when nothing is left to publish of it, in it, or under a name of it."""
        if inode is None or not inode.stored or inode.ino == ROOT or inode.pending or not inode.settled:
            return
        batch = Batch()
        batch.objects[inode.ino] = None
        self.journal.commit(batch, freeing=True)
        inode.stored = False
        self.inodes.drop_if_unused(inode)

    def note_conflict(self, copy: Inode) -> None:
        """Have a conflict copy listed in the status, also after the next start."""
        self.conflicts.append(self.path_of(copy))
        batch = Batch()
        batch.meta[CONFLICTS] = list(self.conflicts)
        try:
            self.journal.commit(batch)
        except LafsError as problem:
            log.warning("the list of conflict copies is not written down: %s", problem)

    def file_node(self, caps: Caps) -> FileNode:
        """The node that reads what `caps` stand for; EIO for caps that give no access to any content."""
        cap = parse(caps[0] or caps[1])
        if isinstance(cap, UnknownCap | DirCap) or cap.is_verifier:
            raise OSError(errno.EIO, "a capability of a kind that cannot be read")
        known = self._shared_nodes.get(caps[1])
        if known is None:
            known = self.nodes.file(cap)
            if not cap.is_mutable:  # readers of immutable content share what they fetch
                self._shared_nodes[caps[1]] = known
        return known

    # --- permission to change ------------------------------------------------------------------------------

    @property
    def read_only(self) -> bool:
        return self.options.read_only or self._frozen

    def freeze(self) -> None:
        """From now on changes are answered EROFS."""
        self._frozen = True

    def thaw(self) -> None:
        """Changes are possible again."""
        self._frozen = False

    def check_changeable(self, folder: Folder) -> None:
        """ReadOnlyError unless names in this directory can be changed."""
        if (
            self.read_only
            or (folder.node is not None and not folder.node.writable)
            or self._is_still(folder.inode)
        ):
            raise ReadOnlyError("read-only file system")

    def check_names_changeable(self, inode: Inode) -> None:
        """ReadOnlyError unless all names of an inode, as far as they are known, can be changed."""
        for directory in directories_of(inode.links):
            parent = self.inodes.get(directory)
            if parent is not None and parent.folder is not None:
                self.check_changeable(parent.folder)

    def _is_still(self, inode: Inode) -> bool:
        if not self.stilled:
            return False
        return any(above.ino in self.stilled for above in (inode, *self.ancestors(inode)))

    def forget(self, ino: int, count: int) -> None:
        """The kernel gave up `count` references to an inode."""
        self.inodes.forget(ino, count)
        inode = self.inodes.get(ino)
        if inode is None or inode.lookups <= 0:
            self.files.forgotten(ino)

    def check_writable(self, inode: Inode) -> None:
        """ReadOnlyError unless this content, and the edges that lead to it, can be changed."""
        if self.read_only or self._is_still(inode):
            raise ReadOnlyError("read-only file system")
        if inode.caps is not None:
            cap = parse(inode.caps[0] or inode.caps[1])
            if isinstance(cap, UnknownCap) or (cap.is_mutable and not cap.is_writable):
                raise ReadOnlyError("this file is held by a read-only capability")
            if cap.is_mutable:
                return
        self.check_names_changeable(inode)

    @property
    def rests(self) -> bool:
        """Whether no program asked for anything a moment ago."""
        return trio.current_time() > self.publisher.busy_until()

    async def until_quiet(self) -> None:
        """Return when no program asked for anything for a second and nothing is being published."""
        while True:
            rest = self.last_request + 1.0 - trio.current_time()
            if rest <= 0 and self.publisher.idle:
                return
            await trio.sleep(max(rest, 0.2))

    # --- durability ------------------------------------------------------------------------------------------

    async def sync(self, inode: Inode | None = None) -> None:
        """What changed so far is on the local disk; with `fsync=grid` and an inode, on the grid as well."""
        content = inode.content if inode is not None else None
        await self.syncer.sync(*([content.file] if isinstance(content, Staged) else []))
        if inode is not None and self.options.fsync == "grid":
            await self.publisher.wait_for(inode)

    async def drain(
        self, timeout: float | None = None, progress: Callable[[TreeStatus], None] | None = None
    ) -> None:
        """Publish all that is pending, open files included. PendingError when `timeout` seconds did not do."""
        late: PendingError | None = None
        async with trio.open_nursery() as nursery:
            if progress is not None:
                nursery.start_soon(self._report, progress)
            try:
                await self.publisher.drain(timeout)
            except PendingError as error:
                late = error
            finally:
                nursery.cancel_scope.cancel()
        if late is not None:
            raise late  # out here, so that the nursery does not put it into a group
        for _ in range(ROUNDS):
            await self.mending.look()
            await self.publisher.look_at_removed()
            if self.publisher.idle:
                return
            await self.publisher.drain(timeout)

    async def _report(self, progress: Callable[[TreeStatus], None]) -> None:
        while True:
            progress(self.counts())
            await trio.sleep(0.2)

    def status(self) -> TreeStatus:
        """What is pending; never waits."""
        return status_of(self)

    def counts(self) -> TreeStatus:
        """As `status`, without the items: cheap enough to be asked all the time."""
        return status_of(self, 0)

    async def find(self, path: bytes) -> Inode:
        """What is at `path` below the root; OSError, GridError. Symlinks are not followed."""
        inode = self.inode(ROOT)
        for name in path.split(b"/"):
            if name:
                inode = await self.names.lookup(inode.ino, name)
        return inode

    async def caps_at(self, path: bytes) -> Caps:
        """The caps of what is at `path` below the root; publishes it first if it is not on the grid.

        OSError, GridError; BadCapError for a damaged entry.
        """
        inode = await self.find(path)
        if inode.dirty:
            await self.publisher.drain(None)
        if inode.caps is None:
            raise JournalError("that object is not on the grid")
        return explicit(inode.caps)


@asynccontextmanager
async def open_tree(
    nodes: NodeMaker, root: DirCap, state_dir: Path, options: TreeOptions
) -> AsyncIterator[Tree]:
    """Open the tree of `root`, recovering what `state_dir` holds. JournalError, NoSpaceError, GridError.

    On exit everything acknowledged is on the local disk; what is pending goes on at the next opening.
    """
    tree = Tree(nodes, root, state_dir, options)
    nodes.keep_when(lambda: tree.rests)
    try:
        recover(tree)
        await tree.open_root()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tree.publisher.run)
            nursery.start_soon(tree.syncer.run)
            nursery.start_soon(tree.kept.run)
            nursery.start_soon(tree.floors.run)
            nursery.start_soon(tree.leases.run)
            nursery.start_soon(tree.walks.run)
            nursery.start_soon(tree.ahead.run)
            nursery.start_soon(tree.guard.run)
            nursery.start_soon(tree.mending.run)
            nursery.start_soon(tree.trimming.run)
            try:
                yield tree
            finally:
                nursery.cancel_scope.cancel()
    finally:
        nodes.keep_when(always)
        try:
            with trio.CancelScope(shield=True):
                tree.floors.save()
                await tree.syncer.sync_all()
                await tree.kept.keep_changed()
        finally:
            tree.journal.close()
