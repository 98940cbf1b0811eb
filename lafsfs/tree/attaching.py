"""Giving a name in the tree to what a capability stands for (formats.md section 3), and taking it away again."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from lafsfs.errors import BadCapError, FormatError, UsageError
from lafsfs.formats.caps import Cap, ChkCap, DirCap, UnknownCap, parse
from lafsfs.formats.chk import MAX_SHARES
from lafsfs.formats.dirnode import understand
from lafsfs.tree.attributes import foreign_attributes, now
from lafsfs.tree.change import Change
from lafsfs.tree.entries import content_size
from lafsfs.tree.inodes import Caps, Inode
from lafsfs.tree.stillness import still

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


def caps_to_attach(text: bytes) -> Caps:
    """What an entry for the capability `text` holds. BadCapError for what gives no access to any object.

    A capability of a kind that is not known is taken only behind the prefix `ro.` or `imm.`: without it, it might be a
    write capability, and those who may only read the directory would get it. Messages do not hold the capability.
    """
    cap = parse(text)
    if isinstance(cap, UnknownCap) and cap.error is not None:
        raise BadCapError(f"that is not a well-formed capability ({_reason(cap.error)})")
    if not text:
        raise BadCapError("that is no capability: it is empty")
    if not isinstance(cap, UnknownCap):
        _check_known(cap)
    elif any(byte <= ord(" ") for byte in text):
        raise BadCapError("that is no capability: there is white space in it")
    try:
        child = understand(text, b"", deep_immutable=False)
    except FormatError as problem:
        raise BadCapError(
            "that is no capability of a kind lafsfs knows, and without the prefix 'ro.' or 'imm.' it may be one that "
            "allows writing, which could not be kept from those who may only read"
        ) from problem
    return child.rw_uri, child.ro_uri


def _check_known(cap: Cap) -> None:
    assert not isinstance(cap, UnknownCap)
    if cap.is_verifier:
        raise BadCapError("that is a verify cap: it can check shares, but not read what they hold")
    file = cap.file if isinstance(cap, DirCap) else cap
    if isinstance(file, ChkCap) and not 1 <= file.k <= file.n <= MAX_SHARES:
        raise BadCapError("that is not a well-formed capability (encoding parameters out of range)")


def _reason(error: FormatError) -> str:
    return str(error).removeprefix("malformed cap: ")


async def attach(tree: Tree, parent: int, name: bytes, caps: Caps) -> Inode:
    """Let `name` lead to what `caps` stand for. In the journal on return; nothing of it is read from the grid.

    OSError as for creating a file; ReadOnlyError. UsageError for a directory below itself: programs that walk the tree
    would never come to an end.
    """
    folder = await tree.names.open_for_new(parent, name)
    cap = parse(caps[0] or caps[1])
    is_dir = isinstance(cap, DirCap)
    if isinstance(cap, DirCap):
        _check_no_loop(tree, folder.inode, cap)
    options = tree.options
    ids = (options.uid, options.gid, options.umask)
    attributes = foreign_attributes(is_dir, content_size(caps) or 0, now(), ids)
    inode = Inode(tree.inodes.fresh_number(), attributes, caps, nlink=2 if is_dir else 1)
    change = Change(tree)
    change.touch(inode, mode=attributes.mode)
    change.count_links(folder.inode, int(is_dir))
    change.stamp(folder.inode)
    change.point(folder, name, inode)
    change.commit()
    tree.kernel.entry_changed(parent, name)
    tree.kernel.inode_changed(parent, content=True)
    return inode


def _check_no_loop(tree: Tree, directory: Inode, cap: DirCap) -> None:
    if cap.storage_index is None:
        return
    for above in (directory, *tree.ancestors(directory)):
        there = parse(above.caps[1]) if above.caps is not None else None
        if isinstance(there, DirCap) and there.storage_index == cap.storage_index:
            raise UsageError("that directory would be inside itself")


async def detach(tree: Tree, parent: int, name: bytes, timeout: float | None = None) -> None:
    """Take a name away, and leave what it led to as it is. In the journal on return.

    What was changed in a directory is published before. OSError as for unlink; ReadOnlyError; BusyError and
    PendingError: see `still`.
    """
    inode = await tree.names.lookup(parent, name)
    if not inode.is_dir:
        await tree.names.unlink(parent, name)
    else:
        tree.check_changeable(await tree.folder(parent))
        async with still(tree, inode, timeout):
            folder = await tree.folder(parent)
            if tree.resolve(folder, name) is not inode:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            tree.names.remove_directory(folder, name, inode)
            folder.removed.pop(name, None)  # others may go on changing what is in it
    tree.kernel.entry_changed(parent, name)
    tree.kernel.inode_changed(parent, content=True)
