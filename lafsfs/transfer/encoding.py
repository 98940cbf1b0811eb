"""Plaintext -> the shares of a new version of a mutable file; in an unlinked file when they are large."""

from __future__ import annotations

import mmap
import secrets
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import trio

from lafsfs.formats import mutable_share, rsa
from lafsfs.formats.mutable import SALT_SIZE, Header

_IN_MEMORY = 24 << 20  # bytes of all shares together
_IN_THREAD = 16 << 10

Write = tuple[int, bytes | memoryview]


class Contents(Protocol):
    """What is to be written; it does not change while it is."""

    size: int

    async def read_into(self, offset: int, buf: memoryview) -> None:
        """Fill `buf` with the bytes from `offset` on."""
        ...


class BytesContents:
    """Contents that are in memory."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self.size = len(self._data)

    async def read_into(self, offset: int, buf: memoryview) -> None:
        buf[:] = self._data[offset : offset + len(buf)]


class NewShares:
    """All n shares of a version, encoded and signed. A context manager: frees what it holds.

    `writes(shnum)` are the write vectors that make the share, `size` how many bytes they are.
    """

    def __init__(self, header: Header, key: rsa.SigningKey, readkey: bytes) -> None:
        self._planned = header
        self._key = key
        self._encoder = mutable_share.VersionEncoder(header, readkey)
        self._data_size = header.sections.data.size
        self._buffer = _anonymous(self._data_size * header.n)
        self._view = memoryview(self._buffer)
        self._signed: mutable_share.Signed | None = None
        self._sealed_key = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._view.release()
            if isinstance(self._buffer, mmap.mmap):
                self._buffer.close()
        except BufferError:
            # A request that was cancelled still refers to the memory; it goes when that does.
            return

    @property
    def header(self) -> Header:
        """The complete header; only after `encode`."""
        return self._done().header

    async def encode(self, contents: Contents) -> None:
        """Read, encrypt, encode and hash everything with fresh salts, and sign it."""
        header = self._planned
        for segment in range(header.num_segments):
            plain = bytearray(header.segment_length(segment))
            await contents.read_into(segment * header.segment_size, memoryview(plain))
            await _maybe_in_thread(len(plain), self._encode_segment, segment, plain)
        await trio.to_thread.run_sync(self._sign)

    def writes(self, shnum: int) -> list[Write]:
        """(offset, bytes) of everything the share consists of; the parts do not overlap."""
        signed, data = self._done(), self._planned.sections.data
        parts: list[Write] = list(signed.changing_parts(shnum))
        parts += signed.fixed_parts(self._key.public.der, self._sealed_key)
        if self._data_size:
            start = shnum * self._data_size
            parts.append((data.start, self._view[start : start + self._data_size]))
        parts.sort(key=lambda part: part[0])
        return parts if self._planned.is_mdmf else _joined(parts)

    @property
    def share_size(self) -> int:
        """Bytes of one share."""
        return self._planned.eof

    def _done(self) -> mutable_share.Signed:
        assert self._signed is not None
        return self._signed

    def _encode_segment(self, segment: int, plain: bytearray) -> None:
        header = self._planned
        salt = header.salt or secrets.token_bytes(SALT_SIZE)
        at = header.stored_span(segment).start - header.sections.data.start
        for shnum, stored in enumerate(self._encoder.add(segment, plain, salt)):
            start = shnum * self._data_size + at
            self._view[start : start + len(stored)] = stored

    def _sign(self) -> None:
        self._signed = self._encoder.sign(self._key)
        self._sealed_key = self._key.sealed()


async def _maybe_in_thread(
    size: int, call: Callable[[int, bytearray], None], segment: int, plain: bytearray
) -> None:
    if size > _IN_THREAD:
        await trio.to_thread.run_sync(call, segment, plain)
    else:
        call(segment, plain)


def _joined(parts: list[Write]) -> list[Write]:
    """SDMF shares are written as one piece, without gaps."""
    return [(0, b"".join(data for _, data in parts))]


def _anonymous(size: int) -> bytearray | mmap.mmap:
    """Memory for `size` bytes; ciphertext only, so a temporary file will do for many of them."""
    if size <= _IN_MEMORY:
        return bytearray(size)
    with tempfile.TemporaryFile(prefix="lafsfs-") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)
