"""From settings to something that can read and write the grid: servers, secrets, cache, keys, nodes."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from lafsfs import config
from lafsfs.cache.segments import SegmentCache
from lafsfs.config import ClientSecrets, GridProfile, Paths
from lafsfs.config.files import make_private_directory
from lafsfs.daemon import local_grid
from lafsfs.daemon.capabilities import as_directory
from lafsfs.daemon.failures import lafs_error_in
from lafsfs.daemon.spec import DEFAULT_CACHE_BYTES, GridSource
from lafsfs.errors import GridError, NotEnoughServersError, PinMismatchError, UnknownAliasError
from lafsfs.formats import base32, hashing
from lafsfs.formats.caps import DirCap, parse
from lafsfs.formats.dirnode import Child, child_caps
from lafsfs.grid.servers import Grid
from lafsfs.nodes.directory import Directory
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.keypool import KeyPool

_STATE_TAG = b"lafsfs_state_directory_v1"
_KEYPOOL_TAG = b"lafsfs_keypool_v1"
_KEYPOOL_TARGET = 512  # directories that need not wait for a key; ten seconds of two idle cores


@dataclass(frozen=True)
class Engine:
    """A connected grid and what works on it."""

    paths: Paths
    grid: Grid
    cache: SegmentCache

    def nodes(self, keypool: KeyPool | None = None) -> NodeMaker:
        """A node maker, with keys from `keypool` or made on demand."""
        return NodeMaker(self.grid, self.cache, keypool or KeyPool(None, None, 0))


@asynccontextmanager
async def open_engine(
    paths: Paths, source: GridSource, cache_bytes: int = DEFAULT_CACHE_BYTES
) -> AsyncIterator[Engine]:
    """Connects nothing yet; starts the bundled server if there is no other grid. ConfigError."""
    profile, secrets = await trio.to_thread.run_sync(load_grid, paths, source)
    cache = SegmentCache(make_private_directory(paths.create().cache / "segments"), cache_bytes)
    async with Grid(profile, secrets) as grid:
        try:
            yield Engine(paths, grid, cache)
        except Exception as error:
            known = lafs_error_in(error)
            if isinstance(known, NotEnoughServersError):
                raise _with_reasons(known, grid) from error
            raise


def _with_reasons(error: NotEnoughServersError, grid: Grid) -> GridError:
    """`error` and why servers failed; a PinMismatchError when one of them is not who it should be."""
    failures = {server.name: server.health.last_failure for server in grid.servers}
    reasons = "; ".join(f"{name}: {failure}" for name, failure in failures.items() if failure is not None)
    mismatch = any(isinstance(failure, PinMismatchError) for failure in failures.values())
    kind = PinMismatchError if mismatch else NotEnoughServersError
    return kind(f"{error} ({reasons})" if reasons else str(error))


def state_directory(paths: Paths, root: DirCap) -> Path:
    """The directory of local state of the tree below `root`. Its name tells nothing to who has not the
    cap.
    """
    name = base32.encode(hashing.tagged(_STATE_TAG, root.to_bytes(), 16))
    return make_private_directory(paths.state / name)


def keypool_of(state_dir: Path, root: DirCap) -> KeyPool:
    """The stock of RSA keys of a tree that can be written, sealed under its cap."""
    seal = hashing.tagged(_KEYPOOL_TAG, root.to_bytes(), 32)
    return KeyPool(make_private_directory(state_dir / "keys"), seal, _KEYPOOL_TARGET)


async def walk(nodes: NodeMaker, root: DirCap, subpath: tuple[str, ...]) -> DirCap:
    """The directory at `subpath` below `root`. UnknownAliasError when there is none, BadCapError when it
    is a file.
    """
    cap = root
    for position, name in enumerate(subpath):
        child = await _child(nodes.directory(cap), unicodedata.normalize("NFC", name))
        if child is None:
            raise UnknownAliasError(f"there is no {'/'.join(subpath[: position + 1])!r} below that directory")
        cap = as_directory(child.cap)
    return cap


async def child_of(nodes: NodeMaker, caps: tuple[bytes, bytes], name: str) -> Child | None:
    """What the newest version of the directory with these (write, read) caps has under a name, None if nothing.

    BadCapError when it is no directory.
    """
    return await _child(nodes.directory(as_directory(parse(caps[0] or caps[1]))), name)


async def _child(directory: Directory, name: str) -> Child | None:
    entry = (await directory.read()).packed.get(name)
    if entry is None:
        return None
    return child_caps(entry, directory.writekey, directory.deep_immutable)


def load_grid(paths: Paths, source: GridSource) -> tuple[GridProfile, ClientSecrets]:
    """The servers and the client's secrets that `source` names. Starts the bundled server when it is
    needed.
    """
    if source.node_directory is not None:
        profile, secrets, _ = config.from_node_directory(source.node_directory)
        return profile, secrets
    secrets = ClientSecrets.load_or_create(make_private_directory(paths.config))
    if source.grid_file is not None:
        return GridProfile.load(source.grid_file), secrets
    return local_grid.own_grid(paths), secrets
