"""Writing files that are mutable on the grid: they keep their cap, and nobody's version is overwritten unseen.

The journal remembers which version a change was made against, and what was sent: when the grid holds anything else,
ours becomes a new file beside it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import trio

from lafsfs.formats.caps import MutableWriteCap, parse
from lafsfs.nodes.mutable import MutableFile
from lafsfs.transfer.servermap import Version
from lafsfs.tree.contents import InlineSource, StagedSource
from lafsfs.tree.inodes import Caps, Inode
from lafsfs.tree.journal import Batch

if TYPE_CHECKING:
    from lafsfs.tree.change import Change
    from lafsfs.tree.tree import Tree

BASE_KEY = "base:"
_STEP = 1 << 20


class Outcome(NamedTuple):
    """`caps` are those under which what was sent can be read. `theirs`: the version that stands instead of it."""

    caps: Caps
    theirs: Version | None = None


def base_key(ino: int) -> str:
    """The journal's name for the version that a mutable file was changed against."""
    return f"{BASE_KEY}{ino}"


def write_cap(inode: Inode) -> MutableWriteCap | None:
    """The cap to write to, if the file is mutable."""
    if inode.caps is None or not inode.caps[0]:
        return None
    cap = parse(inode.caps[0])
    return cap if isinstance(cap, MutableWriteCap) else None


class MutableWriter:
    """Sends changed contents of mutable files."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def note_base(self, change: Change, inode: Inode) -> None:
        """The first change of a content: remember the version that its writer saw."""
        if inode.content is not None or write_cap(inode) is None:
            return
        known = self._tree.measured_version(inode)
        if known is not None:
            change.meta(base_key(inode.ino), _row(known, b""))

    async def send(self, inode: Inode, cap: MutableWriteCap, source: InlineSource | StagedSource) -> Outcome:
        """Make `source` the newest version, or a new immutable file if somebody else was quicker.

        GridError; UncoordinatedWriteError if somebody is just writing.
        """
        assert inode.caps is not None
        node = self._tree.nodes.mutable_file(cap)
        newest = await node.latest()
        base, sent = self._base(inode)
        if base is not None and base != newest:
            theirs = await digest_of(node, newest.size)
            if theirs == await digest_of(source, source.size):
                self._sent(inode, newest, theirs)
                return Outcome(inode.caps)
            if theirs != sent:
                copy = await self._tree.nodes.upload(source)
                return Outcome((b"", copy.to_bytes()), newest)
        digest = await digest_of(source, source.size)
        self._save(inode, _row(base or newest, digest))
        self._sent(inode, await _write(node, newest, source), digest)
        return Outcome(inode.caps)

    async def create(self, inode: Inode, source: InlineSource | StagedSource, mdmf: bool) -> Outcome:
        """Make a new mutable file of `source`. GridError."""
        digest = await digest_of(source, source.size)
        node = await self._tree.nodes.create_mutable(source, mdmf)
        assert node.pinned is not None
        self._sent(inode, node.pinned, digest)
        return Outcome((node.cap.to_bytes(), node.cap.read_cap().to_bytes()))

    def _base(self, inode: Inode) -> tuple[Version | None, bytes]:
        row = self._tree.journal.meta(base_key(inode.ino))
        if not isinstance(row, list) or len(row) != 4:
            return None, b""
        seqnum, root_hash, size, sent = row
        return Version(seqnum, root_hash, size), sent

    def _sent(self, inode: Inode, version: Version, digest: bytes) -> None:
        """The grid holds what we sent: a change made meanwhile is one of this version."""
        self._save(inode, _row(version, digest))
        self._tree.measured_as(inode, version)

    def _save(self, inode: Inode, row: list[object]) -> None:
        batch = Batch()
        batch.meta[base_key(inode.ino)] = row
        self._tree.journal.commit(batch, freeing=True)


def _row(version: Version, sent: bytes) -> list[object]:
    return [version.seqnum, version.root_hash, version.size, sent]


async def _write(node: MutableFile, newest: Version, source: InlineSource | StagedSource) -> Version:
    patch = source.single_patch(newest.size) if isinstance(source, StagedSource) and node.cap.mdmf else None
    if patch is not None:
        start, end = patch
        return await node.update(start, await _bytes(source, start, end), newest, source.size)
    return await node.overwrite(await _bytes(source, 0, source.size), newest)


async def _bytes(source: InlineSource | StagedSource, start: int, end: int) -> bytes:
    data = bytearray(end - start)
    await source.read_into(start, memoryview(data))
    return bytes(data)


async def digest_of(content: MutableFile | InlineSource | StagedSource, size: int) -> bytes:
    """Identifies a content; reads all of it."""
    digest = hashlib.blake2b(digest_size=32)
    for start in range(0, size, _STEP):
        end = min(start + _STEP, size)
        if isinstance(content, MutableFile):
            piece = await content.read(start, end - start)
        else:
            piece = await _bytes(content, start, end)
        await trio.to_thread.run_sync(digest.update, piece)
    return digest.digest()
