"""Talking to mount processes from the other lafsfs commands: short, blocking, no event loop."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lafsfs.config import Paths
from lafsfs.daemon import failures, mountpoint
from lafsfs.daemon.address import peer_of, socket_name
from lafsfs.errors import LafsError, NotMountedError

Answer = dict[str, Any]
Progress = Callable[[Answer], None]
_CONNECT_TIMEOUT = 5.0
# A mount process sends progress several times a second while it works on a request.
_SILENCE = 60.0
_EXIT_TIMEOUT = 60.0


class MountClient:
    """A connection to one mount process, for one request. A context manager."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self.pid = pid
        self._connection = connection

    def __enter__(self) -> MountClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def request(self, operation: str, progress: Progress | None = None, **arguments: object) -> Answer:
        """The answer to one request; `progress` gets what the mount says meanwhile. Raises what the
        mount raised.
        """
        self._connection.settimeout(_SILENCE)
        try:
            self._connection.sendall(json.dumps({"op": operation, **arguments}).encode() + b"\n")
            with self._connection.makefile("rb") as lines:
                for line in lines:
                    answer = json.loads(line)
                    if answer["event"] == "result":
                        return dict(answer["result"])
                    if answer["event"] == "error":
                        raise failures.from_wire(answer)
                    if progress is not None:
                        progress(answer)
        except TimeoutError as error:
            raise LafsError(f"the mount process {self.pid} does not answer") from error
        except OSError as error:
            raise LafsError(
                f"lost the connection to the mount process {self.pid}: {error.strerror}"
            ) from error
        raise LafsError(f"the mount process {self.pid} ended before it answered")

    def wait_for_exit(self) -> bool:
        """Waits until the process is gone; False when it is still there after a minute."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            ready, _, _ = select.select([descriptor], [], [], _EXIT_TIMEOUT)
            return bool(ready)
        finally:
            os.close(descriptor)


def connect(paths: Paths, where: Path) -> MountClient:
    """Connects to the mount at `where` (a real path). NotMountedError when no process answers for it."""
    mounted = mountpoint.mounted_at(where)
    owner = mounted.owner if mounted is not None else None
    for directory in _socket_directories(paths, owner):
        client = _try_connect(directory / socket_name(where), {os.geteuid(), owner})
        if client is not None:
            return client
    if mounted is not None and mounted.is_lafsfs:
        raise NotMountedError(
            f"the mount process of {where} is gone; mount it again, nothing in its journal is lost"
        )
    raise NotMountedError(f"{where} is not a lafsfs mountpoint")


def find(paths: Paths, path: str) -> tuple[MountClient, bytes]:
    """The mount that `path` lies in, and the path below its root.

    A symlink as the last component is meant itself if it is in the tree. NotMountedError when no lafsfs
    mount is there.
    """
    absolute = os.path.abspath(path)
    parent, name = os.path.split(absolute)
    meant = Path(os.path.realpath(parent), name) if name else Path(absolute)
    candidates = {mount.mountpoint for mount in mountpoint.mounts() if mount.is_lafsfs}
    for real in (meant, Path(os.path.realpath(absolute))):
        for place in [real, *real.parents]:
            if str(place) in candidates:
                below = os.fsencode(real.relative_to(place))
                return connect(paths, place), b"" if below == b"." else below
    raise NotMountedError(f"{absolute} is not in a mounted lafsfs tree")


def all_mounts(paths: Paths) -> Iterator[MountClient]:
    """Connections to all mounts of this user, one after the other."""
    for directory in _socket_directories(paths, None):
        for path in sorted(directory.glob("*.sock")):
            client = _try_connect(path, {os.geteuid()})
            if client is not None:
                with client:
                    yield client


def is_answered(paths: Paths, where: Path) -> bool:
    """Whether a live mount process serves `where`."""
    with contextlib.suppress(NotMountedError), connect(paths, where):
        return True
    return False


def _socket_directories(paths: Paths, owner: int | None) -> Iterator[Path]:
    """Where the socket may be: our own runtime directory first, then the usual ones of us and of the
    mount's owner.
    """
    seen = {paths.runtime}
    yield paths.runtime
    for uid in dict.fromkeys((os.geteuid(), owner)):
        for directory in (Path(f"/run/user/{uid}/lafsfs"), Path(f"/tmp/lafsfs-{uid}")):
            if uid is not None and directory not in seen:
                seen.add(directory)
                yield directory


def _try_connect(path: Path, trusted: set[int | None]) -> MountClient | None:
    """A connection if a process of a trusted user listens at `path`."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_CONNECT_TIMEOUT)
    try:
        connection.connect(os.fspath(path))
        pid, uid = peer_of(connection)
    except OSError:
        connection.close()
        return None
    if uid not in trusted:
        connection.close()
        return None
    return MountClient(connection, pid)
