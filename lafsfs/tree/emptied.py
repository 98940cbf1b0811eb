"""What Tahoe-LAFS drops from a directory that was empty when it began to change it.

Tahoe 1.20 reads the version that it saw first again with every attempt, whatever others wrote since. As long as that
version has any content, its shares are gone by then and the attempt fails. But the content of an empty directory is
zero bytes: no share is needed for those, and the version that Tahoe then writes holds nothing but its own entry.
"""

from __future__ import annotations

from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree.entries import same_object

_TAHOES, _OURS = b'"tahoe"', b'"lafsfs"'  # keys of an entry's metadata


def dropped(before: Snapshot, after: Snapshot) -> set[str]:
    """The names, as stored, whose objects `after` has lost in this way; none if it came about in any other.

    Only versions that follow each other tell: by one change Tahoe removes at most one name, and leaves the others as
    they were. lafsfs may remove many and add others, but its entries can be told from Tahoe's.
    """
    if after.version.seqnum != before.version.seqnum + 1 or not len(after.packed):
        return set()
    if not all(_is_tahoes(after.packed, before.packed, name) for name in after.packed.names()):
        return set()
    if all(name in after.packed for name in before.packed.names()):
        return set()  # Tahoe replaced the only ones there were
    return {name for name in before.packed.names() if not _is_there(after.packed, before.packed, name)}


def _is_tahoes(after: Packed, before: Packed, name: str) -> bool:
    raw = after.raw(name) or b""
    return _TAHOES in raw and _OURS not in raw and raw != before.raw(name)


def _is_there(after: Packed, before: Packed, name: str) -> bool:
    raw, old = after.raw(name), before.raw(name)
    return raw is not None and old is not None and same_object(raw, old)
