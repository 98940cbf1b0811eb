"""TLS on a non-blocking socket under trio, driven by hand: few system calls, few copies (formats.md 9.2).

The socket is read in large pieces into one buffer and decrypted record by record; what is written is
encrypted into memory and sent in large pieces. Nothing here knows HTTP.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Final, cast

import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RECEIVE_SIZE: Final = 256 * 1024
RECORD_SIZE: Final = 16 * 1024
SEND_SIZE: Final = 256 * 1024

Buffer = bytes | bytearray | memoryview


def client_context() -> ssl.SSLContext:
    """TLS 1.2 or newer; no check of chain, name or date: the pin is the only judge of a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def spki_hash(certificate: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of a DER certificate; ValueError if it cannot be read."""
    key = x509.load_der_x509_certificate(certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


class Watch:
    """The deadline of one exchange: pushed on by progress, but never beyond `total` seconds from its start.

    `timeouts` are seconds by phase: "pool", "connect", "write", "read", and "total". `phase` names what was
    waited for last; it is read when time has cancelled `scope`.
    """

    def __init__(self, timeouts: Mapping[str, float]) -> None:
        self._timeouts = timeouts
        self._last = trio.current_time() + timeouts["total"]
        self.phase = "pool"
        self.scope = trio.CancelScope(deadline=self._last)

    def expect(self, phase: str) -> None:
        """To be called before waiting for `phase`, again after each bit of progress."""
        self.phase = phase
        self.scope.deadline = min(self._last, trio.current_time() + self._timeouts[phase])


class TlsChannel:
    """One TLS connection. After any exception, cancellation included, only `close` may be called."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, buffer: memoryview) -> None:
        """`buffer` is scratch space for receiving; channels of one thread may share it."""
        self._socket = sock
        self._number = sock.fileno()
        self._buffer = buffer
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ended = False
        self._tls = context.wrap_bio(self._incoming, self._outgoing)

    async def handshake(self, watch: Watch) -> bytes:
        """Shake hands and return the server's certificate (DER); it has then proved to hold its key."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush(watch, "connect")
                await self._fill(watch, "connect")
            else:
                await self._flush(watch, "connect")
                break
        certificate = self._tls.getpeercert(binary_form=True)
        if not certificate:
            raise ssl.SSLError("the server presented no certificate")
        return certificate

    async def _flush(self, watch: Watch, phase: str) -> None:
        while self._outgoing.pending:
            rest = memoryview(self._outgoing.read())
            while rest:
                try:
                    sent = self._socket.send(rest)
                except BlockingIOError:
                    watch.expect(phase)
                    await trio.lowlevel.wait_writable(self._number)
                else:
                    rest = rest[sent:]

    async def _fill(self, watch: Watch, phase: str) -> None:
        """Wait for more ciphertext. End of file is passed on to the TLS layer, which judges it."""
        watch.expect(phase)
        while True:
            await trio.lowlevel.wait_readable(self._number)
            with contextlib.suppress(BlockingIOError):
                self._feed(self._socket.recv_into(self._buffer))
                return

    def _feed(self, count: int) -> None:
        if count:
            self._incoming.write(self._buffer[:count])
        else:
            self._incoming.write_eof()

    async def send(self, pieces: Iterable[Buffer], watch: Watch) -> None:
        """Encrypt and send all bytes of these buffers."""
        watch.phase = "write"
        for piece in pieces:
            rest = memoryview(piece).cast("B")
            while rest:
                rest = rest[self._tls.write(rest[:SEND_SIZE]) :]
                if self._outgoing.pending >= SEND_SIZE:
                    await self._flush(watch, "write")
                    await trio.lowlevel.checkpoint()  # a fast peer must not keep other tasks from running
        await self._flush(watch, "write")

    async def receive_into(self, view: memoryview, watch: Watch) -> int:
        """Receive at least one byte into the non-empty `view` and return how many; 0 at an orderly end.

        Takes what is there without waiting, else waits. ssl.SSLError for a truncated stream.
        """
        watch.phase = "read"
        while True:
            if self._ended or self._incoming.pending or self._tls.pending() or self._incoming.eof:
                try:
                    return self._decrypt(view)
                except ssl.SSLWantReadError:
                    pass  # the last record has not come in whole, or it held no data
            if self._outgoing.pending:
                await self._flush(watch, "read")  # an answer to a key update
            await self._fill(watch, "read")

    def _decrypt(self, view: memoryview) -> int:
        """Decrypt what is there; SSLWantReadError if that gives not a byte."""
        # With a buffer, read() returns a number; the type stubs know only the form without.
        read = cast("Callable[[int, memoryview], int]", self._tls.read)
        done = read(RECORD_SIZE, view)
        while done < len(view) and self._incoming.pending:
            try:
                count = read(RECORD_SIZE, view[done : done + RECORD_SIZE])
            except ssl.SSLWantReadError:
                break
            if not count:
                self._ended = True  # an orderly end, for the next call
                break
            done += count
        return done

    def is_quiet(self) -> bool:
        """Whether an idle connection is still open and nothing unexpected has come in. Never waits."""
        try:
            self._feed(self._socket.recv_into(self._buffer))
            self._tls.read(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True  # nothing at all, or only session tickets
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close at once; a closure alert is sent if it can be without waiting."""
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            if self._outgoing.pending:
                self._socket.send(self._outgoing.read())
        self._socket.close()
