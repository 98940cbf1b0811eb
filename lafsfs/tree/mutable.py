"""Writing files that are mutable on the grid: they keep their cap, and nobody's version is overwritten unseen.

The journal remembers which version a change was made against, what stood in the ranges that were written, and which
versions we sent ourselves. When the grid holds another version, ranges that nobody else touched are written into that
one; else theirs stays, and ours becomes a new file beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import trio

from lafsfs.errors import GridError
from lafsfs.formats.caps import MutableWriteCap, parse
from lafsfs.nodes.mutable import MutableFile
from lafsfs.transfer.servermap import Version
from lafsfs.transfer.update import Patch
from lafsfs.tree.contents import InlineSource, StagedSource
from lafsfs.tree.inodes import Caps, Inode
from lafsfs.tree.journal import Batch
from lafsfs.tree.ranges import Ranges
from lafsfs.tree.torn import readable

if TYPE_CHECKING:
    from lafsfs.tree.change import Change
    from lafsfs.tree.tree import Tree

BASE_KEY = "base:"
BEFORE_KEY = "before:"
PATIENCE = 5.0  # seconds for which a writer waits for the version that it changes
IMAGE_MAX = 1 << 20  # a smaller file is read as a whole when it is opened for writing
BEFORE_MAX = 16 << 20  # so much of what stood in written ranges is remembered
PATCH_MAX = 16 << 20  # more is sent by rewriting the file


class Outcome(NamedTuple):
    """`caps` are those under which what was sent can be read. `version` is the newest of a mutable file then;
    `conflict` when that one is somebody else's and ours went to a file of its own."""

    caps: Caps
    version: Version | None = None
    conflict: bool = False


@dataclass
class Base:
    """What a change was made against. `version` None: not known. `before` holds bytes of that version."""

    version: Version | None
    before: Ranges = field(default_factory=Ranges)
    sent: set[tuple[int, bytes]] = field(default_factory=set)
    node: MutableFile | None = None

    def row(self) -> list[object]:
        known = self.version
        head: list[object] = [known.seqnum, known.root_hash, known.size] if known is not None else [0, b"", 0]
        return [*head, [list(one) for one in self.sent]]


def write_cap(inode: Inode) -> MutableWriteCap | None:
    """The cap to write to, if the file is mutable."""
    if inode.caps is None or not inode.caps[0] or inode.is_dir:
        return None
    cap = parse(inode.caps[0])
    return cap if isinstance(cap, MutableWriteCap) else None


class MutableWriter:
    """Sends changed contents of mutable files."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._bases: dict[int, Base] = {}
        self._lock = trio.Lock()

    # --- before something is changed -----------------------------------------------------------------------

    async def opened(self, inode: Inode) -> None:
        """A file is opened for writing: see to it that we know which version that is."""
        cap = write_cap(inode)
        if cap is None or inode.content is not None:
            return
        async with self._lock:
            if inode.content is None:
                self._bases[inode.ino] = await self._open(inode, cap)

    async def before(self, inode: Inode, start: int, end: int) -> None:
        """[start, end) is about to be written: remember what stands there, as far as the grid tells in time."""
        cap = write_cap(inode)
        if cap is None:
            return
        async with self._lock:
            base = self._known(inode)
            known = self._tree.measured_version(inode)
            if base is None or (inode.content is None and known is not None and base.version != known):
                base = self._bases[inode.ino] = await self._open(inode, cap)
            if base.version is not None and base.node is not None:
                await self._remember(inode, base, start, min(end, base.version.size))

    async def _open(self, inode: Inode, cap: MutableWriteCap) -> Base:
        """The newest version, with what is needed to read it later on. If it cannot be had, what was known."""
        node = self._tree.nodes.mutable_file(cap)
        seen = self._tree.measured_version(inode)
        try:
            with trio.fail_after(PATIENCE):
                version = await readable(node)
                image = await node.read(0, version.size if version.size <= IMAGE_MAX else 1)
        except (GridError, trio.TooSlowError):
            return Base(seen)
        if version != seen and inode.writers:
            return Base(seen)  # somebody has the one before open for writing
        self._tree.show_version(inode, version)
        base = Base(version, node=node)
        if len(image) == version.size:
            base.before.add(0, image)
        return base

    async def _remember(self, inode: Inode, base: Base, start: int, end: int) -> None:
        for first, last in base.before.missing(start, end):
            if base.before.count + last - first > BEFORE_MAX or base.node is None:
                return
            try:
                with trio.fail_after(PATIENCE):
                    data = await base.node.read(first, last - first)
            except (GridError, trio.TooSlowError):
                base.node = None  # it is not to be had any more, and nobody is kept waiting again
                return
            base.before.add(first, data)
            if inode.content is not None:
                batch = Batch()
                batch.meta[_before_key(inode.ino, first)] = data
                self._tree.journal.commit(batch)

    def note_base(self, change: Change, inode: Inode) -> None:
        """The first change of a content: write down what it is made against."""
        if inode.content is not None or write_cap(inode) is None:
            return
        base = self._bases.get(inode.ino)
        known = self._tree.measured_version(inode)
        if base is None or base.version != known:
            base = self._bases[inode.ino] = Base(known)
        change.meta(_base_key(inode.ino), base.row())
        if base.before.count <= IMAGE_MAX:
            for start, data in base.before:
                change.meta(_before_key(inode.ino, start), data)

    def finished(self, change: Change, inode: Inode) -> None:
        """Nothing of a content is pending any more."""
        if self._bases.pop(inode.ino, None) is None and write_cap(inode) is None:
            return
        change.meta(_base_key(inode.ino), None)
        for key, _ in self._tree.journal.metas(f"{BEFORE_KEY}{inode.ino}:"):
            change.meta(key, None)

    def _known(self, inode: Inode) -> Base | None:
        """What we know of the base, after a start from the journal."""
        base = self._bases.get(inode.ino)
        if base is not None or inode.content is None:
            return base
        row = self._tree.journal.meta(_base_key(inode.ino))
        if not isinstance(row, list) or len(row) != 4:
            return None
        seqnum, root_hash, size, sent = row
        base = Base(Version(seqnum, root_hash, size) if seqnum else None)
        base.sent = {(number, digest) for number, digest in sent}
        for key, data in self._tree.journal.metas(f"{BEFORE_KEY}{inode.ino}:"):
            if isinstance(data, bytes):
                base.before.add(int(key.rpartition(":")[2], 16), data)
        self._bases[inode.ino] = base
        return base

    # --- sending ---------------------------------------------------------------------------------------------

    async def send(self, inode: Inode, cap: MutableWriteCap, source: InlineSource | StagedSource) -> Outcome:
        """Make `source` the newest version, or a new immutable file if somebody else changed the same.

        GridError; UncoordinatedWriteError if somebody is just writing.
        """
        assert inode.caps is not None
        node = self._tree.nodes.mutable_file(cap)
        newest = await self._tree.torn.base(inode.ino, node)
        base = self._known(inode) or Base(None)
        if newest == base.version or (newest.seqnum, newest.root_hash) in base.sent:
            node.tell_before_sending(lambda version: self._sending(inode, base, version))
            limit = source.snapshot.base_limit if isinstance(source, StagedSource) else 0
            version = await _write(node, newest, source, limit, source.size)
        else:
            merged = await _merge(base, node, newest, source)
            if merged is None:
                copy = await self._tree.nodes.upload(await _ours(base, node, source))
                self._tree.show_version(inode, newest, quietly=True)
                return Outcome((b"", copy.to_bytes()), newest, conflict=True)
            version = newest
            if merged.differs:
                version = await _write(node, newest, source, merged.limit, merged.size)
        self._tree.show_version(inode, version, quietly=True)
        return Outcome(inode.caps, version)

    async def create(self, inode: Inode, source: InlineSource | StagedSource, mdmf: bool) -> Outcome:
        """Make a new mutable file of `source`. GridError."""
        node = await self._tree.nodes.create_mutable(source, mdmf)
        assert node.pinned is not None
        self._sending(inode, self._bases.setdefault(inode.ino, Base(None)), node.pinned)
        self._tree.show_version(inode, node.pinned, quietly=True)
        return Outcome((node.cap.to_bytes(), node.cap.read_cap().to_bytes()), node.pinned)

    def _sending(self, inode: Inode, base: Base, version: Version) -> None:
        """Should the answer be lost, we know this version as ours."""
        base.sent.add((version.seqnum, version.root_hash))
        batch = Batch()
        batch.meta[_base_key(inode.ino)] = base.row()
        self._tree.journal.commit(batch, freeing=True)


class _Merged(NamedTuple):
    limit: int  # so many bytes of theirs stay
    size: int
    differs: bool  # from what they have


async def _merge(
    base: Base, node: MutableFile, newest: Version, source: InlineSource | StagedSource
) -> _Merged | None:
    """How our ranges go onto theirs; None if both changed the same."""
    if isinstance(source, InlineSource):  # all of it was written
        same = source.size == newest.size and await node.read(0, newest.size) == await _bytes(
            source, 0, source.size
        )
        return _Merged(0, newest.size, differs=False) if same else None
    snapshot = source.snapshot
    known = base.version
    if known is None:
        return None
    ranges = source.ranges()
    if snapshot.base_limit < known.size:  # a part was cut off
        if any(start > snapshot.base_limit for start, _ in ranges) or newest.size != known.size:
            return None
        ranges = [r for r in ranges if r[1] <= snapshot.base_limit] + [(snapshot.base_limit, known.size)]
    size = _size(known.size, source.size, newest.size)
    if size is None or sum(end - start for start, end in ranges) > BEFORE_MAX:
        return None
    differs = size != newest.size
    for start, end in ranges:
        theirs = (await node.read(start, end - start)).ljust(end - start, b"\0")
        ours = (await _bytes(source, start, min(end, source.size))).ljust(end - start, b"\0")
        if theirs != ours:
            differs = True
            if theirs != base.before.get(start, end, known.size):
                return None
    cut = snapshot.base_limit < known.size
    return _Merged(snapshot.base_limit if cut else newest.size, size, differs)


def _size(base: int, ours: int, theirs: int) -> int | None:
    if ours in (base, theirs):
        return theirs
    if theirs == base:
        return ours
    return max(ours, theirs) if min(ours, theirs) > base else None


async def _ours(
    base: Base, node: MutableFile, source: InlineSource | StagedSource
) -> InlineSource | StagedSource:
    """Our content as a whole: unwritten parts as we saw them if we still know them, else as they are now."""
    if isinstance(source, InlineSource) or base.version is None:
        return source
    image = base.before.get(0, base.version.size, base.version.size)
    if image is not None:
        data = bytearray(source.size)
        kept = image[: min(source.snapshot.base_limit, source.size)]
        data[: len(kept)] = kept
        for start, end in source.ranges():
            data[start:end] = await _bytes(source, start, end)
        return InlineSource(bytes(data))
    return source.over(node, source.snapshot.base_limit, source.size)


async def _write(
    node: MutableFile, newest: Version, source: InlineSource | StagedSource, limit: int, size: int
) -> Version:
    """Publish `source` on top of the first `limit` bytes of `newest`."""
    if isinstance(source, InlineSource):
        return await node.overwrite(source, newest)
    ranges = source.ranges()
    if node.cap.mdmf and sum(end - start for start, end in ranges) <= PATCH_MAX:
        pieces = [(start, memoryview(await _bytes(source, start, end))) for start, end in ranges]
        first, *more = pieces or [(0, memoryview(b""))]
        keep = limit if limit < min(newest.size, size) else None
        return await node.patch(Patch(*first, size, more, keep), newest)
    return await node.overwrite(source.over(node, limit, size), newest)


async def _bytes(source: InlineSource | StagedSource, start: int, end: int) -> bytes:
    data = bytearray(max(0, end - start))
    await source.read_into(start, memoryview(data))
    return bytes(data)


def _base_key(ino: int) -> str:
    return f"{BASE_KEY}{ino}"


def _before_key(ino: int, start: int) -> str:
    return f"{BEFORE_KEY}{ino}:{start:x}"
