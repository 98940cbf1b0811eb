"""Deleting shares all of whose leases have expired (formats.md section 5.3). Off unless asked for."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from typing import Final

from lafsfs.errors import FormatError, LafsError
from lafsfs.formats import base32
from storage_server.changes import Change, Delete
from storage_server.errors import BadContainerError
from storage_server.immutable import ImmutableContainer
from storage_server.layout import Kind, kind_of
from storage_server.mutable import MutableContainer
from storage_server.store import Store

_INTERVAL: Final = 12 * 3600.0
_PAUSE: Final = 0.01
_log = logging.getLogger("storage_server.expiry")


async def expire_for_ever(store: Store) -> None:
    """Look through all shares, again and again."""
    while True:
        await asyncio.sleep(_INTERVAL)
        deleted = await expire(store, time.time())
        if deleted:
            _log.info("%d shares deleted whose leases had expired", deleted)


async def expire(store: Store, now: float) -> int:
    """Delete every share without a lease that lasts beyond `now`; the number of shares deleted."""
    deleted = 0
    for storage_index in _storage_indexes(store.layout.shares):
        async with store.locks.hold(storage_index):
            changes: list[Change] = [
                Delete(storage_index, shnum)
                for shnum in store.layout.share_numbers(storage_index)
                if _expired(store.layout.share(storage_index, shnum), now)
            ]
            if changes:
                try:
                    await store.journal.commit(changes)
                    deleted += len(changes)
                except LafsError as error:
                    _log.error("expiry: %s", error)
        await asyncio.sleep(_PAUSE)
    return deleted


def _storage_indexes(shares: str) -> Iterator[bytes]:
    for prefix in sorted(os.listdir(shares)):
        if len(prefix) != 2:
            continue
        for name in sorted(os.listdir(f"{shares}/{prefix}")):
            try:
                yield base32.decode(name)
            except FormatError:
                _log.debug("not a bucket: %s/%s", prefix, name)


def _expired(path: str, now: float) -> bool:
    """Whether a share has leases and all have expired. A damaged file, or one without leases, stays."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        kind = kind_of(fd)
        if kind is Kind.IMMUTABLE:
            held = ImmutableContainer.load(fd).read_leases(fd)
        elif kind is Kind.MUTABLE:
            held = MutableContainer.load(fd).all_leases()
        else:
            return False
    except BadContainerError:
        return False
    finally:
        os.close(fd)
    return bool(held) and all(lease.expiration < now for lease in held)
