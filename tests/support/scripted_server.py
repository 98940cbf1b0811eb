"""A TLS server that does exactly what a test says, on threads, and records what it was sent."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lafsfs.grid.tls import spki_hash


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate in a PEM file together with its key."""

    path: Path
    der: bytes

    @property
    def pin(self) -> bytes:
        return spki_hash(self.der)


def make_certificate(path: Path, *, expired: bool = True) -> Certificate:
    """Like those of storage servers: self-signed, no usable name, and long expired if `expired`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "newpb_thingy")])
    start = datetime.datetime(2001 if expired else 2020, 1, 1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=365 if expired else 36500))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return Certificate(path, certificate.public_bytes(serialization.Encoding.DER))


@dataclass
class Exchange:
    """One connection as the script sees it: read requests, write bytes."""

    socket: ssl.SSLSocket
    received: bytearray
    _rest: bytes = b""

    def request(self) -> tuple[bytes, bytes]:
        """The next request: head without the empty line, and body. EOFError when the client has gone."""
        data = self._rest
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, data = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(data) < length:
            data += self._receive()
        self._rest = data[length:]
        return head, data[:length]

    def _receive(self) -> bytes:
        data = self.socket.recv(1 << 18)
        if not data:
            raise EOFError
        self.received.extend(data)
        return data

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def end(self) -> None:
        """End the stream in order, without waiting for the client to do the same."""
        self.socket.settimeout(0)
        with contextlib.suppress(OSError):
            self.socket.unwrap()
        self.socket.shutdown(socket.SHUT_WR)


@dataclass
class ScriptedServer:
    """`received` holds everything decrypted, `connections` the number of completed handshakes."""

    port: int
    received: bytearray = field(default_factory=bytearray)
    connections: int = 0


Script = Callable[[Exchange], None]


@contextlib.contextmanager
def scripted_server(certificate: Certificate, script: Script) -> Iterator[ScriptedServer]:
    """Run `script` for every connection, in a thread of its own, until the block ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.path)
    listener = socket.create_server(("127.0.0.1", 0))
    server = ScriptedServer(listener.getsockname()[1])
    open_sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(raw: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError), raw:
            raw.settimeout(30)
            with context.wrap_socket(raw, server_side=True) as secure:
                open_sockets.append(secure)
                server.connections += 1
                script(Exchange(secure, server.received))

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            open_sockets.append(raw)
            threads.append(threading.Thread(target=serve, args=(raw,), daemon=True))
            threads[-1].start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        for opened in [listener, *open_sockets]:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()
        for thread in [acceptor, *threads]:
            thread.join(10)
