"""The control socket of a mount: how the other lafsfs commands talk to it.

A Unix socket in the runtime directory, named by a hash of the mountpoint's real path. A client sends one
JSON object on one line; it gets any number of `{"event": "progress", ...}` lines and a last one,
`{"event": "result", "result": ...}` or `{"event": "error", "error": KIND, "message": ...}`. Only the user
the mount belongs to, and root, are answered. Answers need nothing from the network unless the request is
about it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import trio

from lafsfs.daemon import failures
from lafsfs.daemon.address import peer_of
from lafsfs.errors import LafsError, UsageError

_log = logging.getLogger(__name__)
_MAX_REQUEST = 64 << 10
_REQUEST_DEADLINE = 10.0
_SEND_DEADLINE = 10.0
_PROGRESS_INTERVAL = 0.2
_FAREWELL = 3.0

Answer = dict[str, Any]


class Controlled(Protocol):
    """What the control socket controls. All answers are plain data."""

    def status(self) -> Answer:
        """Everything about the mount, at once and without waiting."""

    def progress(self) -> Answer:
        """How much is pending, for a progress bar."""

    async def flush(self, timeout: float | None) -> Answer:
        """Publishes all that is pending; PendingError after `timeout` seconds."""

    async def unmount(self, timeout: float | None) -> Answer:
        """Publishes all that is pending and unmounts."""

    async def cap(self, path: bytes, kind: str) -> Answer:
        """The capability of what is at `path` below the root."""

    async def attach(self, path: bytes, cap: str, below: list[str], *, read_only: bool) -> Answer:
        """Gives what `cap` stands for, or what is `below` it, the name `path`."""

    async def detach(self, path: bytes, timeout: float | None) -> Answer:
        """Takes the name `path` away, whatever is below it."""

    async def seal(self, path: bytes, timeout: float | None) -> Answer:
        """Makes the directory at `path` immutable."""


@asynccontextmanager
async def listening(service: Controlled, path: Path) -> AsyncIterator[Callable[[], None]]:
    """Answers on the socket at `path` while the context lasts; gives the function that closes it earlier.

    On exit, requests being answered get a moment to finish. A socket file left there by a dead process is
    replaced.
    """
    listener, inode = _bind(path)
    accepting = trio.CancelScope()

    def close() -> None:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()
        accepting.cancel()

    async def handle(stream: trio.SocketStream) -> None:
        await _handle(stream, service)

    async with trio.open_nursery() as handlers:

        async def accept() -> None:
            with accepting:
                await trio.serve_listeners(handle, [listener], handler_nursery=handlers)

        handlers.start_soon(accept)
        try:
            yield close
        finally:
            close()
            handlers.cancel_scope.deadline = trio.current_time() + _FAREWELL


def _bind(path: Path) -> tuple[trio.SocketListener, int]:
    """A listening socket at `path` that only its owner can reach, and the inode number of `path`."""
    path.unlink(missing_ok=True)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        raw.bind(os.fspath(path))
        path.chmod(0o600)
        raw.listen(16)
    except BaseException:
        raw.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(raw)), path.stat().st_ino


async def _handle(stream: trio.SocketStream, service: Controlled) -> None:
    """One connection: one request and its answer. A client that goes away ends what it asked for."""
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        async with stream:
            _, uid = peer_of(stream.socket)
            if uid not in (os.geteuid(), 0):
                _log.warning("refused a control request of user %d", uid)
                return
            with trio.fail_after(_REQUEST_DEADLINE):
                line = await _read_line(stream)
            if line:
                await _send(stream, await _answer(stream, service, line))


async def _answer(stream: trio.SocketStream, service: Controlled, line: bytes) -> Answer:
    """The last line of the answer to the request `line`; progress goes to the stream meanwhile."""
    try:
        work = _work_of(service, line)
        return {"event": "result", "result": await _with_progress(stream, service, work)}
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        raise  # the client, not the mount: nobody is there to be told
    except Exception as error:
        return {"event": "error", **failures.to_wire(error)}


def _work_of(service: Controlled, line: bytes) -> Callable[[], Awaitable[Answer]]:
    """What the request asks for. UsageError when it is none of ours."""
    try:
        request = json.loads(line)
        operation = request["op"]
        timeout = request.get("timeout")
        timeout = None if timeout is None else float(timeout)
        path = os.fsencode(request.get("path", ""))
        kind = str(request.get("kind", ""))
        cap = str(request.get("cap", ""))
        below = [str(name) for name in request.get("below", ())]
        read_only = bool(request.get("read_only", False))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError("a malformed control request") from error

    async def status() -> Answer:
        return service.status()

    operations: dict[str, Callable[[], Awaitable[Answer]]] = {
        "status": status,
        "flush": lambda: service.flush(timeout),
        "unmount": lambda: service.unmount(timeout),
        "cap": lambda: service.cap(path, kind),
        "detach": lambda: service.detach(path, timeout),
        "seal": lambda: service.seal(path, timeout),
        "attach": lambda: service.attach(path, cap, below, read_only=read_only),
    }
    if operation not in operations:
        raise UsageError("an unknown control request")
    return operations[operation]


async def _with_progress(
    stream: trio.SocketStream, service: Controlled, work: Callable[[], Awaitable[Answer]]
) -> Answer:
    """Runs `work`, telling the client every moment how far it is; a client that hung up cancels it."""
    outcome: Answer | None = None
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def tell() -> None:
            nonlocal failure
            try:
                while True:
                    await trio.sleep(_PROGRESS_INTERVAL)
                    await _send(stream, {"event": "progress", **service.progress()})
            except (trio.BrokenResourceError, trio.TooSlowError) as error:
                failure = error
                nursery.cancel_scope.cancel()

        nursery.start_soon(tell)
        try:
            outcome = await work()
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if outcome is None:
        raise failure or LafsError("the mount is going away")
    return outcome


async def _read_line(stream: trio.SocketStream) -> bytes:
    """The request's line, b"" when the client closed without one or sent too much."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = await stream.receive_some(4096)
        data += chunk
        if not chunk or len(data) > _MAX_REQUEST:
            return b""
    return data


async def _send(stream: trio.SocketStream, answer: Answer) -> None:
    with trio.fail_after(_SEND_DEADLINE):
        await stream.send_all(json.dumps(answer).encode() + b"\n")
