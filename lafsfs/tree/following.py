"""Keeping up with what others change in directories that are known here."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import trio

from lafsfs.errors import GridError, NotEnoughSharesError, OutdatedServersError, RollbackError
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree import torn
from lafsfs.tree.change import Change
from lafsfs.tree.directories import UNKNOWN, Folder
from lafsfs.tree.emptied import dropped, forgotten
from lafsfs.tree.entries import subdirectories
from lafsfs.tree.half_written import when_written
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.kept import KeptDirectories
from lafsfs.tree.links import Link
from lafsfs.tree.removals import ensure_linked, keep_linked
from lafsfs.tree.resolving import Resolving
from lafsfs.tree.torn import Torn

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds for which somebody waits for news of a directory that is known already
QUIET = 10.0  # seconds for which a grid that did not answer is not asked again for the sake of readers


class Following(Resolving):
    """The part of the tree that asks the grid for news."""

    kept: KeptDirectories
    troubles: dict[int, str]
    torn: Torn
    _dead_until: float = float("-inf")

    # --- asking --------------------------------------------------------------------------------------------

    async def newest(self, folder: Folder, *, writing: bool = False) -> Snapshot:
        """The newest version of a directory, or the newest that can be recovered, when a writer was killed; for
        `writing` also the one that is known here, when several writers left nothing that can be recovered.

        GridError, also when servers that may have the rest of a newer version do not answer, and for `writing` as long
        as somebody may still be at work on a newer version.
        """
        assert folder.node is not None
        try:
            snapshot = await when_written(folder.node.read)
        except NotEnoughSharesError as problem:
            still = self.torn.still(folder.inode.ino, problem.state) if writing else None
            if still is not None and still < torn.STILL:
                raise
            snapshot = await self._older(folder, problem, still)
            if not folder.behind:
                log.warning("an older version of a directory has to do: %s", problem)
            folder.behind = True
            self.troubles[folder.inode.ino] = f"an older version has to do: {problem}"
        else:
            self._is_fine(folder)
        folder.kept_since = None
        self.kept.changed(folder)
        return snapshot

    async def _older(self, folder: Folder, newer: NotEnoughSharesError, still: float | None) -> Snapshot:
        """A version to go on from; `still` is for how long the servers showed the same, None for readers."""
        assert folder.node is not None
        try:
            snapshot = await folder.node.read(older_ok=True)
        except NotEnoughSharesError:
            known = folder.snapshot
            if still is None or known is None or newer.newest <= known.version.seqnum:
                raise
            # Whoever wrote the next version knew this one. Others may know a later one: they go first.
            if newer.newest > known.version.seqnum + 1 and still < torn.AFTER_OTHERS:
                raise
            return Snapshot(known.version, known.packed, torn=newer.state)
        if still is not None and (
            snapshot.pinned is None or snapshot.pinned.servermap.state() != newer.state
        ):
            raise newer
        return snapshot

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
        self.torn.mended(folder.inode.ino)

    async def _is_newest(self, folder: Folder, snapshot: Snapshot) -> bool:
        assert folder.node is not None
        try:
            return await folder.node.version() == snapshot.version
        except NotEnoughSharesError:
            return False

    @property
    def _is_dead(self) -> bool:
        """Whether the grid did not answer a moment ago."""
        return trio.current_time() < self._dead_until

    def _cannot_follow(self, folder: Folder, problem: Exception) -> None:
        if isinstance(
            problem, RollbackError | NotEnoughSharesError | OutdatedServersError
        ):  # this directory only
            if not folder.behind:
                log.warning("a directory is shown as last seen: %s", problem)
            folder.behind = True
            self.troubles[folder.inode.ino] = f"shown as last seen: {problem}"
            return
        if not self._is_dead:
            log.warning("directories are shown as last seen, the grid does not answer: %s", problem)
        self._dead_until = trio.current_time() + QUIET

    # --- what is new ---------------------------------------------------------------------------------------

    def absorb(self, folder: Folder, snapshot: Snapshot) -> None:
        """Take a newer version of a directory: only what differs is invalidated, here and in the kernel."""
        if not self.may_be_on_grid(folder.inode):
            return  # removed while it was read: the version that was seen then tells whether others changed it
        self._keep_dropped(folder, snapshot)
        for name, _ in self._adopt(folder, snapshot):
            self.kernel.entry_changed(folder.inode.ino, name)
        cast("Tree", self).publisher.reconsider(folder)
        self.count_subdirectories(folder)
        self.kernel.inode_changed(folder.inode.ino, content=True)
        cast("Tree", self).mending.seen(folder)

    def _keep_dropped(self, folder: Folder, snapshot: Snapshot) -> None:
        """What is missing in a newer version by mistake becomes a change of ours."""
        if (
            folder.snapshot is None
            or folder.node is None
            or not folder.node.writable
            or self.options.read_only
        ):
            return
        lost = dropped(folder.snapshot, snapshot, time.monotonic() - folder.was_empty)
        missing = snapshot.version.seqnum
        if not lost:
            lost, missing = forgotten(folder.snapshot, snapshot)
        if not lost:
            return
        log.warning("another program dropped what was in a directory, as Tahoe-LAFS may; it is put back")
        mark = folder.snapshot.version.seqnum, missing
        change = Change(cast("Tree", self))
        back: list[bytes] = []
        for name in list(folder.kids):
            if name in folder.pending or folder.stored(name) not in lost:
                continue
            with contextlib.suppress(OSError):  # an entry without an object
                inode = self.resolve(folder, name)
                if inode is not None:
                    change.touch(inode)
                    change.point(folder, name, inode)
                    back.append(name)
        change.commit(freeing=True)
        folder.put_back.update((name, (folder.pending[name].version, mark)) for name in back)

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
            # A number that was given up may have gone to another entry that carries it since.
            if old is not None and (folder.inode.ino, name) in old.links:
                self._update(folder, name, old)
            else:
                if name in folder.kids:
                    folder.show(name, UNKNOWN)
                self._lose_sight(before, (folder.inode.ino, name))
            yield name, before

    def _lose_sight(self, number: int, link: Link) -> None:
        glimpse = self.inodes.glimpse(number) if number != UNKNOWN else None
        if glimpse is not None and glimpse.leads(*link):
            self.inodes.lose_sight(number)
            self.kernel.inode_changed(number, content=True)  # it may have been open once

    def may_be_on_grid(self, directory: Inode) -> bool:
        """Whether names in it matter: others may have moved what they seem to have removed."""
        return directory.nlink > 0 or directory in self.lost_directories

    def _update(self, folder: Folder, name: bytes, old: Inode) -> None:
        raw = folder.base_raw(name)
        if raw is None or name not in folder.kids:
            self._lose(folder, name, old)
            return
        seen = self.see(folder, raw)
        other_directory = old.is_dir and seen.caps[1] != old.read_cap
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
        """Others took a name away: a directory in which something changed here gets it back."""
        tree = cast("Tree", self)
        if self._is_changeable(folder) and old.is_dir and tree.publisher.has_changes_below(old):
            self.inodes.unlink(old, folder.inode.ino, name)
            keep_linked(tree, folder, name, old)
        else:
            self.lose(folder, name, old)

    def lose(self, folder: Folder, name: bytes, old: Inode) -> None:
        """A name does not lead there any more, because of what others did."""
        self.inodes.unlink(old, folder.inode.ino, name)
        if not old.links:
            old.nlink = 0
            if self._is_changeable(folder):
                # Somebody may have it open, or open it by what the kernel remembers.
                old.lost = folder.inode.ino, name
            if old.is_dir:
                self.lost_directories.add(old)
            cast("Tree", self).settle(old)
        self.inodes.drop_if_unused(old)

    def _is_changeable(self, folder: Folder) -> bool:
        return not cast("Tree", self).read_only and folder.node is not None and folder.node.writable

    def count_subdirectories(self, folder: Folder) -> None:
        """Bring the link count of a directory up to date with what is in it."""
        packed = folder.snapshot.packed if folder.snapshot is not None else Packed()
        hidden = {folder.stored(name) for name in (*folder.pending, *folder.hidden)}
        count = sum(stored not in hidden for stored in subdirectories(packed))
        for name, pending in folder.pending.items():
            if name in folder.hidden:
                continue
            inode = self.inodes.get(pending.ino) if pending.ino is not None else None
            count += inode is not None and inode.is_dir
        if folder.inode.nlink > 0:
            folder.inode.nlink = 2 + count

    # --- above what was published --------------------------------------------------------------------------

    async def look_above(self, inode: Inode) -> None:
        """After publishing a directory: if somebody removed it, or one above it, meanwhile, that comes back now, not
        at some refresh: who removed it may have looked for changes just before. GridError.
        """
        top = await self._look_upwards(inode)
        tree = cast("Tree", self)
        while top is not None and top.lost is not None and top.nlink <= 0:
            if await tree.publisher.is_elsewhere(top):
                return
            ensure_linked(tree, top)
            top = await self._look_upwards(inode)  # what is in it may be gone, too

    async def _look_upwards(self, inode: Inode) -> Inode | None:
        """The directory at which the way up ends; None if what is above that counts when something else is published,
        or is not known here.
        """
        published = trio.current_time()
        seen: set[int] = set()
        while inode.ino != ROOT and inode.first_link is not None and inode.ino not in seen:
            seen.add(inode.ino)
            directory, name = inode.first_link
            above = self.inodes.get(directory)
            folder = above.folder if above is not None else None
            if above is None or folder is None or not folder.loaded or folder.node is None:
                return None
            if name in folder.pending:
                return None
            async with folder.lock:
                await self._look_again(folder, published)
                lost = inode.nlink <= 0 and not inode.links and inode in self.lost_directories
                if lost and folder.inode.nlink > 0 and folder.node.writable:
                    keep_linked(cast("Tree", self), folder, name, inode)
            inode = above
        return inode

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
