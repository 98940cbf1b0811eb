"""Reading HTTP/1.1 responses from a TLS channel: Content-Length, chunked, or until the connection ends.

Strict where a lenient reading could confuse two answers, bounded everywhere: a server cannot make the client
hold more than it asked for.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from lafsfs.grid.tls import RECORD_SIZE, TlsChannel, Watch

MAX_HEAD: Final = 64 * 1024
MAX_LINE: Final = 4096
MAX_CHUNK_DIGITS: Final = 12
_BULK: Final = 1 << 20

RawHeaders = list[tuple[bytes, bytes]]


class ProtocolError(Exception):
    """The peer does not speak HTTP/1.1, or more of it than was allowed."""


class Answer(NamedTuple):
    """A complete response. `reusable`: the connection may carry another request."""

    status: int
    headers: RawHeaders
    body: bytes
    reusable: bool


class _Framing(NamedTuple):
    length: int | None
    chunked: bool
    keep_alive: bool


class ResponseReader:
    """Reads one response. `started` tells whether any byte of it has come in."""

    def __init__(self, channel: TlsChannel, watch: Watch, seconds: float, max_body: int) -> None:
        self._channel = channel
        self._watch = watch
        self._seconds = seconds
        self._max_body = max_body
        self._data = b""
        self._position = 0
        self.started = False

    async def read(self, method: str) -> Answer:
        """The next final response; interim (1xx) ones are skipped. ProtocolError, OSError."""
        while True:
            version, status, headers = parse_head(await self._head())
            if status >= 200:
                break
        framing = _framing(version, headers)
        body = b""
        if method != "HEAD" and status not in (204, 304):
            body = await self._body(framing)
        exhausted = self._position == len(self._data)
        delimited = framing.chunked or framing.length is not None or status in (204, 304) or method == "HEAD"
        return Answer(status, headers, body, framing.keep_alive and exhausted and delimited)

    async def _body(self, framing: _Framing) -> bytes:
        pieces: list[bytes] = []
        if framing.chunked:
            await self._chunks(pieces)
        elif framing.length is not None:
            self._admit(framing.length)
            await self._exactly(framing.length, pieces)
        else:
            await self._until_end(pieces)
        return b"".join(pieces)

    def _admit(self, size: int) -> None:
        if size > self._max_body:
            raise ProtocolError("the answer is larger than what was asked for")

    async def _more(self) -> None:
        """Add at least one byte to what is buffered."""
        pieces = await self._channel.receive(RECORD_SIZE, self._watch, self._seconds)
        if not pieces:
            raise ConnectionResetError("the connection ended before the answer was complete")
        self.started = True
        self._data = b"".join([self._data[self._position :], *pieces])
        self._position = 0

    async def _until(self, mark: bytes, limit: int) -> bytes:
        """Everything up to `mark`, which is consumed too."""
        while (end := self._data.find(mark, self._position)) < 0:
            if len(self._data) - self._position > limit:
                raise ProtocolError("an over-long line or header")
            await self._more()
        found = self._data[self._position : end]
        self._position = end + len(mark)
        return found

    async def _head(self) -> bytes:
        return await self._until(b"\r\n\r\n", MAX_HEAD)

    async def _exactly(self, size: int, pieces: list[bytes]) -> None:
        have = self._data[self._position : self._position + size]
        self._position += len(have)
        size -= len(have)
        pieces.append(have)
        while size:
            got = await self._channel.receive(min(size, _BULK), self._watch, self._seconds)
            if not got:
                raise ConnectionResetError("the connection ended before the answer was complete")
            pieces.extend(got)
            size -= sum(map(len, got))

    async def _chunks(self, pieces: list[bytes]) -> None:
        total = 0
        while True:
            size = _chunk_size(await self._until(b"\r\n", MAX_LINE))
            if not size:
                break
            total += size
            self._admit(total)
            await self._exactly(size, pieces)
            if await self._until(b"\r\n", 2):
                raise ProtocolError("a chunk is longer than it said")
        for _ in range(100):
            if not await self._until(b"\r\n", MAX_LINE):
                return
        raise ProtocolError("too many trailers")

    async def _until_end(self, pieces: list[bytes]) -> None:
        pieces.append(self._data[self._position :])
        self._position = len(self._data)
        total = len(pieces[0])
        while got := await self._channel.receive(_BULK, self._watch, self._seconds):
            pieces.extend(got)
            total += sum(map(len, got))
            self._admit(total)


def parse_head(head: bytes) -> tuple[bytes, int, RawHeaders]:
    """Version, status and header lines of a response head (without the empty line that ends it)."""
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    if (
        version not in (b"HTTP/1.1", b"HTTP/1.0")
        or len(rest) < 3
        or not rest[:3].isdigit()
        or rest[3:4].strip()
    ):
        raise ProtocolError("not an HTTP/1.1 status line")
    headers: RawHeaders = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in value or b"\r" in value:
            raise ProtocolError("a malformed header line")
        headers.append((name, value.strip(b" \t")))
    return version, int(rest[:3]), headers


def _framing(version: bytes, headers: RawHeaders) -> _Framing:
    length: int | None = None
    chunked = False
    keep_alive = version == b"HTTP/1.1"
    for name, value in headers:
        match name.lower():
            case b"content-length":
                if not value.isdigit() or len(value) > 19 or length not in (None, int(value)):
                    raise ProtocolError("a bad Content-Length")
                length = int(value)
            case b"transfer-encoding":
                if value.lower() != b"chunked" or chunked:
                    raise ProtocolError("an unknown transfer coding")
                chunked = True
            case b"content-encoding" if value.lower() != b"identity":
                raise ProtocolError("a content coding that was not asked for")
            case b"connection" if b"close" in value.lower():
                keep_alive = False
    if chunked and length is not None:
        raise ProtocolError("two framings in one answer")
    return _Framing(length, chunked, keep_alive)


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not 0 < len(digits) <= MAX_CHUNK_DIGITS or not all(d in b"0123456789abcdefABCDEF" for d in digits):
        raise ProtocolError("a bad chunk size")
    return int(digits, 16)
