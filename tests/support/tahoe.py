"""Real Tahoe-LAFS 1.20 nodes on loopback: storage nodes and clients, as processes that always end.

    with tahoe_storage(directory) as node: node.nurl, node.storage_dir; node.stop(); node.start()
    with tahoe_client(directory, announcements, k=1, happy=1, n=3) as client: client.put(b"...") -> cap

The venv is LAFSFS_TAHOE_VENV, /opt/tahoe or .tahoe-venv.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lafsfs.formats import base32
from lafsfs.gbs.nurl import Furl, Nurl, spki_hash

START_SECONDS = 90.0
STOP_SECONDS = 15.0
REQUEST_SECONDS = 120.0
TURN_SECONDS = 0.05
"""Length of one turn of a wait that has a deadline."""


def _find_program() -> Path | None:
    root = Path(__file__).parent.parent.parent
    named = os.environ.get("LAFSFS_TAHOE_VENV")
    venvs = [Path(named)] if named else [Path("/opt/tahoe"), root / ".tahoe-venv"]
    return next((v / "bin" / "tahoe" for v in venvs if (v / "bin" / "tahoe").exists()), None)


def is_installed() -> bool:
    """Whether there is a Tahoe-LAFS to work with."""
    return _find_program() is not None


def tahoe_program() -> str:
    """The `tahoe` command. The test fails, not skips, when there is none: it was asked for by its marker."""
    program = _find_program()
    if program is None:
        pytest.fail("no Tahoe-LAFS 1.20 found; set LAFSFS_TAHOE_VENV to its venv")
    return str(program)


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _create(kind: str, directory: Path, *options: str) -> None:
    subprocess.run(
        [tahoe_program(), kind, "--basedir", str(directory), *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=START_SECONDS,
    )


@dataclass
class TahoeNode:
    """A node directory and its process while it runs."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process; it may not answer yet."""
        assert self.process is None, "the node runs already"
        for stale in ("running.process", "running.process.lock"):
            (self.directory / stale).unlink(missing_ok=True)
        with (self.directory / "stdout").open("ab") as log:
            self.process = subprocess.Popen(
                [tahoe_program(), "run", "--allow-stdin-close", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def log(self) -> str:
        """The end of what the node printed."""
        return (self.directory / "stdout").read_text("utf-8", "replace")[-4000:]


@dataclass
class TahoeStorage(TahoeNode):
    """A storage node."""

    nurl: Nurl = field(init=False)
    furl: Furl = field(init=False)
    server_id: str = field(init=False)
    permutation_seed: bytes = field(init=False)
    certificate: bytes = field(init=False, repr=False)

    @property
    def storage_dir(self) -> Path:
        """Its storage directory."""
        return self.directory / "storage"

    def start(self) -> None:
        """Start it and wait until it answers TLS; its names are known then."""
        super().start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.alive(), f"tahoe run ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"tahoe run does not answer:\n{self.log()}"
            with contextlib.suppress(OSError):
                self.certificate = _certificate(self.port)
                break
            time.sleep(TURN_SECONDS)
        self._read_names()

    def _read_names(self) -> None:
        key = x509.load_der_x509_certificate(self.certificate).public_key()
        form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        self.furl = Furl.parse((self.directory / "private" / "storage.furl").read_text())
        self.nurl = Nurl(spki_hash(key.public_bytes(*form)), "127.0.0.1", self.port, self.furl.swissnum)
        self.server_id = (self.directory / "node.pubkey").read_text().strip().removeprefix("pub-")
        self.permutation_seed = base32.decode((self.directory / "permutation-seed").read_text().strip())
        assert hashlib.sha1(self.certificate).digest() == self.furl.tubid

    def announcement(self) -> dict[str, object]:
        """The entry for this server in a servers.yaml, under its server id."""
        return {
            "ann": {
                "nickname": self.directory.name,
                "anonymous-storage-FURL": self.furl.to_string(),
                "anonymous-storage-NURLs": [self.nurl.to_string()],
                "permutation-seed-base32": base32.encode(self.permutation_seed),
            }
        }


def _certificate(port: int) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw) as tls:
        certificate = tls.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


@dataclass
class TahoeClient(TahoeNode):
    """A client node with its web API."""

    @property
    def url(self) -> str:
        """Base URL of the web API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it is connected to every server of its servers.yaml."""
        super().start()
        wanted = len(json.loads((self.directory / "private" / "servers.yaml").read_text())["storage"])
        deadline = time.monotonic() + START_SECONDS
        while self._connected() < wanted:
            assert self.alive(), f"tahoe run ended:\n{self.log()}"
            assert time.monotonic() < deadline, f"the client does not connect:\n{self.log()}"
            time.sleep(TURN_SECONDS)

    def _connected(self) -> int:
        try:
            welcome = json.loads(self.request("GET", "/?t=json"))
        except OSError:
            return 0
        return sum(server["connection_status"] == "connected" for server in welcome["servers"])

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One call of the web API. AssertionError with Tahoe's text for an error status."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_SECONDS) as response:
                answer: bytes = response.read()
                return answer
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            raise AssertionError(f"{method} {path[:40]}: {error.code} {text[-2000:]}") from None

    def put(self, data: bytes, form: str = "CHK") -> str:
        """Upload; the cap. `form`: CHK, SDMF or MDMF."""
        return self.request("PUT", f"/uri?format={form}", data).decode()

    def get(self, cap: str) -> bytes:
        """The contents of a cap."""
        return self.request("GET", f"/uri/{cap}")

    def check(self, cap: str, *, verify: bool = True) -> dict[str, Any]:
        """The results of t=check."""
        flag = "true" if verify else "false"
        answer = self.request("POST", f"/uri/{cap}?t=check&output=json&verify={flag}", b"")
        results: dict[str, Any] = json.loads(answer)["results"]
        return results


def _storage_node(directory: Path) -> TahoeStorage:
    port = free_port()
    options = ["--webport", "none", "--port", f"tcp:{port}:interface=127.0.0.1"]
    _create("create-node", directory, *options, "--location", f"tcp:127.0.0.1:{port}")
    config = directory / "tahoe.cfg"
    text = config.read_text().replace("reserved_space = 1G", "reserved_space = 0\nforce_foolscap = false")
    config.write_text(text)
    return TahoeStorage(directory, port)


@contextlib.contextmanager
def tahoe_storage(directory: Path, *, start: bool = True) -> Iterator[TahoeStorage]:
    """A storage node in a fresh directory, GBS on, nothing reserved."""
    node = _storage_node(directory)
    try:
        if start:
            node.start()
        yield node
    finally:
        node.stop()


@contextlib.contextmanager
def tahoe_storages(directory: Path, count: int) -> Iterator[list[TahoeStorage]]:
    """`count` running storage nodes below `directory`, named t0, t1, …; made and started side by side."""
    with ThreadPoolExecutor(4) as pool:
        nodes = list(pool.map(_storage_node, (directory / f"t{number}" for number in range(count))))
        try:
            list(pool.map(TahoeStorage.start, nodes))
            yield nodes
        finally:
            list(pool.map(TahoeStorage.stop, nodes))


@contextlib.contextmanager
def tahoe_client(
    directory: Path,
    announcements: Mapping[str, Mapping[str, object]],
    *,
    k: int = 1,
    happy: int = 1,
    n: int = 1,
) -> Iterator[TahoeClient]:
    """A client of these servers: {server id: announcement}."""
    port = free_port()
    options = ["--webport", f"tcp:{port}:interface=127.0.0.1", "--nickname", "client"]
    shares = ["--shares-needed", str(k), "--shares-happy", str(happy), "--shares-total", str(n)]
    _create("create-client", directory, *options, *shares)
    servers = directory / "private" / "servers.yaml"
    servers.write_text(json.dumps({"storage": announcements}))
    node = TahoeClient(directory, port)
    try:
        node.start()
        yield node
    finally:
        node.stop()


def urlsafe(data: bytes) -> str:
    """URL-safe base64, as the web API wants private keys."""
    return base64.urlsafe_b64encode(data).decode()
