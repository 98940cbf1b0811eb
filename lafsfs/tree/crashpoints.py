"""Named places at which a test ends the process at once, as kill -9 would (contrib/doc/durability.md).

`LAFSFS_CRASH_AT=name` ends it when the place is reached, `name:3` when it is reached the third time. Unset, a place
costs one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from typing import Final

POINTS: Final = frozenset(
    {
        # the journal
        "journal.open",  # everything in it was read
        "journal.segment",  # a new segment was begun, there is nothing in it
        "journal.torn",  # half of a record is written
        "journal.commit",  # it is committed, memory does not know
        "journal.sync",  # its log is on the disk, the mark is not
        "journal.mark",  # the mark is written too
        "journal.tidy",  # what counts of an old segment was copied, the segment is still there
        "journal.remove",  # the copies are on the disk, the segment is still there
        # staged content
        "staging.create",  # the log file exists, no row names it
        "staging.torn",  # half of a record is written
        "staging.append",  # a record is written, its writer does not know
        "staging.rewrite",  # a wasteful log was copied, the row names the old one
        "staging.remove",  # no row names the log any more, it is still there
        # recovery
        "recovery.read",  # all rows are in memory
        "recovery.done",  # orphans are gone
        # publishing files
        "file.start",
        "file.ledger",  # where the shares go is in the journal
        "file.uploaded",  # the shares are on the grid, the journal does not know
        "file.done",  # the journal knows
        # publishing directories
        "directory.start",
        "directory.created",  # a new one is on the grid, its cap is not in the journal
        "directory.attempt",  # the journal knows what will be sent
        "directory.sent",  # the grid has it, the journal does not know
        "directory.forgetting",  # the journal knows of some of many names
        "directory.done",  # the journal knows
        "directory.collision",  # somebody else was quicker
        "directory.conflict",  # ours was given another name
        "directory.united",  # what is in ours is to be added to theirs
    }
)

_wanted, _, _number = os.environ.get("LAFSFS_CRASH_AT", "").partition(":")
_last = int(_number) if _number.isdigit() else 1
_times = itertools.count(1)


def crash_point(name: str, last: Callable[[], object] | None = None) -> None:
    """End the process here if that was asked for, after `last`."""
    if name == _wanted:
        _reached(last)


def _reached(last: Callable[[], object] | None) -> None:
    if next(_times) >= _last:
        if last is not None:
            last()
        os.kill(os.getpid(), signal.SIGKILL)


if _wanted and _wanted not in POINTS:
    raise ValueError(f"LAFSFS_CRASH_AT names no crash point: {_wanted}")
