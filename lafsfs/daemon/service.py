"""What can be asked of a running mount: status, flush, unmount, caps; and how it comes to an end."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import trio

from lafsfs.daemon import mountpoint, objects, report
from lafsfs.errors import BusyError, LafsError, PendingError
from lafsfs.tree.tree import Tree

_log = logging.getLogger(__name__)
_MAX_ITEMS = 200
_LEFT_SHOWN = 20
_SYNC_DEADLINE = 60.0

Answer = dict[str, Any]
Phase = Literal["ready", "draining", "unmounting", "stopping", "unmounted"]


class MountService:
    """The tree at one mountpoint, as the control socket and the signals see it.

    `surroundings` gives the parts of the status that are not the tree's: servers, cache. `complete` says
    that the tree was drained after the last change was possible.
    """

    def __init__(
        self, tree: Tree, where: Path, *, read_only: bool, surroundings: Callable[[], dict[str, Any]]
    ) -> None:
        self.complete = False
        self._tree = tree
        self._where = where
        self._read_only = read_only
        self._surroundings = surroundings
        self._phase: Phase = "ready"
        self._since = time.time()

    def status(self) -> Answer:
        """Everything about the mount; never waits for anything."""
        status = self._tree.status()
        return {
            "mountpoint": str(self._where),
            "pid": os.getpid(),
            "state": self._phase,
            "read_only": self._read_only,
            "since": self._since,
            "pending": report.pending_of(status),
            "items": report.items_of(status.items, _MAX_ITEMS),
            "errors": list(status.errors),
            "conflicts": list(status.conflicts),
            "leases": report.leases_of(status),
            **self._surroundings(),
        }

    def progress(self) -> Answer:
        """How much is pending."""
        return report.pending_of(self._tree.counts())

    async def flush(self, timeout: float | None) -> Answer:
        """Publishes all that is pending now. PendingError, with a list of what is left, after
        `timeout` seconds.
        """
        await self._push_kernel_cache()
        await self._drain(timeout)
        return self.progress()

    async def unmount(self, timeout: float | None) -> Answer:
        """Stops changes, publishes all that is pending, unmounts.

        When that cannot be (PendingError after the timeout; BusyError while files are in use), or the
        caller gives up, the tree goes on as before.
        """
        if self._phase != "ready":
            raise BusyError(f"{self._where} is being unmounted already")
        await self._push_kernel_cache()
        self._phase = "draining"
        self._tree.freeze()
        try:
            await self._drain(timeout)
            self._phase = "unmounting"
            refusal = await trio.to_thread.run_sync(mountpoint.unmount_if_idle, self._where)
            if refusal is not None:
                reason = "it is in use" if "busy" in refusal.lower() else refusal
                raise BusyError(f"{self._where} stays mounted: {reason}; everything so far is on the grid")
            self.complete = True
        finally:
            if not self.complete and self._phase in ("draining", "unmounting"):
                self._tree.thaw()
                self._phase = "ready"
        return self.progress()

    @property
    def is_unmounted(self) -> bool:
        """Whether the kernel has let go of the tree."""
        return self._phase == "unmounted"

    def unmounted(self) -> None:
        """The kernel has let go of the tree: nobody can change it any more."""
        self._phase = "unmounted"

    async def cap(self, path: bytes, kind: str) -> Answer:
        """The cap of what is at `path`: its strongest (`kind` "write"), its read cap or its verify cap.

        UnknownAliasError when there is nothing, BadCapError when there is no such cap of it.
        """
        return {"cap": await objects.cap_of(self._tree, path, kind)}

    async def attach(self, path: bytes, cap: str, below: list[str], *, read_only: bool) -> Answer:
        """Lets `path` lead to `cap`, or to what is `below` it (see `objects.attach_at`)."""
        await objects.attach_at(self._tree, path, cap, below, read_only)
        return {}

    async def detach(self, path: bytes, timeout: float | None) -> Answer:
        """Takes the name `path` away (see `objects.detach_at`)."""
        await self._push_kernel_cache()
        await objects.detach_at(self._tree, path, timeout)
        return {}

    async def seal(self, path: bytes, timeout: float | None) -> Answer:
        """Makes the directory at `path` immutable (see `objects.seal_at`)."""
        await self._push_kernel_cache()
        cap, (directories, files) = await objects.seal_at(self._tree, path, timeout)
        return {"cap": cap, "directories": directories, "files": files}

    async def wind_down(self, grace: float) -> None:
        """Accepts no more changes and publishes what it can within `grace` seconds; `complete` tells
        the result.

        What is left stays in the journal.
        """
        if not self.is_unmounted:
            self._phase = "stopping"
        self._tree.freeze()
        try:
            await self._tree.drain(grace)
            self.complete = True
        except PendingError:
            _log.warning(
                "not on the grid yet: %(files)d files, %(directories)d directories, %(bytes)d bytes",
                self.progress(),
            )

    async def _drain(self, timeout: float | None) -> None:
        try:
            await self._tree.drain(timeout)
        except PendingError as error:
            raise PendingError(self._what_is_left()) from error

    def _what_is_left(self) -> str:
        """A message that lists what is not on the grid yet."""
        status = self._tree.status()
        lines = [
            f"not on the grid yet: {status.pending_files} files, {status.pending_directories} directories, "
            f"{status.pending_bytes} bytes (safe in the journal; {self._where} stays mounted and goes on)"
        ]
        items = report.items_of(status.items, _LEFT_SHOWN)
        lines += [
            f"  {item['path']} ({item['size']} bytes) {item['state']} {item['reason']}".rstrip()
            for item in items
        ]
        if len(status.items) > len(items):
            lines.append(f"  and {len(status.items) - len(items)} more")
        return "\n".join(lines)

    async def _push_kernel_cache(self) -> None:
        """Has the kernel hand over what programs wrote and it still caches."""
        try:
            with trio.move_on_after(_SYNC_DEADLINE):
                await trio.to_thread.run_sync(_syncfs, self._where, abandon_on_cancel=True)
        except OSError as error:
            raise LafsError(
                f"some of what programs wrote could not be taken over: {error.strerror}"
            ) from error


def _syncfs(where: Path) -> None:
    """syncfs(2) on the mounted tree. OSError."""
    descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Loaded by name: the C library of this process; the call lets go of the interpreter lock.
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)
