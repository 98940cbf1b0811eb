"""Publishing one directory: which of its changes are ready, onto which version, and what the journal forgets then."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

import trio

from lafsfs.errors import UncoordinatedWriteError
from lafsfs.formats.dirnode import make_entry
from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree.change import Change, attempts_key, forget_directory
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.directories import Folder, Pending, digest
from lafsfs.tree.elsewhere import Elsewhere
from lafsfs.tree.emptied import only_tahoes
from lafsfs.tree.entries import parsed
from lafsfs.tree.inodes import ROOT, Inode
from lafsfs.tree.journal import Batch, EdgeRow
from lafsfs.tree.links import Link
from lafsfs.tree.merge import PARKED
from lafsfs.tree.merging import Merging
from lafsfs.tree.moves import Moves
from lafsfs.tree.new_files import new_directory_is_mdmf
from lafsfs.tree.outgoing import Draft, Sent, write_entries
from lafsfs.tree.reachability import Reachability, kept_for
from lafsfs.tree.removals import Removals
from lafsfs.tree.removed_lately import RemovedLately
from lafsfs.tree.torn import STILL, Torn

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

ROUNDS = 8  # collisions in a row before the queue's back-off takes over
SLICE = 500  # names, of some 20 µs each, between two looks at what else is to be done


class Progress(NamedTuple):
    """What became of an attempt to publish a directory."""

    left: bool  # something is still pending
    waiting: bool  # children are not on the grid yet
    sent: bool  # a version went to the grid


class DirectoryPublisher:
    """Publishes directories; the directory's lock is held meanwhile."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._reach = Reachability(tree.inodes, tree.hard_links)
        self._merging = Merging(tree)
        self._removals = Removals(tree)
        self._moves = Moves(tree, self._merging, self._reach)
        self.elsewhere = Elsewhere(tree, self._merging)
        self.removed_lately = RemovedLately(tree.inodes, self._removals, self.elsewhere)
        self._rivals = Torn()

    async def publish(self, folder: Folder, late: bool) -> Progress:
        """Put what is ready of `folder` on the grid.

        `late`: do not wait for children any longer. GridError when the grid does not take it.
        """
        async with folder.lock:
            if not self._tree.may_be_on_grid(folder.inode):
                return Progress(False, False, False)
            if folder.inode.caps is not None and not folder.pending and not folder.again:
                self._tree.settle(folder.inode)
                return Progress(False, False, False)
            if not late and self._waits_for_content(folder):
                return Progress(True, True, False)
            if folder.inode.caps is not None and not folder.loaded:
                await self._tree.load(folder)
            rivalled = folder.snapshot is not None and folder.snapshot.rivalled
            if folder.kept_since is not None or folder.behind or rivalled:
                self._tree.absorb(folder, await self._tree.newest(folder, writing=True))
            self._moves.take_back_lost(folder)
            ready, waiting = self._split(folder)
            if waiting and not late:
                return Progress(True, True, False)
            if folder.inode.caps is None:
                await self._create(folder, ready)
            elif ready or folder.again:
                await self._publish(folder)
            else:
                return Progress(True, waiting > 0, False)
            if folder.pending and self._split(folder)[0]:  # temporary names, or what changed meanwhile
                self._tree.publisher.directory_changed(folder)
            left = bool(folder.pending) and self._tree.may_be_on_grid(folder.inode)
            return Progress(left, waiting > 0, True)

    def _waits_for_content(self, folder: Folder) -> bool:
        """Whether the child that came last when all were looked at is still to be uploaded: then there is no need to
        look at all of them again for each one that arrives.
        """
        last = self._tree.inodes.get(folder.awaited) if folder.awaited is not None else None
        if last is None or last.content is None or last.interim or last.nlink <= 0:
            return False
        here = any(directory == folder.inode.ino for directory, _ in last.links)
        return here and self._tree.publisher.files.get(last.ino) is not None

    def _split(self, folder: Folder) -> tuple[list[bytes], int]:
        """(names that can go now, number of names that must wait for their objects)."""
        added: set[bytes] = set()
        waiting = 0
        folder.awaited = None
        inode_of = self._tree.inodes.get
        for name, pending in folder.pending.items():
            if pending.ino is not None:
                inode = inode_of(pending.ino)
                if inode is not None and (inode.interim or not inode.dirty):
                    added.add(name)
                else:
                    waiting += 1
                    folder.awaited = pending.ino
        ready = self._reach.ready(folder, added)
        if len(ready) + waiting < len(folder.pending):
            self._tree.publisher.waiting_removals.add(folder)
        return ready, waiting

    def reconsider(self, folder: Folder) -> None:
        """A newer version was adopted: what was removed here and changed by others meanwhile is there again."""
        self._merging.merge(folder, [name for name, pending in folder.pending.items() if pending.ino is None])

    async def give_way(self, folder: Folder) -> None:
        """What is removed or replaced here waits for others, and they for this: it stays as it is on the grid."""
        async with folder.lock:
            ready, _ = self._split(folder)
            for name in list(folder.pending):
                if name in ready or name not in folder.pending or folder.base_raw(name) is None:
                    continue
                log.info("something was not removed, as it waited in vain for what others moved")
                self._merging.stand_aside(folder, name)

    # --- a new directory ---------------------------------------------------------------------------------

    async def _create(self, folder: Folder, ready: list[bytes]) -> None:
        folder.publishing = dict.fromkeys(ready)
        crash_point("directory.start")
        try:
            new = await self._tree.nodes.new_directory(new_directory_is_mdmf(self._tree, folder.inode))
            still = set(self._split(folder)[0]).intersection(ready)  # making the key took its time
            drafts = [self._draft(folder, name, None) for name in ready if name in still]
            sent = await write_entries(drafts, new.writekey)
            changes = {one.stored: one.raw for one in sent if one.raw is not None}
            node, snapshot = await new.publish(Packed().with_changes(changes))
            await self._tree.kept.keep(node, snapshot)
            folder.node, folder.snapshot = node, snapshot
            folder.checked = trio.current_time()
            crash_point("directory.created")
            change = Change(self._tree)
            change.caps(folder.inode, (node.cap.to_bytes(), node.cap.read_cap().to_bytes()))
            change.commit(freeing=True)
            await self._done(folder, sent)
        finally:
            folder.publishing = {}

    # --- a known one -------------------------------------------------------------------------------------

    async def _publish(self, folder: Folder) -> None:
        node = folder.node
        assert node is not None
        collided = False
        for round_ in range(ROUNDS):
            ready = await self._reconcile(folder)
            if not self._tree.may_be_on_grid(folder.inode):
                return  # removed meanwhile
            base = folder.snapshot
            drafts = self._plan(folder, ready, base)
            removed = {one.name: folder.removed[one.name] for one in drafts if one.name in folder.removed}
            moved = self._moves.moved_from(folder, (one.name for one in drafts if one.pending is not None))
            if not drafts and not folder.again and not (collided and base is not None and not base.settled):
                if folder.attempts:
                    await self._done(folder, [])
                self._tree.settle(folder.inode)
                return
            self._let_rivals_go_first(folder, base)
            folder.publishing = {one.name: None for one in drafts}
            try:
                sent = await write_entries(drafts, node.writekey)
                changes = {one.stored: one.raw for one in sent}
                packed = base.packed.with_changes(changes) if base else Packed().with_changes(changes)
                self._remember(folder, sent)
                crash_point("directory.attempt")
                published = await node.publish(base, packed)
                await self._tree.kept.keep(node, published)
                folder.replace(published)
                folder.checked = trio.current_time()
                folder.again = False
                crash_point("directory.sent")
                await self._done(folder, sent)
            except UncoordinatedWriteError:
                log.info("a directory was changed by somebody else; merging")
                crash_point("directory.collision")
                await trio.sleep(random.uniform(0.05, 0.2) * 2**round_)
                self._tree.absorb(folder, await self._tree.newest(folder, writing=True))
                collided, folder.again = True, False
                continue
            finally:
                folder.publishing = {}
            for name, inode in removed.items():
                if folder.removed.get(name) is inode:
                    del folder.removed[name]
            await self._removals.look_back(folder, removed)
            self.removed_lately.add(folder, removed)
            await self._moves.look_back(folder, moved)
            return
        raise UncoordinatedWriteError("others keep writing this directory")

    def _let_rivals_go_first(self, folder: Folder, base: Snapshot | None) -> None:
        """Of two that wrote one version each, the one who failed adds what he has to the other version: for a while,
        who comes third must not go on from one of the two. UncoordinatedWriteError.
        """
        if base is None or base.pinned is None or not base.rivalled:
            self._rivals.mended(folder.inode.ino)
        elif self._rivals.still(folder.inode.ino, base.pinned.servermap.state()) < STILL:
            raise UncoordinatedWriteError("two others wrote this directory at the same time")

    async def _reconcile(self, folder: Folder) -> list[bytes]:
        """Hold our changes against the newest version; the names to send."""
        checked: set[bytes] = set()
        while True:
            await self._tree.kept.catch_up(folder)  # before the journal forgets what it shows
            ready, _ = self._split(folder)
            leaving = [name for name in ready if name in folder.removed and name not in checked]
            both = []
            for name in leaving:
                checked.add(name)
                if await self._removals.is_contested(folder, name):
                    both += [name] if self._merging.clash(folder, name) else []
            moved = self._moves.moved_from(folder, (name for name in ready if name not in checked))
            for name, inode in moved.items():
                checked.add(name)
                await self._moves.check(folder, name, inode)
            leaving += moved
            returning = await self._let_go(folder, [name for name in ready if name not in checked])
            checked.update(returning)
            leaving += returning
            if not leaving:
                both = self._merging.merge(folder, ready)
            for name in both:
                await self._merging.unite(folder, name)
            if not leaving and not both:
                return self._split(folder)[0]  # merging may have renamed some

    async def _let_go(self, folder: Folder, names: list[bytes]) -> list[bytes]:
        """Names of directories that others moved are not given back; those that were looked at."""
        looked_at: list[bytes] = []
        for name in names:
            inode = self.elsewhere.coming_back(folder, name)
            if inode is None:
                continue
            looked_at.append(name)
            if await self.elsewhere.has(inode, folder) and self.elsewhere.coming_back(folder, name) is inode:
                self.elsewhere.let_go(folder, name, inode)
        return looked_at

    def _plan(self, folder: Folder, names: list[bytes], base: Snapshot | None) -> list[Draft]:
        drafts: list[Draft] = []
        upon = only_tahoes(base)
        adding = {(folder.inode.ino, name) for name in names if folder.pending[name].ino is not None}
        for name in names:
            old = base.packed.raw(folder.stored(name)) if base is not None else None
            drafts.append(self._draft(folder, name, old)._replace(upon=upon))
            parked = self._park(folder, name, old, adding)
            if parked is not None:
                drafts.append(parked)
        return drafts

    def _draft(self, folder: Folder, name: bytes, old: bytes | None) -> Draft:
        pending = folder.pending[name]
        if pending.ino is None:
            return Draft(name, folder.stored(name), pending)
        inode = self._tree.inode(pending.ino).as_now()
        keep = old if pending.base_ino == pending.ino else None
        return Draft(name, folder.stored(name), pending, inode, keep, folder.mark_of(name, pending))

    def _park(self, folder: Folder, name: bytes, old: bytes | None, adding: set[Link]) -> Draft | None:
        pending = folder.pending[name]
        if pending.base_ino is None:
            return None
        moved = self._reach.must_park(folder, name, adding)
        if moved is None or old is None or digest(old) != pending.base:
            return None  # or an earlier attempt has parked it already
        assert folder.node is not None
        temporary = PARKED + f"{moved.ino:x}".encode()
        entry = parsed(old)
        rw = moved.caps[0] if moved.caps is not None else b""
        raw = make_entry(temporary.decode(), entry.ro_uri, rw, entry.metadata, folder.node.writekey)
        return Draft(temporary, temporary.decode(), None, moved, raw=raw)

    # --- the journal -------------------------------------------------------------------------------------

    def _remember(self, folder: Folder, sent: list[Sent]) -> None:
        """Should we die before the answer comes, the next mount knows these entries as ours."""
        batch = Batch()
        parked: dict[bytes, Pending] = {}
        for one in sent:
            mark = digest(one.raw)
            if mark is not None:
                folder.attempts.setdefault(one.name, set()).add(mark)
            if one.pending is None:  # a temporary name is to be removed from the moment on it may exist
                parked[one.name] = Pending(None, mark, one.ino, self._tree.next_version())
                batch.edges[folder.inode.ino, one.name] = EdgeRow(one.name, None, mark, one.ino)
        batch.meta[attempts_key(folder.inode.ino)] = _attempts_row(folder.attempts)
        self._tree.journal.commit(batch, freeing=True)
        folder.pending.update(parked)

    async def _done(self, folder: Folder, sent: list[Sent]) -> None:
        """The grid has these names: forget what is still as it was sent, rebase what changed meanwhile."""
        parked = {one.ino for one in sent if one.pending is None}
        last = max(0, len(sent) - 1) // SLICE * SLICE
        for start in range(0, last, SLICE):
            self._forget(folder, sent[start : start + SLICE], parked, Batch())
            crash_point("directory.forgetting")
            await trio.lowlevel.checkpoint()  # a large directory must not keep the kernel waiting
        batch, attempts = Batch(), self._open_attempts(folder, sent)
        batch.meta[attempts_key(folder.inode.ino)] = (
            _attempts_row(attempts) if self._has_rows(folder) else None
        )
        self._forget(folder, sent[last:], parked, batch)
        crash_point("directory.done")
        folder.attempts = attempts
        if not folder.pending:
            folder.put_back.clear()
            folder.returned.clear()
        if folder.inode.born is None:  # from now on others can know what is in here
            for one in sent:
                child = self._tree.inodes.get(one.ino) if one.ino is not None else None
                if child is not None:
                    child.born = None
        self._tree.settle(folder.inode)
        self._wake_waiting()

    def _has_rows(self, folder: Folder) -> bool:
        """Of a removed directory the journal has nothing any more, unless something was moved out of it."""
        return folder.inode.stored or self._tree.may_be_on_grid(folder.inode)

    def _forget(self, folder: Folder, sent: list[Sent], parked: Collection[int | None], batch: Batch) -> None:
        """Do so with some names of the version, and commit `batch`; `parked`: what has a temporary name in it."""
        tree, directory = self._tree, folder.inode.ino
        has_rows = self._has_rows(folder)
        changed: dict[bytes, Pending | None] = {}
        for one in sent:
            mark = digest(one.raw)
            now = folder.pending.get(one.name)
            if one.pending is None:
                continue
            target = tree.inodes.get(one.ino) if one.ino is not None else None
            same = now is not None and now.version == one.pending.version
            same = same and (target is None or target.edition == one.edition)
            if same and target is not None and target.dirty:
                target.interim = False  # it goes again when it has been written
                same = False
            if same:
                changed[one.name] = None
            elif now is not None:
                changed[one.name] = now._replace(base=mark, base_ino=one.ino)
        for name, pending in changed.items():
            row = EdgeRow(name, pending.ino, pending.base, pending.base_ino) if pending and has_rows else None
            batch.edges[directory, name] = row
        finished = self._finished(folder, changed)
        for inode in finished:
            batch.objects[inode.ino] = None
        removed = self._removed(sent, changed, parked)
        for inode in removed:
            forget_directory(inode, batch)
        tree.journal.commit(batch, freeing=True)
        for name, pending in changed.items():
            if pending is None:
                self._merging.forget_pending(folder, name)
            else:
                folder.pending[name] = pending
        for inode in finished + removed:
            inode.stored = False
            tree.inodes.drop_if_unused(inode)

    def _finished(self, folder: Folder, changed: dict[bytes, Pending | None]) -> list[Inode]:
        """Inodes whose journal rows are not needed once `changed` holds."""
        gone: Counter[int] = Counter()
        for name, pending in changed.items():
            before = folder.pending.get(name)
            if pending is None and before is not None and before.ino is not None:
                gone[before.ino] += 1
        inodes = ((self._tree.inodes.get(ino), count) for ino, count in gone.items())
        return [inode for inode, count in inodes if inode and inode.pending == count and inode.settled]

    def _open_attempts(self, folder: Folder, sent: list[Sent]) -> dict[bytes, set[bytes]]:
        """Earlier attempts that are on the grid although what they were made of has changed since."""
        done = {one.name for one in sent}
        packed = folder.snapshot.packed if folder.snapshot is not None else Packed()
        return {
            name: marks
            for name, marks in folder.attempts.items()
            if name not in done
            and name in folder.pending
            and digest(packed.raw(folder.stored(name))) in marks
        }

    def _removed(
        self, sent: list[Sent], changed: dict[bytes, Pending | None], parked: Collection[int | None]
    ) -> list[Inode]:
        """Directories of which the journal kept what was moved out of them, and that the grid does not have now."""
        gone: list[Inode] = []
        for one in sent:
            if one.pending is None or one.pending.base_ino in parked or changed.get(one.name, one.pending):
                continue
            gone += kept_for(self._tree.inodes, one.pending)
        return gone

    def _wake_waiting(self) -> None:
        """Removals elsewhere may have waited for what was just published."""
        waiting = self._tree.publisher.waiting_removals
        for folder in list(waiting):
            waiting.discard(folder)
            self._tree.publisher.directory_changed(folder)

    def is_published(self, inode: Inode) -> bool:
        """Whether the grid has this inode as it is now, and leads there from the root."""
        if inode.ino == ROOT:
            return inode.folder is None or not inode.folder.pending
        if inode.dirty or inode.pending or (inode.folder is not None and inode.folder.pending):
            return False
        return self._reach.reachable(inode)


def _attempts_row(attempts: dict[bytes, set[bytes]]) -> object | None:
    return [(name, sorted(marks)) for name, marks in attempts.items()] or None
