"""What a mount says about itself, as plain data: for the control socket, `lafsfs status` and monitoring."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from lafsfs.tree.status import PendingItem, TreeStatus

Report = dict[str, Any]


def pending_of(status: TreeStatus) -> Report:
    """The three numbers that say how much is not on the grid yet."""
    return {
        "files": status.pending_files,
        "directories": status.pending_directories,
        "bytes": status.pending_bytes,
    }


def item_of(item: PendingItem) -> Report:
    """One pending object; `next_try` in seconds from now."""
    wait = None if item.next_try is None else max(0.0, round(item.next_try - time.time(), 1))
    return {
        "path": item.path,
        "kind": item.kind,
        "size": item.size,
        "state": item.state,
        "reason": item.reason,
        "next_try": wait,
    }


def leases_of(status: TreeStatus) -> Report:
    """How the renewal of leases stands; times in Unix seconds."""
    return asdict(status.leases) if status.leases is not None else {}


def items_of(items: Iterable[PendingItem], limit: int) -> list[Report]:
    """The first `limit` items, those with trouble first."""
    troubled_first = sorted(items, key=lambda item: item.state != "retrying")
    return [item_of(item) for item in troubled_first[:limit]]
