"""Reading HTTP/1.1 responses from a TLS channel: Content-Length, chunked, or until the connection ends.

Strict where a lenient reading could confuse two answers, bounded everywhere: a server cannot make the client
hold more than it asked for.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from lafsfs.errors import FormatError
from lafsfs.gbs.headers import parse_content_range
from lafsfs.grid.tls import RECORD_SIZE, TlsChannel, Watch

MAX_HEAD: Final = 64 * 1024
MAX_LINE: Final = 4096
MAX_CHUNK_DIGITS: Final = 12
MAX_TRAILERS: Final = 100

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

    def __init__(self, channel: TlsChannel, watch: Watch, max_body: int) -> None:
        self._channel = channel
        self._watch = watch
        self._max_body = max_body
        self._data = b""
        self._position = 0
        self.started = False

    async def read(self, method: str) -> Answer:
        """The next final response; interim (1xx) ones are skipped. ProtocolError, OSError."""
        while True:
            version, status, headers = parse_head(await self._until(b"\r\n\r\n", MAX_HEAD))
            if status >= 200:
                break
        framing = _framing(version, headers)
        bodyless = method == "HEAD" or status in (204, 304)
        body = b"" if bodyless else await self._body(framing, headers)
        delimited = bodyless or framing.chunked or framing.length is not None
        exhausted = self._position == len(self._data)
        return Answer(status, headers, body, framing.keep_alive and exhausted and delimited)

    async def _body(self, framing: _Framing, headers: RawHeaders) -> bytes:
        if framing.chunked:
            whole = self._buffered_chunk()
            if whole is not None:
                return whole
            size = _range_size(headers)
            if size is not None:
                return await self._known_size(size, chunked=True)
            pieces = [chunk async for chunk in self._chunks()]
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if framing.length is not None:
            return await self._known_size(framing.length, chunked=False)
        return await self._until_end()

    def _buffered_chunk(self) -> bytes | None:
        """The usual small answer: one chunk, the last chunk and no trailers, all here already. Else None."""
        end = self._data.find(b"\r\n", self._position)
        if end < 0 or not self._data.endswith(b"\r\n0\r\n\r\n"):
            return None
        size = _chunk_size(self._data[self._position : end])
        if not size or end + 2 + size + 7 != len(self._data):
            return None
        self._admit(size)
        self._position = len(self._data)
        return self._data[end + 2 : end + 2 + size]

    def _admit(self, size: int) -> None:
        if size > self._max_body:
            raise ProtocolError("the answer is larger than what was asked for")

    async def _known_size(self, size: int, *, chunked: bool) -> bytes:
        """A body of `size` bytes, received where it will stay: BytesIO gives its memory away as bytes."""
        self._admit(size)
        if not chunked and size <= len(self._data) - self._position:
            self._position += size
            return self._data[self._position - size : self._position]
        memory = io.BytesIO()
        if size:
            memory.seek(size - 1)
            memory.write(b"\0")
        with memory.getbuffer() as view:
            if chunked:
                await self._chunks_into(view)
            else:
                await self._fill(view)
        return memory.getvalue()

    async def _more(self) -> None:
        """Add at least one byte to what is buffered."""
        room = bytearray(RECORD_SIZE)
        count = await self._channel.receive_into(memoryview(room), self._watch)
        if not count:
            raise ConnectionResetError("the connection ended before the answer was complete")
        self.started = True
        self._data = self._data[self._position :] + room[:count]
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

    async def _fill(self, view: memoryview) -> None:
        """Fill `view` completely, first from what is buffered."""
        done = min(len(view), len(self._data) - self._position)
        view[:done] = self._data[self._position : self._position + done]
        self._position += done
        while done < len(view):
            count = await self._channel.receive_into(view[done:], self._watch)
            if not count:
                raise ConnectionResetError("the connection ended before the answer was complete")
            done += count

    async def _next_chunk(self) -> int:
        return _chunk_size(await self._until(b"\r\n", MAX_LINE))

    async def _end_chunk(self) -> None:
        if await self._until(b"\r\n", 2):
            raise ProtocolError("a chunk is longer than it said")

    async def _trailers(self) -> None:
        for _ in range(MAX_TRAILERS):
            if not await self._until(b"\r\n", MAX_LINE):
                return
        raise ProtocolError("too many trailers")

    async def _chunks_into(self, view: memoryview) -> None:
        """A chunked body whose size is known to be that of `view`."""
        done = 0
        while size := await self._next_chunk():
            if size > len(view) - done:
                raise ProtocolError("a body longer than its Content-Range")
            await self._fill(view[done : done + size])
            await self._end_chunk()
            done += size
        if done < len(view):
            raise ProtocolError("a body shorter than its Content-Range")
        await self._trailers()

    async def _chunks(self) -> AsyncIterator[bytes]:
        total = 0
        while size := await self._next_chunk():
            total += size
            self._admit(total)
            chunk = bytearray(size)
            await self._fill(memoryview(chunk))
            await self._end_chunk()
            yield bytes(chunk)
        await self._trailers()

    async def _until_end(self) -> bytes:
        body = bytearray(self._data[self._position :])
        self._position = len(self._data)
        room = memoryview(bytearray(RECORD_SIZE))
        while count := await self._channel.receive_into(room, self._watch):
            body += room[:count]
            self._admit(len(body))
        return bytes(body)


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


def _range_size(headers: RawHeaders) -> int | None:
    """Size of the body according to a Content-Range header, if there is a proper one."""
    for name, value in headers:
        if name.lower() == b"content-range":
            try:
                parsed = parse_content_range(value.decode("ascii"))
            except (FormatError, UnicodeDecodeError):
                return None
            return parsed.end - parsed.begin
    return None
