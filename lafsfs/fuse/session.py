"""Mounting and serving."""

from __future__ import annotations

import math
import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyfuse3
import trio

from lafsfs.errors import MountpointError
from lafsfs.fuse import acl_mount
from lafsfs.fuse.negotiation import Negotiation, maps_directly
from lafsfs.fuse.notices import Notices
from lafsfs.fuse.operations import Operations
from lafsfs.fuse.turns import taking_turns
from lafsfs.tree.tree import Tree


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

    def agreed(answer: bytes) -> None:
        # A whole mount that is synchronous is so by the kernel's asking, too.
        operations.uncached.allowed = maps_directly(answer) and "sync" not in options.extra

    notices = Notices()
    tree.kernel = notices
    unmount = True
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notices.run)
            nursery.start_soon(operations.interrupts.run)
            task_status.started()
            with closing(Negotiation(agreed)) as negotiation, taking_turns(negotiation):
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
