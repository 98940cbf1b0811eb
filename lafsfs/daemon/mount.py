"""A mount as a process, step by step, from the request to the last byte in the journal.

The order matters: the root is known before the state directory is locked, the lock is held before a
mountpoint is touched, the control socket answers before the kernel does, and everything is taken down in
the opposite order.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio

from lafsfs.config import Paths
from lafsfs.daemon import client, control, engine, mountpoint
from lafsfs.daemon.address import socket_name
from lafsfs.daemon.capabilities import root_cap
from lafsfs.daemon.engine import Engine
from lafsfs.daemon.instance import InstanceLock
from lafsfs.daemon.memory import give_back
from lafsfs.daemon.service import MountService
from lafsfs.daemon.spec import MountRequest, MountSettings
from lafsfs.errors import MountpointError, PendingError
from lafsfs.formats.caps import DirCap
from lafsfs.fuse.session import FuseOptions, serve
from lafsfs.transfer.keypool import KeyPool
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.tree import Tree, open_tree

_log = logging.getLogger(__name__)

# After SIGTERM or a plain unmount, so long is published what is pending. systemd kills after 90 s.
GRACE = 20.0
_SETTLED = 5.0
_INTERRUPTIONS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

# Called once: with notes for the user when the tree is usable.
Announce = Callable[[list[str]], None]
# Called when the state directory is known, which is where a background process logs.
UseLog = Callable[[Path], None]


@dataclass(frozen=True)
class _Mount:
    """What the steps share."""

    request: MountRequest
    paths: Paths
    engine: Engine
    root: DirCap
    state_dir: Path
    lock: InstanceLock
    announce: Announce

    @property
    def read_only(self) -> bool:
        return self.request.settings.read_only or not self.root.is_writable


async def run(request: MountRequest, paths: Paths, announce: Announce, use_log: UseLog) -> None:
    """Mounts and serves until the tree is unmounted or a signal ends it.

    Raises LafsError when it cannot be mounted, PendingError when a signal ended it with changes that are
    not on the grid (they are in the journal).
    """
    root = root_cap(request.cap)
    notes = await trio.to_thread.run_sync(_check_mountpoint, paths, request.mountpoint)
    async with engine.open_engine(paths, request.grid, request.settings.cache_bytes) as opened:
        root = await engine.walk(opened.nodes(), root, request.subpath)
        state_dir = engine.state_directory(paths, root)
        use_log(state_dir)
        lock = InstanceLock(state_dir, request.mountpoint)
        await trio.to_thread.run_sync(lock.acquire)
        try:
            mount = _Mount(request, paths, opened, root, state_dir, lock, announce)
            await _serve_root(mount, notes)
        finally:
            lock.release()


def _check_mountpoint(paths: Paths, where: Path) -> list[str]:
    """Makes the mountpoint usable; says what had to be done. MountpointError."""
    if client.is_answered(paths, where):
        raise MountpointError(f"{where} is already mounted by lafsfs")
    if mountpoint.prepare(where):
        return [f"cleaned up a dead mount at {where}"]
    return []


async def _serve_root(mount: _Mount, notes: list[str]) -> None:
    """Opens the tree, which recovers its journal, and serves it."""
    keypool = engine.keypool_of(mount.state_dir, mount.root) if mount.root.is_writable else None
    nodes = mount.engine.nodes(keypool)
    options = _tree_options(mount.request.settings, mount.read_only)
    where = mount.request.mountpoint
    async with open_tree(nodes, mount.root, mount.state_dir, options) as tree:
        service = MountService(
            tree, where, read_only=mount.read_only, surroundings=_surroundings(mount.engine)
        )
        async with control.listening(service, mount.paths.runtime / socket_name(where)) as close_control:
            complete = await _serve_kernel(mount, service, tree, keypool, notes, close_control)
    if not complete:
        raise PendingError(
            "changes that are not on the grid yet are in the journal and go on with the next mount"
        )


async def _serve_kernel(
    mount: _Mount,
    service: MountService,
    tree: Tree,
    keypool: KeyPool | None,
    notes: list[str],
    close_control: Callable[[], None],
) -> bool:
    """Serves the kernel until somebody unmounts or a signal comes. False when changes are left in the
    journal.
    """
    ending = trio.Event()
    hurry = trio.CancelScope()

    async def serve_kernel(task_status: trio.TaskStatus[None]) -> None:
        await serve(tree, mount.request.mountpoint, _fuse_options(mount), task_status=task_status)
        service.unmounted()
        ending.set()

    async def obey_signals(signals: AsyncIterator[int]) -> None:
        async for number in signals:
            _log.info("got %s", signal.Signals(number).name)
            if ending.is_set():
                hurry.cancel()
            ending.set()

    with trio.open_signal_receiver(*_INTERRUPTIONS) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_kernel)
            nursery.start_soon(obey_signals, signals)
            if keypool is not None:
                nursery.start_soon(_fill_when_settled, keypool, tree)
            nursery.start_soon(_ask_for_read_ahead, mount.request.mountpoint)
            tree.trimming.folding.give_back = give_back
            _log.info("ready")
            mount.announce(notes)
            await ending.wait()
            if service.is_unmounted:
                # Nothing of us is at the mountpoint any more: others may use it, and ask us to hurry.
                close_control()
                mount.lock.leave()
            with hurry:
                await service.wind_down(GRACE)
            nursery.cancel_scope.cancel()
    return service.complete


async def _ask_for_read_ahead(where: Path) -> None:
    await trio.to_thread.run_sync(mountpoint.read_ahead, where, abandon_on_cancel=True)


async def _fill_when_settled(keypool: KeyPool, tree: Tree) -> None:
    """Stocks up on keys, once the first rush after mounting is over: they cost all cores for seconds."""
    await trio.sleep(_SETTLED)
    await keypool.fill(tree.until_quiet)


def _tree_options(settings: MountSettings, read_only: bool) -> TreeOptions:
    defaults = TreeOptions()
    return TreeOptions(
        read_only=read_only,
        acl=settings.acl,
        fsync=settings.fsync,
        new_files=settings.new_files,
        inline_limit=settings.inline_limit,
        lease_interval=settings.lease_interval,
        publish_delay=settings.publish_delay,
        refresh=settings.refresh,
        staging_limit=settings.staging_limit,
        staging_wait=settings.staging_wait,
        uid=defaults.uid if settings.uid is None else settings.uid,
        gid=defaults.gid if settings.gid is None else settings.gid,
        umask=settings.umask,
    )


def _fuse_options(mount: _Mount) -> FuseOptions:
    settings = mount.request.settings
    return FuseOptions(
        read_only=mount.read_only,
        allow_other=settings.allow_other,
        fsname=mountpoint.FSNAME,
        extra=settings.kernel_options,
    )


def _surroundings(opened: Engine) -> Callable[[], dict[str, Any]]:
    """The parts of a mount's status that are not the tree's."""

    def now() -> dict[str, Any]:
        usage = opened.cache.usage()
        return {
            "servers": [asdict(server) for server in opened.grid.status()],
            "cache": {"bytes": usage.used, "limit": usage.limit},
        }

    return now
