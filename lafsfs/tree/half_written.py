"""Versions that somebody is writing just now: one server has them already, others do not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from lafsfs.errors import NotEnoughSharesError
from lafsfs.nodes.directory import Directory, Snapshot

PAUSES = (0.05, 0.1, 0.2, 0.4)  # seconds: a writer is done with all servers within them, or not soon

Answer = TypeVar("Answer")


async def when_written(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """What `ask` returns, asked again as long as a version cannot be recovered that may be on its way.

    NotEnoughSharesError if it still cannot after the last pause.
    """
    for pause in PAUSES:
        try:
            return await ask()
        except NotEnoughSharesError:
            await trio.sleep(pause)
    return await ask()


async def newest(node: Directory, known: Snapshot) -> Snapshot:
    """The newest version of a directory, by one small read from each server if it is `known` already. GridError."""
    if await when_written(node.version) == known.version:
        return known
    return await when_written(node.read)
