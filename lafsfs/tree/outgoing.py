"""The entries of a version on its way to the grid: decided at one moment, written a few at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import trio

from lafsfs.tree.directories import Pending
from lafsfs.tree.entries import write_entry
from lafsfs.tree.inodes import Inode

SLICE = 16  # entries, of some 0.1 ms each, between two looks at what else is to be done


class Draft(NamedTuple):
    """One name of a version whose entry is to be written."""

    name: bytes
    stored: str
    pending: Pending | None  # None: a temporary name for a moved object
    inode: Inode | None = None  # as it was when the version was decided; None: the name is removed
    old: bytes | None = None  # the entry that it follows
    put_back: tuple[int, int] | None = None  # as in emptied.py
    raw: bytes | None = None  # the entry, if it is known already
    upon: tuple[int, str] | None = None  # as in emptied.py


class Sent(NamedTuple):
    """One name of a version on its way."""

    name: bytes
    stored: str
    pending: Pending | None  # None: a temporary name for a moved object
    raw: bytes | None
    ino: int | None
    edition: int  # of the inode


async def write_entries(drafts: Sequence[Draft], writekey: bytes | None) -> list[Sent]:
    """The entries of a version. Names may change meanwhile, as they may until the grid has answered."""
    sent: list[Sent] = []
    for draft in drafts:
        if len(sent) % SLICE == SLICE - 1:
            await trio.lowlevel.checkpoint()  # a large directory must not keep the kernel waiting
        sent.append(_written(draft, writekey))
    return sent


def _written(draft: Draft, writekey: bytes | None) -> Sent:
    inode, raw = draft.inode, draft.raw
    if inode is None:
        return Sent(draft.name, draft.stored, draft.pending, None, None, 0)
    if raw is None:
        raw = write_entry(inode, draft.stored, draft.name, draft.old, writekey, draft.put_back, draft.upon)
    return Sent(draft.name, draft.stored, draft.pending, raw, inode.ino, inode.edition)
