"""What the kernel and libfuse agree on when a connection begins, and what is added to it.

The kernel's first message (FUSE_INIT) says what it can do; the answer says what of that is wanted. libfuse has no word
for some of it, and pyfuse3 no switch for more (contrib/doc/adr/negotiation.md). So this message and its answer pass
through here: until it has answered, libfuse finds a socket in the place of its descriptor.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

import trio

AUTO_INVAL_DATA = 1 << 12  # drop a file's pages whenever its times are news
CACHE_SYMLINKS = 1 << 23  # keep targets of symlinks
HANDLE_KILLPRIV_V2 = 1 << 28  # set-ID bits are ours to take away: no write has to ask for security.capability
INIT_EXT = 1 << 30  # there is a second word of flags
DIRECT_IO_ALLOW_MMAP = 1 << 4  # of the second: what passes the kernel's memory by can be mapped (uncached.py)

_LONGEST = 1 << 16  # bytes of a first message, or of its answer; the kernel wants at least 8 KiB of room
_WORD = struct.Struct("=I")
_OFFERED_AT = 40 + 12, 40 + 16  # the two words in fuse_init_in, behind the header of a request
_WANTED_AT = 16 + 12, 16 + 32  # in fuse_init_out, behind the header of an answer
_ADDED = HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS, DIRECT_IO_ALLOW_MMAP


def amended(request: bytes, answer: bytes) -> bytes:
    """libfuse's answer to FUSE_INIT with what we want, as far as the kernel offers it."""
    if len(request) < _OFFERED_AT[1] + _WORD.size or len(answer) < _WANTED_AT[1] + _WORD.size:
        return answer  # libfuse refuses, or the kernel is older than all this
    offered, more = _words(request, _OFFERED_AT)
    wanted = _words(answer, _WANTED_AT)
    if offered & INIT_EXT:
        wanted = wanted[0] | INIT_EXT, wanted[1] | more & _ADDED[1]
    changed = bytearray(answer)
    _WORD.pack_into(changed, _WANTED_AT[0], (wanted[0] | offered & _ADDED[0]) & ~AUTO_INVAL_DATA)
    _WORD.pack_into(changed, _WANTED_AT[1], wanted[1])
    return bytes(changed)


def maps_directly(answer: bytes) -> bool:
    """Whether DIRECT_IO_ALLOW_MMAP was agreed on."""
    return len(answer) > _WANTED_AT[1] and bool(_words(answer, _WANTED_AT)[1] & DIRECT_IO_ALLOW_MMAP)


def _words(message: bytes, places: tuple[int, int]) -> tuple[int, int]:
    first, second = (_WORD.unpack_from(message, place)[0] for place in places)
    return first, second


class Negotiation:
    """The beginning of one connection. Close it when the connection ends: that may be before it is over."""

    def __init__(self, agreed: Callable[[bytes], None] = lambda _: None) -> None:
        self._agreed = agreed  # is told the answer that the kernel gets
        self._request = b""
        self._kernel = -1
        self._libfuse: socket.socket | None = None

    async def begin(self, fd: int) -> None:
        """Wait for the kernel's first message at libfuse's descriptor; on return libfuse can read it there."""
        await trio.lowlevel.wait_readable(fd)
        try:
            self._request = os.read(fd, _LONGEST)
        except OSError:
            return  # it was unmounted; libfuse finds that out, too
        self._kernel = os.dup(fd)
        self._libfuse, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            os.dup2(other.fileno(), fd, inheritable=False)
        self._libfuse.send(self._request)

    @property
    def begun(self) -> bool:
        """Whether the first message is with libfuse."""
        return self._libfuse is not None

    def end(self, fd: int) -> None:
        """libfuse has answered; on return its descriptor is the kernel's again. OSError."""
        assert self._libfuse is not None
        answer = amended(self._request, self._libfuse.recv(_LONGEST, socket.MSG_DONTWAIT))
        self._agreed(answer)
        os.write(self._kernel, answer)
        os.dup2(self._kernel, fd, inheritable=False)
        self.close()

    def close(self) -> None:
        """Give back what only the negotiation needs."""
        if self._libfuse is not None:
            self._libfuse.close()
            self._libfuse = None
        if self._kernel >= 0:
            os.close(self._kernel)
            self._kernel = -1
