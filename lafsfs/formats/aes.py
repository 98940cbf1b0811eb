"""AES-128 in counter mode, counter from zero, at any byte offset (formats.md section 2)."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from lafsfs.formats.hashing import Buffer

_BLOCK = 16
# OpenSSL takes the length of one update as a C int; stay far below.
_MAX_UPDATE = 1 << 30


def _context(key: bytes, offset: int) -> CipherContext:
    """A cipher whose next byte of key stream is the one at `offset`."""
    block, skip = divmod(offset, _BLOCK)
    context = Cipher(AES(key), CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
    if skip:
        context.update(bytes(skip))
    return context


def crypt(key: bytes, data: Buffer, offset: int = 0) -> bytes:
    """`data`, which stands at `offset` of its stream, encrypted or decrypted (the same thing)."""
    return _context(key, offset).update(data)


def crypt_into(key: bytes, src: Buffer, dst: bytearray | memoryview, offset: int = 0) -> None:
    """Like `crypt`, from `src` into a writable `dst` of at least its length; they may be the same memory."""
    Stream(key, offset).crypt_into(src, dst)


class Stream:
    """One AES-CTR stream read from `offset` on. Large calls release the GIL."""

    __slots__ = ("_context",)

    def __init__(self, key: bytes, offset: int = 0) -> None:
        self._context = _context(key, offset)

    def crypt_into(self, src: Buffer, dst: bytearray | memoryview) -> None:
        """The next len(src) bytes of the stream, from `src` into `dst` of at least that length."""
        source, target = memoryview(src), memoryview(dst)
        for start in range(0, len(source), _MAX_UPDATE):
            piece = source[start : start + _MAX_UPDATE]
            self._context.update_into(piece, target[start : start + len(piece)])
