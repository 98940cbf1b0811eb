"""Mounting, serving, and telling the kernel what changed behind its back."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import InodeT

from lafsfs.errors import MountpointError
from lafsfs.fuse import acl_mount
from lafsfs.fuse.operations import Operations
from lafsfs.fuse.turns import taking_turns
from lafsfs.tree.links import Link
from lafsfs.tree.tree import Tree

log = logging.getLogger(__name__)

_QUEUE = 100_000  # notices waiting for the kernel; beyond that entries time out by themselves


@dataclass(frozen=True)
class FuseOptions:
    """How the kernel mounts. `extra` are further mount options, passed on as they are (suid, dev, noexec ...)."""

    read_only: bool = False
    allow_other: bool = False
    fsname: str = "lafsfs"
    extra: tuple[str, ...] = ()

    def as_set(self) -> set[str]:
        """The options for fuse_mount. Atimes are not kept, so the kernel need not ask for them."""
        options = {f"fsname={self.fsname}", "subtype=lafsfs", "default_permissions", "noatime", *self.extra}
        if self.read_only:
            options.add("ro")
        if self.allow_other:
            options.add("allow_other")
        return options


@dataclass(frozen=True, eq=False, slots=True)
class _Notice:
    """Of a name in a directory, or (name None) of an inode."""

    number: int
    name: bytes | None
    content: bool


class Notices:
    """Invalidations for the kernel, sent by a task of their own: sending waits for locks that requests hold."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[_Notice](_QUEUE)
        self._untold: dict[tuple[int, bytes], _Notice] = {}  # names, with the last notice on its way

    def entry_changed(self, directory: int, name: bytes) -> None:
        """`name` leads elsewhere, or nowhere."""
        notice = _Notice(directory, name, False)
        if self._put(notice):
            self._untold[directory, name] = notice

    def inode_changed(self, ino: int, content: bool) -> None:
        """Attributes, and the content if so said, are not what they were."""
        self._put(_Notice(ino, None, content))

    def knows(self, directory: int, name: bytes) -> bool:
        """Whether no notice of this name is on its way."""
        return (directory, name) not in self._untold

    def asked(self, directory: int, name: bytes) -> None:
        """The kernel was just answered what this name leads to."""
        self._untold.pop((directory, name), None)

    async def let_go(self, names: Sequence[Link]) -> None:
        """Have the kernel forget names that nobody uses."""
        await trio.to_thread.run_sync(_let_go, names, abandon_on_cancel=True)

    def _put(self, notice: _Notice) -> bool:
        try:
            self._send.send_nowait(notice)
        except trio.WouldBlock:
            log.warning(
                "too many changes at once for the kernel's cache; it will catch up after the refresh time"
            )
            return False
        return True

    async def run(self) -> None:
        """Pass notices on until cancelled."""
        async for notice in self._receive:
            await trio.to_thread.run_sync(_notify, notice, abandon_on_cancel=True)
            if notice.name is not None and self._untold.get((notice.number, notice.name)) is notice:
                del self._untold[notice.number, notice.name]


def _notify(notice: _Notice) -> None:
    try:
        if notice.name is None:
            pyfuse3.invalidate_inode(InodeT(notice.number), attr_only=not notice.content)
        else:
            pyfuse3.invalidate_entry(InodeT(notice.number), pyfuse3.FileNameT(notice.name))
    except OSError as problem:  # the kernel does not have it (any more): that is what we want
        log.debug("the kernel did not need an invalidation: %s", problem)


def _let_go(names: Sequence[Link]) -> None:
    for directory, name in names:
        _notify(_Notice(directory, name, content=False))


async def serve(
    tree: Tree,
    mountpoint: Path,
    options: FuseOptions,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount and serve until somebody unmounts, or until cancelled (which unmounts). MountpointError.

    `task_status.started()` is called when the kernel can use the tree.
    """
    timeout = tree.options.refresh if math.isfinite(tree.options.refresh) else 86400.0
    ours = tree.options.acl and os.geteuid() == 0
    operations = Operations(tree, timeout)
    _mount(operations, mountpoint, options, ours=ours)
    notices = Notices()
    tree.kernel = notices
    unmount = True
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notices.run)
            nursery.start_soon(operations.interrupts.run)
            task_status.started()
            with taking_turns():
                await pyfuse3.main()
            unmount = False  # it was unmounted from outside
            nursery.cancel_scope.cancel()
    finally:
        if ours and unmount:
            acl_mount.unmount(mountpoint)
        pyfuse3.close(unmount=unmount)


def _mount(operations: Operations, mountpoint: Path, options: FuseOptions, *, ours: bool) -> None:
    """Mount and make the session, `ours`: with a mount(2) of our own. MountpointError."""
    wanted = options.as_set()
    try:
        if not ours:
            pyfuse3.init(operations, str(mountpoint), wanted)
            return
        fd = acl_mount.mount(mountpoint, wanted)
        try:
            pyfuse3.init(operations, f"/dev/fd/{fd}", set())
        except BaseException:
            acl_mount.unmount(mountpoint)
            raise
    except (OSError, RuntimeError) as problem:
        raise MountpointError(f"the kernel refused to mount at {mountpoint}: {problem}") from None
