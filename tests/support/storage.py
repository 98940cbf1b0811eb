"""Real `lafs-storage` processes for tests.

    with storage_servers(tmp_path, 3) as servers:
        servers[0].nurl, .furl, .server_id, .permutation_seed, .storage_dir, .pid
        servers[1].kill(); servers[1].start(); servers[2].pause(); servers[2].resume()

Every process is gone when the block ends, however it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lafsfs.formats import base32
from lafsfs.gbs.nurl import Furl, Nurl

START_SECONDS = 30.0
STOP_SECONDS = 15.0
PORTS = 600  # for each of up to ten processes that run tests; others choose from 16384 on
_ports = itertools.count(61 * os.getpid())  # neighbours that begin at the same time keep apart


def free_port() -> int:
    """A loopback port that no server of these tests gets beside, also one that was made and is not started yet."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw9").removeprefix("gw"))
    lowest = 10_000 + worker % 10 * PORTS
    while True:
        port = lowest + next(_ports) % PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class StorageServer:
    """One server: its directory and names, and the process while it runs."""

    directory: Path
    nurl: Nurl
    furl: Furl
    server_id: str
    permutation_seed: bytes
    storage_dir: Path
    port: int
    run_options: Sequence[str] = ()
    module: str = "storage_server"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def create(
        cls, directory: Path, create_options: Sequence[str] = (), run_options: Sequence[str] = ()
    ) -> StorageServer:
        """Make a server on a free loopback port; not started."""
        _lafs_storage("create", str(directory), "--listen", f"127.0.0.1:{free_port()}", *create_options)
        info = json.loads(_lafs_storage("info", str(directory), "--json"))
        return cls(
            directory=directory,
            nurl=Nurl.parse(info["nurl"]),
            furl=Furl.parse(info["furl"]),
            server_id=info["server_id"],
            permutation_seed=base32.decode(info["permutation_seed"]),
            storage_dir=Path(info["storage_dir"]),
            port=info["port"],
            run_options=run_options,
        )

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self.process is not None, "the server does not run"
        return self.process.pid

    @property
    def log(self) -> Path:
        """Where its stderr goes."""
        return self.directory / "log"

    def start(self) -> None:
        """Start it and wait until it answers requests. AssertionError, with its log, if it does not."""
        assert self.process is None, "the server runs already"
        read_end, write_end = os.pipe()
        try:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [
                        *(sys.executable, "-m", self.module, "run", str(self.directory)),
                        *("--ready-fd", str(write_end), *self.run_options),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(write_end,),
                )
            os.close(write_end)
            write_end = -1
            poll = select.poll()
            poll.register(read_end, select.POLLIN)
            if not poll.poll(START_SECONDS * 1000) or os.read(read_end, 16) != b"ready\n":
                self.kill()
                raise AssertionError(f"lafs-storage did not start:\n{self.log.read_text()[-4000:]}")
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)

    def stop(self) -> int:
        """SIGTERM, and SIGKILL if it does not end in time; its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def kill(self) -> None:
        """SIGKILL; nothing is flushed by the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """Stop in order and start again, same identity and port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            _, status = os.waitpid(self.pid, os.WUNTRACED | os.WNOHANG)
            if status and os.WIFSTOPPED(status):
                return
            os.sched_yield()

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

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


def _lafs_storage(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "storage_server", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def storage_servers(
    directory: Path, count: int = 1, create_options: Sequence[str] = (), run_options: Sequence[str] = ()
) -> Iterator[list[StorageServer]]:
    """`count` running servers below `directory`, named s0, s1, …"""
    servers: list[StorageServer] = []
    try:
        for number in range(count):
            servers.append(StorageServer.create(directory / f"s{number}", create_options, run_options))
            servers[-1].start()
        yield servers
    finally:
        for server in servers:
            server.stop()
