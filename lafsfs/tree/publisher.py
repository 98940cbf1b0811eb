"""The journal to the grid: children before parents, paced, retried for ever (design.md section 3).

Two queues of jobs, keyed by inode number: contents to upload and directories to publish. A directory is published when
its children are on the grid, or without the late ones after `directory_wait`; a finished child wakes its directory.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import JournalError, PendingError
from lafsfs.tree.change import Change
from lafsfs.tree.contents import InlineSource, PatientSource, StagedSource
from lafsfs.tree.crashpoints import crash_point
from lafsfs.tree.directories import Folder
from lafsfs.tree.inodes import Caps, Inline, Inode, Staged
from lafsfs.tree.ledger import JournalLedger, ledger_key
from lafsfs.tree.merge import conflict_name
from lafsfs.tree.mutable import MutableWriter, Outcome, write_cap
from lafsfs.tree.new_files import format_of_new_file
from lafsfs.tree.publishing import DirectoryPublisher
from lafsfs.tree.queue import Bell, Job, Queue

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

OPEN_IDLE = 5.0  # seconds without a write after which an open file is published as it is
OPEN_LATEST = 60.0  # an open file that is written all the time is published this often at most
PACE = 4.0  # a directory rests this many times as long as its last publishing took
DIRECTORY_SLOTS = 8
# In a hurry so many at a time: small requests to one server then travel together (adr/batches.md). Large contents wait
# for memory.
HURRIED_UPLOADS, HURRIED_DIRECTORIES = 64, 48
RESUMED_FROM = 1 << 20  # uploads of so many bytes go on where they stopped; smaller ones begin again
LARGE = 8 << 20  # bytes; the upload of a larger file gives way to programs in its middle
QUIET = 0.1  # seconds without a request after which programs are not busy with the tree
LOOK_AGAIN = 0.01  # seconds before a directory that waits for children is looked at again
PARKED_CHECK = 5.0  # seconds after which a directory that waits for others looks again by itself
IN_VAIN = 12.0  # seconds for which directories wait for nothing but each other


class Publisher:
    """Owns what is on its way to the grid."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        options = tree.options
        self._changed = Bell()
        rules = self.busy_until, self._requests, self._changed
        self.files = Queue(self._publish_file, options.upload_slots, *rules, hurried_slots=HURRIED_UPLOADS)
        self.directories = Queue(
            self._publish_directory, DIRECTORY_SLOTS, *rules, hurried_slots=HURRIED_DIRECTORIES
        )
        # Directories with names that wait for objects moved elsewhere.
        self.waiting_removals: set[Folder] = set()
        self._directory_publisher = DirectoryPublisher(tree)
        self.mutable = MutableWriter(tree)
        self._rest_until: dict[int, float] = {}
        self._held: dict[int, Inode] = {}  # directories being published, until nothing is left to do for them
        self._in_vain: dict[int, float] = {}  # since when a directory waits while nothing else moves
        # Directories that were published, while others may have removed them.
        self._to_look_above: set[int] = set()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.files.run)
            nursery.start_soon(self.directories.run)
            nursery.start_soon(self._directory_publisher.removed_lately.run)

    def busy_until(self) -> float:
        """The time from which on programs are not busy with the tree, if no more requests come."""
        return self._tree.last_request + QUIET

    def _requests(self) -> int:
        return self._tree.requests

    # --- what changed ----------------------------------------------------------------------------------

    def file_changed(self, inode: Inode) -> None:
        """The content of a file is (or was just made) unpublished."""
        now = trio.current_time()
        wait = OPEN_IDLE if inode.writers else self._tree.options.publish_delay
        self.files.want(inode.ino, now + wait)

    def file_written(self, inode: Inode) -> None:
        """An open file got more bytes: it is published when it rests, or at the latest some time after it began."""
        job = self.files.get(inode.ino)
        if job is None:
            self.file_changed(inode)
        elif job.due - trio.current_time() < OPEN_IDLE / 2:
            latest = job.since + OPEN_LATEST
            self.files.want(inode.ino, min(trio.current_time() + OPEN_IDLE, max(latest, trio.current_time())))

    def directory_changed(self, folder: Folder) -> None:
        """Names, or what they lead to, differ from the grid."""
        ino, delay = folder.inode.ino, self._tree.options.publish_delay
        if self.directories.waits(ino, self._tree.last_request + delay):
            return  # as nearly always when a program works in a directory
        if not folder.pending and folder.inode.caps is not None and self.directories.get(ino) is None:
            return
        due = trio.current_time() + delay
        self.directories.want(ino, max(due, self._rest_until.get(ino, 0.0)), sooner=True)

    def publish_again(self, folder: Folder) -> None:
        """Have a directory published once more as it is: `folder.again` is set."""
        self.directories.want(folder.inode.ino, trio.current_time(), sooner=True)

    def reconsider(self, folder: Folder) -> None:
        """A newer version of a directory was adopted; the caller has its lock."""
        self._directory_publisher.reconsider(folder)

    async def look_at_removed(self) -> None:
        """Whether something was written in what was removed a moment ago is looked at now."""
        await self._directory_publisher.removed_lately.look()

    async def is_elsewhere(self, directory: Inode) -> bool:
        """Whether a directory that lost its name here has another one."""
        return await self._directory_publisher.elsewhere.has(directory)

    def has_changes_below(self, directory: Inode) -> bool:
        """Whether something was made or changed in a directory that is not on the grid yet, or just came there.
        (Removals are no reason to keep it.)
        """
        if any(self._is_in(ino, directory) for ino in self._to_look_above):
            return True
        for job in (*self.files, *self.directories):
            inode = self._tree.inodes.get(job.key)
            if inode is None or inode.nlink <= 0:
                continue
            names = inode.folder.pending.values() if inode.folder is not None else ()
            if not inode.dirty and all(pending.ino is None for pending in names):
                continue
            if self._is_in(job.key, directory):
                return True
        return False

    def _is_in(self, ino: int, directory: Inode) -> bool:
        inode = self._tree.inodes.get(ino)
        return inode is not None and (inode is directory or directory in self._tree.ancestors(inode))

    # --- files -------------------------------------------------------------------------------------------

    async def _publish_file(self, job: Job) -> None:
        inode = self._tree.inodes.get(job.key)
        if inode is None or inode.nlink <= 0 or inode.content is None:
            return
        version = inode.version
        crash_point("file.start")
        outcome = await self._upload(inode)
        link = inode.first_link
        beside = await self._tree.folder(link[0]) if outcome.conflict and link is not None else None
        # A write may be on its way to the log in a worker thread: it is part of the next version.
        async with self._tree.files.changing(inode):
            self._published(inode, job, outcome, version, beside)

    def _published(
        self, inode: Inode, job: Job, outcome: Outcome, version: int, beside: Folder | None
    ) -> None:
        """The grid has what was version `version` of a content."""
        if inode.nlink <= 0:
            return
        if inode.version != version:
            self._overtaken(inode, job, outcome)
            return
        inode.interim = False
        change = Change(self._tree)
        change.content(inode, None)
        self.mutable.finished(change, inode)
        if not outcome.conflict:
            change.caps(inode, outcome.caps)
        else:
            self._keep_beside(change, inode, outcome.caps, beside)
        if outcome.version is not None:
            change.touch(inode, size=outcome.version.size)
        if isinstance(inode.content, Staged):
            change.retire(inode.content.file)
            change.meta(ledger_key(inode.ino), None)
        if outcome.version is not None:
            change.then(lambda: self._tree.kernel.inode_changed(inode.ino, content=True))
        crash_point("file.uploaded")
        change.commit()
        crash_point("file.done")

    def _overtaken(self, inode: Inode, job: Job, outcome: Outcome) -> None:
        """It was written while it was sent: what the grid has is not the newest."""
        new_mutable = inode.caps is None and bool(outcome.caps[0])  # what was written meanwhile goes there
        lasting = inode.writers > 0 and not outcome.caps[0] and not outcome.conflict
        if new_mutable or lasting:
            # Of the content, holes are read from the caps' version: the new one has the same there.
            change = Change(self._tree)
            change.caps(inode, outcome.caps)
            change.commit(freeing=True)
            inode.interim = lasting
        job.since = trio.current_time()
        job.again = job.since + (OPEN_IDLE if inode.writers else self._tree.options.publish_delay)

    def _keep_beside(self, change: Change, inode: Inode, caps: Caps, folder: Folder | None) -> None:
        """Somebody else changed a mutable file, too: ours becomes a file of its own."""
        # What holds changes back for a while (unmounting, sealing) waits for this one.
        link = inode.first_link
        if folder is None or link is None or (folder.node is not None and not folder.node.writable):
            raise JournalError("somebody else changed this file, and there is no place for a copy of ours")
        tree = self._tree
        name = conflict_name(link[1], tree.options.label, time.time(), folder.kids.__contains__)
        copy = Inode(tree.inodes.fresh_number(), inode.attributes, caps)
        copy.xattrs = inode.xattrs
        change.touch(copy)
        change.point(folder, name, copy)
        change.then(lambda: tree.note_conflict(copy))

    async def _upload(self, inode: Inode) -> Outcome:
        """Send the content as it is now."""
        content, tree = inode.content, self._tree
        base = tree.file_node(inode.caps) if inode.caps is not None else None
        if isinstance(content, Inline):
            return await self._send(inode, InlineSource(tree.files.inline_data(inode, content)))
        assert isinstance(content, Staged)
        log = content.file
        log.pin()
        try:
            return await self._send(inode, StagedSource(log.snapshot(), base))
        finally:
            log.unpin()
            if inode.opens == 0:
                log.idle()

    async def _send(self, inode: Inode, source: InlineSource | StagedSource) -> Outcome:
        nodes = self._tree.nodes
        mutable = write_cap(inode)
        if mutable is not None:
            return await self.mutable.send(inode, mutable, source)
        if inode.caps is None and (form := format_of_new_file(self._tree, inode)) != "chk":
            return await self.mutable.create(inode, source, form == "mdmf")
        ledger = JournalLedger(self._tree.journal, inode.ino) if source.size >= RESUMED_FROM else None
        known = source.snapshot.beginning if isinstance(source, StagedSource) else None
        limit = self._tree.options.inline_limit
        large = source.size >= LARGE
        plaintext = PatientSource(source, partial(self.files.give_way, inode.ino)) if large else source
        cap = await nodes.upload(plaintext, ledger, literal_limit=limit, known=known)
        return Outcome((b"", cap.to_bytes()))

    # --- directories -------------------------------------------------------------------------------------

    async def _publish_directory(self, job: Job) -> None:
        inode = self._tree.inodes.get(job.key)
        if inode is None or inode.folder is None or not self._tree.may_be_on_grid(inode):
            self._to_look_above.discard(job.key)
            self._in_vain.pop(job.key, None)
            self._release(job.key)
            return
        self._hold(inode)
        began = trio.current_time()
        deadline = job.since + self._tree.options.directory_wait
        late, job.awaited = began >= deadline or job.awaited, False
        progress = await self._directory_publisher.publish(inode.folder, late)
        ended = trio.current_time()
        rest = PACE * (ended - began)
        if progress.sent:
            self._to_look_above.add(inode.ino)
            self._tree.guard.published(inode.folder)
            self._tree.mending.published(inode.folder)
        if inode.ino in self._to_look_above:
            await self._tree.look_above(inode)  # if it fails, the job comes back
            self._to_look_above.discard(inode.ino)
        if progress.sent:
            job.since = ended
            deadline = ended + self._tree.options.directory_wait
        if progress.left and job.again is None:
            job.parked = True
            job.again = max(deadline, ended + PARKED_CHECK)
            await self._look_whether_in_vain(job, inode.folder)
        else:
            self._in_vain.pop(job.key, None)
        if progress.waiting:  # each child that arrives wakes it: looking at all of them takes its time
            job.firm = ended + max(rest, LOOK_AGAIN)
        self._rest_until[inode.ino] = 0.0 if self.directories.hurried else ended + rest
        if len(self._rest_until) > 10_000:
            self._rest_until = {ino: until for ino, until in self._rest_until.items() if until > ended}
        self._release(job.key)

    def _hold(self, inode: Inode) -> None:
        """A directory that was published could be forgotten at once, and then not be missed above."""
        if inode.ino not in self._held:
            self._held[inode.ino] = inode
            inode.anchors += 1

    def _release(self, ino: int) -> None:
        inode = self._held.pop(ino, None)
        if inode is not None:
            inode.anchors -= 1
            self._tree.inodes.drop_if_unused(inode)

    async def _look_whether_in_vain(self, job: Job, folder: Folder) -> None:
        moves = len(self.files) or any(not one.parked for one in self.directories)
        since = self._in_vain.setdefault(job.key, trio.current_time())
        if moves:
            del self._in_vain[job.key]
        elif trio.current_time() - since > IN_VAIN:
            del self._in_vain[job.key]
            await self._directory_publisher.give_way(folder)
            self.directory_changed(folder)

    # --- waiting -------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether everything is on the grid."""
        return not len(self.files) and not len(self.directories)

    async def drain(self, timeout: float | None) -> None:
        """Publish all there is now; PendingError when `timeout` seconds were not enough."""
        with self.hurried():
            with trio.move_on_after(float("inf") if timeout is None else timeout):
                while not self.idle:
                    await self._changed.wait()
                return
            left = len(self.files) + len(self.directories)
            raise PendingError(f"{left} changes are not on the grid yet; they are safe in the journal")

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """While the context lasts, nothing waits for its time."""
        self.files.hurry()
        self.directories.hurry()
        try:
            yield
        finally:
            self.files.relax()
            self.directories.relax()

    async def wait_for(self, inode: Inode) -> None:
        """Return when `inode` as it is now can be reached on the grid from the root. ETIMEDOUT after `sync_wait`."""
        with trio.move_on_after(self._tree.options.sync_wait):
            await self.published(inode)
            return
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    async def published(self, inode: Inode) -> None:
        """As `wait_for`, however long it takes. Nothing beside the way to `inode` is waited for."""
        if inode.folder is not None:
            for pending in list(inode.folder.pending.values()):
                if pending.ino is not None:
                    self.files.hurry_one(pending.ino)
                    self.directories.hurry_one(pending.ino)
        while inode.nlink > 0 and not self._directory_publisher.is_published(inode):
            self.files.hurry_one(inode.ino)
            for directory in (inode, *self._tree.ancestors(inode)):
                self.directories.hurry_one(directory.ino)
            await self._changed.wait()
