"""Versions of a directory that did not get to all servers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from lafsfs.config import Encoding
from lafsfs.formats.caps import DirCap, MutableWriteCap
from lafsfs.formats.dirnode import make_entry
from tests.support.grids import client, share_files
from tests.support.many import start_all
from tests.support.storage import StorageServer

TWO_OF_THREE = Encoding(2, 2, 3)


async def leave_half(servers: Sequence[StorageServer], root: DirCap) -> None:
    """Leave one share of the next version, as a writer that is killed between two servers does."""
    before = _shares(servers[1:], root)
    await _publish(servers, root)
    _put_back(servers[1:], before)


async def leave_in_the_middle(servers: Sequence[StorageServer], root: DirCap) -> Callable[[], None]:
    """Leave the next version on one of three servers while another one has nothing, so that no version can be
    recovered: its writer is slow. What is returned lets him come to his end.
    """
    before = _shares(servers[1:2], root)
    await _publish(servers, root)
    whole = _shares(servers, root)
    _put_back(servers[1:2], before)
    for path in _shares(servers[2:], root):
        path.unlink()
    return functools.partial(_put_back, servers, whole)


async def leave_half_of_a_file(servers: Sequence[StorageServer], cap: MutableWriteCap) -> None:
    """As `leave_half`, of a mutable file."""
    before = _shares(servers[1:], cap)
    async with client(servers, TWO_OF_THREE) as nodes:
        await nodes.mutable_file(cap).overwrite(b"half", None)
    _put_back(servers[1:], before)


async def leave_torn(servers: Sequence[StorageServer], root: DirCap, later: int = 0) -> None:
    """Leave one share each of different next versions: none of them can be recovered. With `later` other versions were
    complete before them, which nobody saw.
    """
    for _ in range(later):
        await _publish(servers, root)
    before = _shares(servers, root)
    torn: dict[Path, bytes] = {}
    for server in servers:
        await _publish(servers, root)
        torn |= _shares([server], root)
        _put_back(servers, before)
    _put_back(servers, torn)


async def _publish(servers: Sequence[StorageServer], root: DirCap) -> None:
    """Publish another version, as a client that remembers nothing."""
    async with client(servers, TWO_OF_THREE) as nodes:
        directory = nodes.directory(root)
        snapshot = await directory.read()
        entry = make_entry("half", b"URI:LIT:me", b"", b"{}", directory.writekey)
        await directory.publish(snapshot, snapshot.packed.with_changes({"half": entry}))


def _shares(servers: Sequence[StorageServer], cap: DirCap | MutableWriteCap) -> dict[Path, bytes]:
    assert cap.storage_index is not None
    files = (path for server in servers for path in share_files(server, cap.storage_index).values())
    return {path: path.read_bytes() for path in files}


def _put_back(servers: Sequence[StorageServer], shares: dict[Path, bytes]) -> None:
    for server in servers:
        server.stop()
    for path, data in shares.items():
        path.write_bytes(data)
    start_all(servers)
