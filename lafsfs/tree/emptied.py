"""What Tahoe-LAFS drops from a directory that was empty when it began to change it.

Tahoe 1.20 reads the version that it saw first again with every attempt, whatever others wrote since. As long as that
version has any content, its shares are gone by then and the attempt fails. But the content of an empty directory is
zero bytes: no share is needed for those, and the version that Tahoe then writes holds nothing but its own entry. It
tries four times, and waits up to 20 seconds in between.

Others may build upon that version before anybody has looked at it. So who changes a version that holds nothing but one
entry of Tahoe's says so in an entry of the next one: the sequence number, and the name of that entry. Whoever knows the
version just before, without that name, knows then what was dropped.

Who puts back what is missing may not know the version that was lost, only one before it. So what is put back carries
two sequence numbers: of the version that it is from, and of the one in which it was missing. Whoever knows a version
between the two puts back what is in that one.
"""

from __future__ import annotations

from lafsfs.formats.packed import Packed
from lafsfs.nodes.directory import Snapshot
from lafsfs.tree.entries import linked_since, same_object, was_put_back, written_upon

_TAHOES, _OURS = b'"tahoe"', b'"lafsfs"'  # keys of an entry's metadata

LONGEST = 45.0
"""Seconds after which no change is under way any more that began when a directory was empty."""


def dropped(before: Snapshot, after: Snapshot, empty_ago: float) -> set[str]:
    """The names, as stored, whose objects `after` has lost in this way; none if it came about in any other.

    Of two versions that follow each other that is certain: by one change Tahoe removes at most one name, and leaves the
    others as they were; lafsfs may remove many and add others, but its entries can be told from Tahoe's. With versions
    between them it is likely if the directory was empty less than `LONGEST` seconds ago: `empty_ago`. (Somebody who
    removes all of it as soon as it has been made, and puts other files there by Tahoe, gets back what he removed.)
    """
    if after.version.seqnum != before.version.seqnum + 1 and empty_ago > LONGEST:
        return set()
    if after.version.seqnum <= before.version.seqnum or not len(after.packed):
        return set()
    if not all(is_tahoes(after.packed, before.packed, name) for name in after.packed.names()):
        return set()
    if all(_was_seen(after.packed, before.packed, name) for name in before.packed.names()):
        return set()  # Tahoe replaced the only ones there were
    return _missing(before, after)


def forgotten(before: Snapshot, after: Snapshot) -> tuple[set[str], int]:
    """The names, as stored, that are in `before` and were not put back by who put others back in or before `after`, nor
    by those who built upon a version without them, and the sequence number of the version in which they were missing;
    no names if who put others back knew `before`, or if it came later.
    """
    known = before.version.seqnum
    if after.version.seqnum < known + 2:
        return set(), 0
    since: list[tuple[int, int]] = []
    for name in after.packed.names():
        raw = after.packed.raw(name) or b""
        mark, upon = was_put_back(raw), written_upon(raw)
        if mark is not None and known < mark[1]:
            since.append(mark)
        if upon is not None and known == upon[0] - 1 and upon[1] not in before.packed:
            since.append((0, upon[0]))
    if not since or max(since)[0] >= known:
        return set(), 0
    return _missing(before, after), max(since)[1]


def only_tahoes(base: Snapshot | None) -> tuple[int, str] | None:
    """What who changes `base` says of it: its sequence number, and the name of its one entry; None if there are others,
    or if Tahoe did not write it.
    """
    if base is None or len(base.packed) != 1:
        return None
    (name,) = base.packed.names()
    return (base.version.seqnum, name) if is_tahoes(base.packed, Packed(), name) else None


def _missing(before: Snapshot, after: Snapshot) -> set[str]:
    return {name for name in before.packed.names() if not _is_there(after.packed, before.packed, name)}


def is_tahoes(after: Packed, before: Packed, name: str) -> bool:
    """Whether an entry of `after` is Tahoe's, and not in `before`."""
    raw = after.raw(name) or b""
    return _TAHOES in raw and _OURS not in raw and raw != before.raw(name)


def _was_seen(after: Packed, before: Packed, name: str) -> bool:
    """Whether who put something under a name of `before` knew of that: Tahoe keeps the time since which there is such a
    name.
    """
    raw, old = after.raw(name), before.raw(name)
    return raw is not None and old is not None and linked_since(raw) == linked_since(old)


def _is_there(after: Packed, before: Packed, name: str) -> bool:
    raw, old = after.raw(name), before.raw(name)
    return raw is not None and old is not None and same_object(raw, old)
