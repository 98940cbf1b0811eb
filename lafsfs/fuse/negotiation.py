"""What the kernel and libfuse agree on when a connection begins, and what is added to it.

The kernel's first message (FUSE_INIT) says what it can do; the answer says what of that is wanted. libfuse has no word
for some of it, and pyfuse3 no switch for more (contrib/doc/adr/negotiation.md). So this message and its answer pass
through here: until it has answered, libfuse finds a socket in the place of its descriptor.
"""

from __future__ import annotations

import os
import socket
import struct

import trio

AUTO_INVAL_DATA = 1 << 12  # drop a file's pages whenever its times are news
CACHE_SYMLINKS = 1 << 23  # keep targets of symlinks
HANDLE_KILLPRIV_V2 = (
    1 << 28
)  # set-ID bits are taken away by us, so no write need ask for security.capability first

_LONGEST = 1 << 16  # bytes of a first message, or of its answer; the kernel wants at least 8 KiB of room
_FLAGS = struct.Struct("=I")
_OFFERED_AT = 40 + 12  # in fuse_init_in, behind the header of a request
_WANTED_AT = 16 + 12  # in fuse_init_out, behind the header of an answer


def amended(request: bytes, answer: bytes) -> bytes:
    """libfuse's answer to FUSE_INIT with what we want, as far as the kernel offers it."""
    if len(request) < _OFFERED_AT + _FLAGS.size or len(answer) < _WANTED_AT + _FLAGS.size:
        return answer  # libfuse refuses
    (offered,) = _FLAGS.unpack_from(request, _OFFERED_AT)
    (wanted,) = _FLAGS.unpack_from(answer, _WANTED_AT)
    wanted |= offered & (HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS)
    wanted &= ~AUTO_INVAL_DATA
    return answer[:_WANTED_AT] + _FLAGS.pack(wanted) + answer[_WANTED_AT + _FLAGS.size :]


class Negotiation:
    """The beginning of one connection. Close it when the connection ends: that may be before it is over."""

    def __init__(self) -> None:
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
        answer = self._libfuse.recv(_LONGEST, socket.MSG_DONTWAIT)
        os.write(self._kernel, amended(self._request, answer))
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
