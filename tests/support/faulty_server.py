"""The bundled storage server with faults: `python -m tests.support.faulty_server run DIR ...`.

    server = StorageServer.create(directory, module=FAULTY)
    server.start()
    set_faults(server, 0.2)
    forget_changes(server)

A request that fails is refused before anything happens, or it is done and its answer is lost: replaced by a 5xx, cut
short, or late. A server that forgets changes keeps the first version of every mutable share that it gets, takes later
ones, and answers with the first. Everything else is the real server.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from lafsfs.gbs import routes
from storage_server import cli, serving
from tests.support.storage import StorageServer

FAULTY = "tests.support.faulty_server"
_FILE = "faults"
_FORGETS = "forgets"
_LATE = 0.5  # seconds

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


def set_faults(server: StorageServer, share: float) -> None:
    """From now on so many of its requests fail, 0 to 1."""
    scratch = server.directory / f"{_FILE}.new"
    scratch.write_text(str(share))
    scratch.rename(server.directory / _FILE)


def forget_changes(server: StorageServer) -> None:
    """From now on mutable shares stay as they are."""
    (server.directory / _FORGETS).touch()


class Faulty:
    """An ASGI application in front of another one."""

    def __init__(self, inner: Application, file: Path) -> None:
        self._inner = inner
        self._file = file
        self._random = random.Random()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request, or fail it."""
        share = float(self._file.read_text()) if self._file.exists() else 0.0
        if scope["type"] != "http" or self._random.random() >= share:
            await self._inner(scope, receive, send)
            return
        fail = self._random.choice((_refuse, _lose, _cut, _delay))
        await fail(self._inner, scope, receive, send)


class Forgetful:
    """An ASGI application in front of another one."""

    def __init__(self, inner: Application, directory: Path) -> None:
        self._inner = inner
        self._file = directory / _FORGETS
        self._shares = directory / "storage" / "shares"
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one request; what it changes is undone before the next one."""
        path = str(scope.get("path", ""))
        if path == routes.BATCH and self._file.exists():
            await _answer(send, 404)  # then what is in it comes by itself
            return
        if not path.endswith("/read-test-write") or not self._file.exists():
            await self._inner(scope, receive, send)
            return
        name = path.split("/")[-2]
        slot = self._shares / name[:2] / name
        async with self._one_at_a_time:
            before = {share: share.read_bytes() for share in slot.glob("*")}
            try:
                await self._inner(scope, receive, send)
            finally:
                for share, data in before.items():
                    share.write_bytes(data)


async def _refuse(inner: Application, scope: Message, receive: Receive, send: Send) -> None:
    """503, nothing was done."""
    await _answer(send, 503)


async def _lose(inner: Application, scope: Message, receive: Receive, send: Send) -> None:
    """It was done, and nobody is told."""

    async def swallow(message: Message) -> None:
        """The answer goes nowhere."""

    await inner(scope, receive, swallow)
    await _answer(send, 502)


async def _cut(inner: Application, scope: Message, receive: Receive, send: Send) -> None:
    """It was done, and the connection breaks in the middle of the answer."""

    async def half(message: Message) -> None:
        if message["type"] == "http.response.body":
            body = bytes(message.get("body", b""))
            if not body:
                raise ConnectionAbortedError
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            raise ConnectionAbortedError
        await send(message)

    await inner(scope, receive, half)


async def _delay(inner: Application, scope: Message, receive: Receive, send: Send) -> None:
    """It was done; the answer is late."""

    async def late(message: Message) -> None:
        await asyncio.sleep(_LATE)
        await send(message)

    await inner(scope, receive, late)


async def _answer(send: Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"fault"})


def main() -> None:
    """`lafs-storage`, with the application wrapped."""
    original = serving.asgi_application
    file = Path(sys.argv[2]) / _FILE if len(sys.argv) > 2 else Path(_FILE)

    def wrapped(*arguments: Any) -> Any:
        return Faulty(Forgetful(original(*arguments), file.parent), file)

    serving.asgi_application = wrapped
    cli.main()


if __name__ == "__main__":
    main()
