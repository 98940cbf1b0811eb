"""Bringing directories of the grid into the tree, and keeping up with what others change there."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

import trio

from lafsfs.errors import GridError, LafsError, NotEnoughSharesError, RollbackError
from lafsfs.formats.caps import DirCap, MutableReadCap, MutableWriteCap, parse
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.transfer.servermap import Version
from lafsfs.tree.change import Change, repend
from lafsfs.tree.directories import UNKNOWN, Folder
from lafsfs.tree.entries import Seen, directory_cap, is_directory_entry, see
from lafsfs.tree.inodes import ROOT, Inode, InodeTable, derived_number
from lafsfs.tree.kept import KeptDirectories
from lafsfs.tree.links import Link
from lafsfs.tree.moves import above_itself, take_away
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.removals import keep_linked

if TYPE_CHECKING:
    from lafsfs.nodes.maker import NodeMaker
    from lafsfs.tree.hard_links import HardLinks
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for which somebody waits for news of a directory that is known already
QUIET = 10.0  # seconds for which a grid that did not answer is not asked again for the sake of readers


class Kernel(Protocol):
    """Who must be told that something changed behind its back."""

    def entry_changed(self, directory: int, name: bytes) -> None: ...

    def inode_changed(self, ino: int, content: bool) -> None: ...


class NoKernel:
    """Nobody caches anything."""

    def entry_changed(self, directory: int, name: bytes) -> None:
        """Nothing to do."""

    def inode_changed(self, ino: int, content: bool) -> None:
        """Nothing to do."""


class Viewing:
    """The part of the tree that reads directories."""

    nodes: NodeMaker
    options: TreeOptions
    inodes: InodeTable
    kept: KeptDirectories
    hard_links: HardLinks
    kernel: Kernel = NoKernel()
    _dead_until: float = float("-inf")
    _measured: dict[int, tuple[float, Version | None]]
    troubles: dict[int, str]
    lost_directories: set[int]
    journalled: dict[Link, int]

    def inode(self, ino: int) -> Inode:
        """An inode the kernel knows; ESTALE if it does not exist any more."""
        inode = self.inodes.get(ino)
        if inode is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return inode

    def parent_of(self, inode: Inode) -> Inode:
        """The directory above; the root is above itself."""
        link = inode.first_link
        if inode.ino == ROOT or link is None:
            return self.inode(ROOT)
        return self.inode(link[0])

    # --- directories -----------------------------------------------------------------------------------------

    async def open_root(self) -> None:
        """Load the root. GridError if it can be had neither from the grid nor from what was kept."""
        await self.folder(ROOT)
        await self.hard_links.open()

    async def folder(self, ino: int) -> Folder:
        """The names of a directory, at most `refresh` seconds old while the grid can be reached. ENOTDIR."""
        inode = self.inode(ino)
        folder = inode.folder
        if folder is None:
            folder = self._new_folder(inode)
        if not folder.loaded:
            async with folder.lock:
                if not folder.loaded:
                    await self.load(folder)
        elif self._stale(folder) and not folder.lock.locked():
            async with folder.lock:
                if self._stale(folder):
                    await self._refresh(folder)
        return folder

    def _new_folder(self, inode: Inode) -> Folder:
        if not inode.is_dir:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        assert inode.caps is not None
        cap = parse(inode.caps[0] or inode.caps[1])
        if not isinstance(cap, DirCap):
            raise OSError(errno.EIO, "a directory that cannot be opened")
        tree = cast("Tree", self)
        above = tree.parent_of(inode)
        if above is not inode and above.folder and above_itself(tree, above.folder, inode.caps[1]):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        inode.folder = Folder(inode, self.nodes.directory(cap))
        return inode.folder

    def is_fresh(self, folder: Folder) -> bool:
        """Whether `folder` would have this one without asking the grid."""
        return folder.loaded and not self._stale(folder)

    def _stale(self, folder: Folder) -> bool:
        if folder.node is None or folder.node.deep_immutable or folder.inode.nlink <= 0:
            return False
        return trio.current_time() - folder.checked > self.options.refresh

    async def load(self, folder: Folder) -> None:
        """Read a directory for the first time; without the grid, as it was last seen. The caller holds its lock."""
        folder.adopt(await self._newest_or_kept(folder))
        folder.lay_journal()
        folder.checked = trio.current_time()
        folder.loaded = True
        self.count_subdirectories(folder)

    async def _newest_or_kept(self, folder: Folder) -> Snapshot:
        assert folder.node is not None
        cap = folder.node.cap.read_cap().to_bytes()
        kept = await trio.to_thread.run_sync(self.kept.find, cap)
        if kept is None:
            return await self.newest(folder)
        if not self._is_dead:
            try:
                with trio.fail_after(PATIENCE):
                    return await self.newest(folder)
            except (GridError, trio.TooSlowError) as problem:
                self._cannot_follow(folder, problem)
        folder.kept_since = kept.seen
        return kept.snapshot

    @property
    def _is_dead(self) -> bool:
        """Whether the grid did not answer a moment ago."""
        return trio.current_time() < self._dead_until

    def _cannot_follow(self, folder: Folder, problem: Exception) -> None:
        if isinstance(problem, RollbackError | NotEnoughSharesError):  # this directory only
            if not folder.behind:
                log.warning("a directory is shown as last seen: %s", problem)
            folder.behind = True
            self.troubles[folder.inode.ino] = f"shown as last seen: {problem}"
            return
        if not self._is_dead:
            log.warning("directories are shown as last seen, the grid does not answer: %s", problem)
        self._dead_until = trio.current_time() + QUIET

    async def newest(self, folder: Folder) -> Snapshot:
        """The newest version of a directory, or the newest that can be recovered, when a writer was killed.

        GridError, also when servers that may have the rest of a newer version do not answer.
        """
        assert folder.node is not None
        try:
            snapshot = await folder.node.read()
        except NotEnoughSharesError as problem:
            snapshot = await folder.node.read(older_ok=True)
            if not folder.behind:
                log.warning("an older version of a directory has to do: %s", problem)
            folder.behind = True
            self.troubles[folder.inode.ino] = f"an older version has to do: {problem}"
        else:
            self._is_fine(folder)
        folder.kept_since = None
        self.kept.changed(folder)
        return snapshot

    def count_subdirectories(self, folder: Folder) -> None:
        """Bring the link count of a directory up to date with what is in it."""
        packed = folder.snapshot.packed if folder.snapshot is not None else Packed()
        hidden = {folder.stored(name) for name in (*folder.pending, *folder.hidden)}
        count = sum(
            is_directory_entry(packed.raw(stored) or b"") for stored in packed.names() if stored not in hidden
        )
        for name, pending in folder.pending.items():
            if name in folder.hidden:
                continue
            inode = self.inodes.get(pending.ino) if pending.ino is not None else None
            count += inode is not None and inode.is_dir
        if folder.inode.nlink > 0:
            folder.inode.nlink = 2 + count

    async def _refresh(self, folder: Folder) -> None:
        """Look whether the grid has something newer. When it cannot be asked, what we have must do."""
        assert folder.node is not None
        folder.checked = trio.current_time()
        if self._is_dead:
            return
        try:
            with trio.fail_after(PATIENCE):
                await self._look(folder)
        except (GridError, trio.TooSlowError) as problem:
            self._cannot_follow(folder, problem)

    async def _look(self, folder: Folder) -> None:
        """Ask the grid for something newer. GridError."""
        current = folder.snapshot is not None and await self._is_newest(folder, folder.snapshot)
        newer = None if current else await self.newest(folder)
        folder.kept_since = None
        if current:
            self._is_fine(folder)
        if newer is not None:
            self.absorb(folder, newer)

    def _is_fine(self, folder: Folder) -> None:
        folder.behind = False
        self.troubles.pop(folder.inode.ino, None)

    async def _is_newest(self, folder: Folder, snapshot: Snapshot) -> bool:
        assert folder.node is not None
        try:
            return await folder.node.version() == snapshot.version
        except NotEnoughSharesError:
            return False

    def absorb(self, folder: Folder, snapshot: Snapshot) -> None:
        """Take a newer version of a directory: only what differs is invalidated, here and in the kernel."""
        if not self.may_be_on_grid(folder.inode):
            return  # removed while it was read: the version that was seen then tells whether others changed it
        for name, _ in self._adopt(folder, snapshot):
            self.kernel.entry_changed(folder.inode.ino, name)
        self.count_subdirectories(folder)
        self.kernel.inode_changed(folder.inode.ino, content=True)

    def adopt_same(self, folder: Folder, snapshot: Snapshot) -> None:
        """Take a snapshot in which every name leads to what it led to before, if by other capabilities."""
        for name, before in self._adopt(folder, snapshot):
            if before != UNKNOWN and folder.kids.get(name, (0, UNKNOWN))[1] != before:
                self.kernel.entry_changed(folder.inode.ino, name)
        self.count_subdirectories(folder)

    def _adopt(self, folder: Folder, snapshot: Snapshot) -> Iterator[tuple[bytes, int]]:
        """Names that look different in a snapshot, brought up to date, each with the number it led to before."""
        for name, before in folder.adopt(snapshot):
            old = self.inodes.get(before) if before != UNKNOWN else None
            if old is not None:
                self._update(folder, name, old)
            elif name in folder.kids:
                folder.show(name, UNKNOWN)
            yield name, before

    def may_be_on_grid(self, directory: Inode) -> bool:
        """Whether names in it matter: others may have moved what they seem to have removed."""
        return directory.nlink > 0 or directory.ino in self.lost_directories

    def _update(self, folder: Folder, name: bytes, old: Inode) -> None:
        raw = folder.base_raw(name)
        if raw is None or name not in folder.kids:
            self._lose(folder, name, old)
            return
        seen = self.see(folder, raw)
        other_directory = old.is_dir and seen.caps[1] != (old.caps or (b"", b""))[1]
        same_number = seen.ino in (None, old.ino) or (old.is_dir and not other_directory)
        same = same_number and seen.attributes.is_dir == old.is_dir
        content = not old.is_dir and seen.caps != old.caps
        if not same or other_directory or (content and old.opens):
            # Whoever has the old file open keeps reading it; the name leads to a new inode.
            self._lose(folder, name, old)
            folder.show(name, UNKNOWN)
        elif not old.stored or old.is_dir:  # that of a directory may be stored for what is in it
            self._take(old, seen)

    def _lose(self, folder: Folder, name: bytes, old: Inode) -> None:
        self.inodes.unlink(old, folder.inode.ino, name)
        tree = cast("Tree", self)
        changeable = not tree.read_only and folder.node is not None and folder.node.writable
        if changeable and old.is_dir and tree.publisher.has_changes_below(old):
            keep_linked(tree, folder, name, old)
            return
        if not old.links:
            old.nlink = 0
            if changeable:  # somebody may have it open, or open it by what the kernel remembers
                old.lost = folder.inode.ino, name
            if old.is_dir:
                self.lost_directories.add(old.ino)
            tree.settle(old)
        self.inodes.drop_if_unused(old)

    async def look_above(self, inode: Inode) -> None:
        """After publishing a directory: if somebody removed it, or one above it, meanwhile, that comes back now, not
        at some refresh: who removed it may have looked for changes just before. GridError.
        """
        published = trio.current_time()
        seen: set[int] = set()
        while inode.ino != ROOT and inode.first_link is not None and inode.ino not in seen:
            seen.add(inode.ino)
            directory, name = inode.first_link
            above = self.inodes.get(directory)
            folder = above.folder if above is not None else None
            if above is None or folder is None or not folder.loaded or folder.node is None:
                return
            if name in folder.pending:
                return  # what is above counts when that is published
            async with folder.lock:
                await self._look_again(folder, published)
                lost = inode.nlink <= 0 and not inode.links and inode.ino in self.lost_directories
                if lost and folder.inode.nlink > 0 and folder.node.writable:
                    keep_linked(cast("Tree", self), folder, name, inode)
            inode = above

    async def _look_again(self, folder: Folder, since: float) -> None:
        assert folder.node is not None
        if folder.node.deep_immutable or folder.looked > since:
            return
        began = trio.current_time()
        try:
            await self._look(folder)
        except (RollbackError, NotEnoughSharesError) as problem:  # nobody can know
            self._cannot_follow(folder, problem)
        folder.checked = folder.looked = began

    # --- entries -----------------------------------------------------------------------------------------------

    def resolve(self, folder: Folder, name: bytes) -> Inode | None:
        """The inode that a name leads to, made from its entry if need be; None if there is no such name."""
        kid = folder.kids.get(name)
        if kid is None:
            return None
        known = self.inodes.get(kid[1]) if kid[1] != UNKNOWN else None
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

    def _orphan(self, folder: Folder, name: bytes, known: Inode | None) -> None:
        """A name turns out to lead to a directory above it: no inode is found by that name any more."""
        if known is None or known.folder is None:
            return
        self.inodes.unlink(known, folder.inode.ino, name)
        folder.show(name, UNKNOWN)
        if not known.links and known.nlink > 0 and known.ino != ROOT:
            known.nlink = 0
            self.lost_directories.add(known.ino)

    def see(self, folder: Folder, raw: bytes) -> Seen:
        return see(raw, folder.node.writekey if folder.node is not None else None, self.options)

    def _from_grid(self, folder: Folder, name: bytes, seen: Seen) -> Inode:
        directory = folder.inode.ino
        number = self._journalled(directory, name, seen) or seen.ino
        there = self.inodes.get(number) if number else None
        if number is None or number <= ROOT or (there is not None and not self._is_same(there, seen)):
            number = derived_number(directory, name)
            there = self.inodes.get(number)
        if there is not None and not self._is_same(there, seen):
            number = self.inodes.fresh_number()
            there = None
        if there is None:
            there = self._made(number, seen)
        elif there.nlink <= 0:
            there.nlink = seen.nlink or (2 if seen.attributes.is_dir else 1)
            there.lost = None
            ours = number not in self.lost_directories
            self.lost_directories.discard(number)
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
        same = (inode.caps or (b"", b""))[1] == seen.caps[1]
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

    def is_mutable(self, inode: Inode) -> bool:
        """Whether it is a mutable file on the grid: only its servers know its size."""
        if inode.caps is None or not inode.attributes.is_regular:
            return False
        start = inode.caps[1][:12]
        return b":SSK" in start or b":MDMF" in start

    async def measured(self, inode: Inode) -> Inode:
        """The same inode; the size of a mutable file, which only its servers know, is up to date."""
        if inode.content is not None or not self.is_mutable(inode):
            return inode
        assert inode.caps is not None
        cap = parse(inode.caps[0] or inode.caps[1])
        now = trio.current_time()
        when, known = self._measured.get(inode.ino, (float("-inf"), None))
        fresh = now - when < self.options.refresh
        if fresh or not isinstance(cap, MutableWriteCap | MutableReadCap):
            return inode
        self._measured[inode.ino] = now, known
        try:
            version = await self.nodes.mutable_file(cap).latest()
        except LafsError as problem:
            log.warning("the size of a mutable file is not known: %s", problem)
            self.troubles[inode.ino] = f"shown as last seen: {problem}"
        else:
            self.troubles.pop(inode.ino, None)
            if inode.content is None:
                self.show_version(inode, version)
        return inode

    def show_version(self, inode: Inode, version: Version, *, quietly: bool = False) -> None:
        """`version` of a mutable file is the newest; `quietly`: whoever calls shows that by a change of his own."""
        known = self.measured_version(inode)
        self._measured[inode.ino] = trio.current_time(), version
        if not quietly and version != known:
            inode.attributes = inode.attributes._replace(size=version.size)
            inode.version += 1
            inode.followed = True
            self.kernel.inode_changed(inode.ino, content=True)

    def measured_version(self, inode: Inode) -> Version | None:
        """The newest version known of a mutable file."""
        return self._measured.get(inode.ino, (0.0, None))[1]
