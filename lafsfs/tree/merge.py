"""Our edges onto a newer version of a directory: who wins, and what a kept loser is called. Pure."""

from __future__ import annotations

import enum
import re
import time
from collections.abc import Callable, Collection

from lafsfs.tree.directories import NAME_MAX, digest
from lafsfs.tree.entries import same_object

_UNPLAIN = re.compile(r"[^A-Za-z0-9._-]")
_LABEL_MAX = 64
_MARK = re.compile(rb"\.conflict-[A-Za-z0-9._-]+-\d{8}T\d{6}(-\d+)?$")

PARKED = b".lafsfs-moving-"
"""Temporary names of moved objects begin with this (reachability.py)."""


class Verdict(enum.Enum):
    """What to do with one of our changes."""

    APPLY = "ours goes to the grid"
    DROP = "the other's change wins over our removal"
    CONFLICT = "both changed it: the other's stays under the name, ours is kept under another"


def decide(
    theirs: bytes | None, ours: bytes | None, base: bytes | None, attempts: Collection[bytes]
) -> Verdict:
    """Compare the grid's entry with ours. `base` is the digest that ours was made against, `attempts` digests of what
    we may have written there ourselves; None stands for no entry.
    """
    there = digest(theirs)
    if there == base or there in attempts or theirs is None or theirs == ours:
        return Verdict.APPLY
    if ours is None:
        return Verdict.DROP
    if same_object(theirs, ours):
        return Verdict.APPLY
    return Verdict.CONFLICT


def conflict_name(name: bytes, label: str, when: float, taken: Callable[[bytes], bool]) -> bytes:
    """`a.txt` -> `a.conflict-<label>-<time>.txt`: the extension stays last, the result is free and fits. A conflict
    copy of a conflict copy says so once.
    """
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(when))
    if name.startswith(PARKED):
        name = b"moved"
    stem, dot, extension = (_MARK.sub(b"", name) or name).rpartition(b".")
    if not stem or len(extension) > 16:
        stem, dot, extension = stem + dot + extension, b"", b""
    stem = _MARK.sub(b"", stem) or stem
    who = _UNPLAIN.sub("_", label)[:_LABEL_MAX]
    number = 0
    while True:
        mark = f".conflict-{who}-{stamp}{f'-{number}' if number else ''}".encode()
        room = NAME_MAX - len(mark) - len(dot) - len(extension)
        candidate = _shortened(stem, room) + mark + dot + extension
        if not taken(candidate):
            return candidate
        number += 1


def _shortened(stem: bytes, room: int) -> bytes:
    """At most `room` bytes of a name, without a part of a UTF-8 character at the end."""
    for _ in range(3):
        if len(stem) > room and stem[room] & 0xC0 == 0x80:
            room -= 1
    return stem[:room]
