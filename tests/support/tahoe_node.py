"""A real Tahoe-LAFS 1.20 storage node on loopback, from the venv TAHOE_VENV (default /opt/tahoe)."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lafsfs.gbs.nurl import Furl, Nurl
from lafsfs.grid.tls import client_context, spki_hash

START_SECONDS = 60.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class TahoeNode:
    """The names of a running storage node."""

    directory: Path
    nurl: Nurl
    furl: Furl
    server_id: str


def _tahoe() -> str:
    program = Path(os.environ.get("TAHOE_VENV", "/opt/tahoe")) / "bin" / "tahoe"
    if not program.exists():
        pytest.fail(f"no Tahoe-LAFS at {program}; set TAHOE_VENV")
    return str(program)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _certificate(port: int, process: subprocess.Popen[bytes]) -> bytes:
    """The certificate that the node presents as soon as it answers TLS."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with (
                socket.create_connection(("127.0.0.1", port), 5) as raw,
                client_context().wrap_socket(raw) as secure,
            ):
                certificate = secure.getpeercert(binary_form=True)
                assert certificate
                return certificate
        except (OSError, ssl.SSLError):
            assert process.poll() is None, "tahoe run ended"
            assert time.monotonic() < deadline, "tahoe run does not answer"
            time.sleep(0.1)  # one turn of a wait with a deadline


@contextlib.contextmanager
def tahoe_storage_node(directory: Path) -> Iterator[TahoeNode]:
    """A fresh storage node in `directory`; gone when the block ends."""
    port = _free_port()
    subprocess.run(
        [
            *(_tahoe(), "create-node", "--webport=none", f"--port=tcp:{port}:interface=127.0.0.1"),
            *(f"--location=tcp:127.0.0.1:{port}", str(directory)),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=START_SECONDS,
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [_tahoe(), "run", "--allow-stdin-close", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        pin = base64.urlsafe_b64encode(spki_hash(_certificate(port, process))).decode().rstrip("=")
        furl = Furl.parse((directory / "private" / "storage.furl").read_text())
        public_key = (directory / "node.pubkey").read_text().strip()
        nurl = Nurl(pin, "127.0.0.1", port, furl.swissnum)
        yield TahoeNode(directory, nurl, furl, public_key.removeprefix("pub-"))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
