"""Batches: the parts of one request served side by side, each as if it had come by itself (adr/batches.md)."""

from __future__ import annotations

from typing import Any, Final

from starlette.types import Message

from lafsfs.gbs.batch import Outcome, Part
from storage_server.errors import TooLargeError
from storage_server.exchange import Exchange

MAX_ANSWER: Final = 4 << 20
"""Bytes of the answer to one part; who asks for more must ask by itself."""


class PartExchange(Exchange):
    """The exchange of one part; `outcome` is what it was answered."""

    def __init__(self, part: Part) -> None:
        headers = [(name.lower().encode(), value.encode()) for name, value in part.headers]
        scope = {"type": "http", "method": part.method, "path": part.path, "headers": headers}
        super().__init__(scope, self._give, self._take)
        self._body: bytes | None = part.body
        self._answer_headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self.fail()

    async def _give(self) -> Message:
        body, self._body = self._body, None
        return {"type": "http.disconnect"} if body is None else {"type": "http.request", "body": body}

    async def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._answer_headers = message["status"], message["headers"]
            return
        body: Any = message.get("body", b"")
        self._size += len(body)
        if self._size > MAX_ANSWER:
            self.fail()
            raise TooLargeError("the answer is too large for a part of a batch")
        self._pieces.append(body)

    def fail(self) -> None:
        """Forget what was answered so far; it is 500 unless something else is answered now."""
        self.started = False
        self._status, self._answer_headers = 500, []
        self._pieces, self._size = [], 0

    @property
    def outcome(self) -> Outcome:
        """Status, headers and body of the answer."""
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._answer_headers]
        return Outcome(self._status, headers, b"".join(self._pieces))
