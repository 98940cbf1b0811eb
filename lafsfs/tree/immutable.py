"""Turning a directory into an immutable one, with all below it (formats.md section 7).

An immutable directory leads to immutable objects only. So directories become immutable from below, mutable files
immutable ones with their present content, and what cannot be made immutable is refused: verify caps, and capabilities
of unknown kinds that do not promise to be immutable. A file with several names becomes one file for each name that is
in there: its other names go on without them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import BadCapError, LafsError
from lafsfs.formats.caps import (
    Cap,
    ChkCap,
    DirCap,
    LiteralCap,
    MutableReadCap,
    MutableWriteCap,
    UnknownCap,
    parse,
)
from lafsfs.formats.packed import Packed, make_entry
from lafsfs.nodes.directory import Snapshot
from lafsfs.nodes.mutable import MutableFile
from lafsfs.tree.directories import LINKS_DIRECTORY, own_name
from lafsfs.tree.entries import parsed, see, write_entry
from lafsfs.tree.inodes import Inode
from lafsfs.tree.seen import Seen

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

_AT_ONCE = 8


@dataclass
class Sealed:
    """What became of a subtree. `caps` and `snapshots` by the read cap of the mutable object.

    `apart`: how many names files with several names have in there, by inode number.
    """

    caps: dict[bytes, ChkCap | LiteralCap | DirCap] = field(default_factory=dict, repr=False)
    snapshots: dict[bytes, Snapshot] = field(default_factory=dict, repr=False)
    apart: Counter[int] = field(default_factory=Counter)

    @property
    def counts(self) -> tuple[int, int]:
        """(directories, mutable files) that were made immutable."""
        directories = len(self.snapshots)
        return directories, len(self.caps) - directories


class Builder:
    """Makes immutable copies, children first. Reads what the grid has."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._nodes = tree.nodes
        self._slots = trio.CapacityLimiter(_AT_ONCE)
        self.sealed = Sealed()

    async def directory(self, cap: DirCap, path: str, above: frozenset[bytes]) -> DirCap:
        """An immutable directory that holds what `cap` holds now. `above`: read caps of those it is in."""
        key = cap.read_cap().to_bytes()
        if key in above:
            raise BadCapError(f"{path}: a directory that is inside itself cannot be immutable")
        try:
            async with self._slots:
                node = self._nodes.directory(cap)
                packed = (await node.read()).packed
            entries = await self._entries(packed, node.writekey, path, above | {key})
            async with self._slots:
                made, snapshot = await self._nodes.create_immutable_directory(Packed().with_changes(entries))
        except LafsError as problem:
            raise _located(problem, path) from None
        self.sealed.caps[key], self.sealed.snapshots[key] = made.cap, snapshot
        return made.cap

    async def _entries(
        self, packed: Packed, writekey: bytes | None, path: str, above: frozenset[bytes]
    ) -> dict[str, bytes]:
        entries: dict[str, bytes] = {}
        failures: list[LafsError] = []
        async with trio.open_nursery() as nursery:

            async def convert(stored: str, raw: bytes, cap: Cap) -> None:
                try:
                    made = await self._immutable(cap, f"{path}/{stored}", above)
                except LafsError as problem:
                    failures.append(problem)
                    nursery.cancel_scope.cancel()
                else:
                    entries[stored] = self._entry(stored, raw, writekey, made)

            for stored in packed.names():
                raw = packed.raw(stored)
                assert raw is not None
                if stored.encode() == LINKS_DIRECTORY:
                    continue  # for files with several names, of which there are none here
                cap = self._strongest(raw, writekey)
                if isinstance(cap, ChkCap | LiteralCap):
                    entries[stored] = self._entry(stored, raw, writekey, cap.to_bytes())
                else:
                    nursery.start_soon(convert, stored, raw, cap)
                await trio.lowlevel.checkpoint()
        if failures:
            raise failures[0]  # out here, so that the nursery does not put it into a group
        return entries

    def _strongest(self, raw: bytes, writekey: bytes | None) -> Cap:
        seen = see(raw, writekey, self._tree.options)
        return parse(seen.caps[0] or seen.caps[1])

    async def _immutable(self, cap: Cap, path: str, above: frozenset[bytes]) -> bytes:
        """The immutable capability for what `cap` stands for."""
        if isinstance(cap, UnknownCap):
            if cap.error is None and cap.text.startswith(b"imm."):
                return cap.text
            raise BadCapError(
                f"{path}: its capability is of an unknown kind, and may be one of something mutable"
            )
        if cap.is_verifier:
            raise BadCapError(f"{path}: a verify cap cannot be in an immutable directory")
        if isinstance(cap, MutableWriteCap | MutableReadCap):
            return await self._file(cap, path)
        if isinstance(cap, DirCap) and cap.is_mutable:
            return (await self.directory(cap, path, above)).to_bytes()
        return cap.to_bytes()

    async def _file(self, cap: MutableWriteCap | MutableReadCap, path: str) -> bytes:
        try:
            async with self._slots:
                node = self._nodes.mutable_file(cap)
                made = await self._nodes.upload(_Version(node, (await node.latest()).size))
        except LafsError as problem:
            raise _located(problem, path) from None
        self.sealed.caps[cap.read_cap().to_bytes()] = made
        return made.to_bytes()

    def _entry(self, stored: str, raw: bytes, writekey: bytes | None, ro_uri: bytes) -> bytes:
        seen = see(raw, writekey, self._tree.options)
        if seen.nlink is not None and seen.nlink > 1 and not seen.attributes.is_dir and seen.ino is not None:
            return self._entry_apart(stored, raw, seen, ro_uri)
        return make_entry(stored, ro_uri, b"", parsed(raw).metadata, None)

    def _entry_apart(self, stored: str, raw: bytes, seen: Seen, ro_uri: bytes) -> bytes:
        """One name of several: a file of its own, as the latest change under any of its names left it."""
        tree = self._tree
        assert seen.ino is not None
        self.sealed.apart[seen.ino] += 1
        inode = Inode(tree.inodes.fresh_number(), seen.attributes, (b"", ro_uri))
        inode.xattrs, inode.extra = seen.xattrs, seen.extra
        anchor = tree.hard_links.state(seen.ino)
        if anchor is not None and anchor.attributes.ctime > seen.attributes.ctime:
            inode.attributes, inode.xattrs = anchor.attributes, anchor.xattrs
            if isinstance(parse(anchor.caps[1]), ChkCap | LiteralCap):
                inode.caps = (b"", anchor.caps[1])
        return write_entry(inode, stored, own_name(stored, raw) or stored.encode(), raw, None)


class _Version:
    """A version of a mutable file, ready for upload."""

    def __init__(self, node: MutableFile, size: int) -> None:
        self._node = node
        self.size = size

    async def read_into(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` from `offset`."""
        buf[:] = await self._node.read(offset, len(buf))


def _located(problem: LafsError, path: str) -> LafsError:
    """The same error; its message begins with where it happened."""
    if not str(problem).startswith(path):
        problem.args = (f"{path}: {problem}", *problem.args[1:])
    return problem
