"""Many storage servers at once, quickly."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from storage_server import identity as identities
from storage_server.cli import cli as storage_cli
from storage_server.settings import Settings
from tests.support.storage import StorageServer, free_port


@contextmanager
def many_servers(
    directory: Path, count: int, module: str = "storage_server"
) -> Iterator[list[StorageServer]]:
    """Like `storage_servers`, with the processes started side by side; `module` is what they run."""
    servers: list[StorageServer] = []
    try:
        servers += [_new_server(directory / f"s{number}") for number in range(count)]
        for server in servers:
            server.module = module
        start_all(servers)
        yield servers
    finally:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(StorageServer.stop, servers))


@contextmanager
def three_of_ten(directory: Path, *, stopped: int) -> Iterator[dict[str, Any]]:
    """Ten servers of which `stopped` do not run, as the content of a grid file: 3-of-10, seven are enough."""
    with many_servers(directory, 10) as servers:
        for server in servers[:stopped]:
            server.stop()
        storage = {server.server_id: server.announcement() for server in servers}
        yield {"storage": storage, "encoding": {"needed": 3, "happy": 7, "total": 10}}


def start_all(servers: Sequence[StorageServer]) -> None:
    """Start servers side by side, and wait until all of them answer."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(StorageServer.start, servers))


def _new_server(directory: Path) -> StorageServer:
    """What `lafs-storage create` makes, without the time that ten Python processes take to start."""
    with redirect_stdout(io.StringIO()):
        storage_cli.main(
            ["create", str(directory), "--listen", f"127.0.0.1:{free_port()}"], standalone_mode=False
        )
    identity, settings = identities.load(directory), Settings.load(directory)
    return StorageServer(
        directory,
        identity.nurl(settings.advertised_host, settings.port),
        identity.furl(settings.advertised_host, settings.port),
        identity.server_id,
        identity.permutation_seed,
        directory / "storage",
        settings.port,
    )
