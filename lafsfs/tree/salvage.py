"""What a damaged journal still holds, made visible: files and directories whose names are lost come into the root."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lafsfs.errors import JournalError
from lafsfs.tree.attributes import new_attributes
from lafsfs.tree.change import Change
from lafsfs.tree.directories import NAME_MAX
from lafsfs.tree.inodes import ROOT, Inline, Inode, Staged

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

_MODE = 0o100600
PREFIX = b"recovered-"


class Losses:
    """What recovery could not read, or read and could not place.

    `objects`: inode numbers of unreadable rows; `edges`: how many names are unreadable; `names`: (directory, name) that
    lead to lost objects; `contents`: inodes whose content is damaged; `homeless`: (name, object) of lost directories,
    None for a removed name.
    """

    def __init__(self) -> None:
        self.objects: set[int] = set()
        self.edges = 0
        self.names: list[tuple[int, bytes]] = []
        self.contents: list[Inode] = []
        self.homeless: list[tuple[bytes, Inode | None]] = []
        self.recovered: list[Inode] = []

    def __bool__(self) -> bool:
        return bool(self.objects or self.edges or self.names or self.contents or self.homeless)

    def rescued(self, tree: Tree, ino: int) -> Inode | None:
        """An inode for a lost row whose content can still be read, with fresh attributes."""
        try:
            data = tree.journal.content(ino)
        except JournalError:
            return None
        inode = _file(tree, ino, len(data))
        inode.content = Inline(None)
        inode.stored = True
        tree.inodes.add(inode)
        return inode

    def describe(self, tree: Tree) -> Iterator[str]:
        """A line for each loss, with the path where it is known."""
        if self.objects:
            yield f"{len(self.objects)} objects cannot be read"
        if self.edges:
            yield f"{self.edges} names cannot be read"
        for directory, name in self.names:
            inode = tree.inodes.get(directory)
            above = tree.path_of(inode) if inode is not None else "..."
            yield f"{above}/{name.decode(errors='backslashreplace')}: what it leads to is lost"
        for inode in self.contents:
            yield f"{tree.path_of(inode)}: its unpublished content is damaged"
        for inode in self.recovered:
            yield f"{tree.path_of(inode)}: it had lost its place"


def salvage(tree: Tree, losses: Losses, logs: set[str], synced: dict[str, int]) -> None:
    """Give a name in the root to everything that nothing leads to. Adds rescued logs to `logs`."""
    found = [(name, inode) for name, inode in losses.homeless if inode is not None]
    held = {inode.ino for _, inode in found}
    lost = (inode for inode in tree.inodes if _is_nameless(inode) and inode.ino not in held)
    found += [(f"{inode.ino:x}".encode(), inode) for inode in lost]
    if losses.objects or tree.journal.broken:  # rows may be gone without a trace
        found += _nameless_logs(tree, logs, synced)
    root = tree.inode(ROOT)
    assert root.folder is not None
    stamp = time.strftime("%Y%m%dT%H%M%S-", time.gmtime()).encode()
    for number, (name, inode) in enumerate(found):
        change = Change(tree)
        full = PREFIX + stamp + str(number).encode() + b"-" + name
        change.touch(inode, mode=inode.attributes.mode)
        change.point(root.folder, full[:NAME_MAX], inode)
        change.commit()
        losses.recovered.append(inode)


def _is_nameless(inode: Inode) -> bool:
    """Whether nothing leads to an object. (A clean directory may have its row for the sake of what is in it.)"""
    return inode.stored and not inode.pending and inode.ino != ROOT and (inode.dirty or not inode.is_dir)


def _nameless_logs(tree: Tree, logs: set[str], synced: dict[str, int]) -> Iterator[tuple[bytes, Inode]]:
    """Staged contents whose objects are lost: what they changed, without the content that they were laid over."""
    for path in sorted(tree.staging.directory.iterdir()):
        if path.name in logs:
            continue
        staged = tree.staging.recover(path.name, 0, 0, 0, synced.get(path.name, 0))
        if not staged.length:
            staged.remove()
            continue
        logs.add(path.name)
        inode = _file(tree, tree.inodes.fresh_number(), staged.size)
        inode.content = Staged(staged)
        staged.idle()
        yield path.name[:8].encode(), inode


def _file(tree: Tree, ino: int, size: int) -> Inode:
    attributes = new_attributes(_MODE, tree.options.uid, tree.options.gid, size=size)
    return Inode(ino, attributes, None)
