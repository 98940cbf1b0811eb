"""Grids that lafsfs and a Tahoe client share: of Tahoe's storage nodes, and of `lafs-storage` servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.many import many_servers
from tests.support.mounts import LafsfsHome
from tests.support.storage import StorageServer
from tests.support.tahoe import TahoeClient, TahoeStorage, tahoe_client, tahoe_storages

Server = StorageServer | TahoeStorage


@dataclass(frozen=True)
class SharedGrid:
    """Running servers and a Tahoe client of them; lafsfs takes all it needs from the client's directory."""

    servers: list[Server]
    client: TahoeClient

    @property
    def options(self) -> tuple[str, str]:
        """The options of `lafsfs create` and `lafsfs mount` for this grid."""
        return "--node-directory", str(self.client.directory)

    def create(self, home: LafsfsHome, alias: str = "home") -> str:
        """A new directory, made by lafsfs; its write cap."""
        return home.lafsfs("create", "--show-cap", *self.options, alias).stdout.strip()


def _announcements(servers: list[Server]) -> dict[str, dict[str, object]]:
    return {server.server_id: server.announcement() for server in servers}


_MAKES = [
    pytest.param(make, marks=pytest.mark.xdist_group(make), id=make)
    for make in ("tahoe nodes", "lafs-storage")
]
"""Of each make one grid, in one process of the test run."""


@pytest.fixture(scope="session", params=_MAKES)
def shared_grid(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedGrid]:
    """Three servers of one make, 2-of-3."""
    directory = tmp_path_factory.mktemp("shared")
    make = tahoe_storages if request.param == "tahoe nodes" else many_servers
    with make(directory, 3) as servers:
        known: list[Server] = list(servers)
        with tahoe_client(directory / "client", _announcements(known), k=2, happy=2, n=3) as client:
            yield SharedGrid(known, client)


@pytest.fixture(scope="session")
def mixed_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedGrid]:
    """Ten servers, two of Tahoe and eight of ours, 3-of-10 as Tahoe's client has it by default."""
    directory: Path = tmp_path_factory.mktemp("mixed")
    with tahoe_storages(directory, 2) as theirs, many_servers(directory, 8) as ours:
        known: list[Server] = [*theirs, *ours]
        with tahoe_client(directory / "client", _announcements(known), k=3, happy=7, n=10) as client:
            yield SharedGrid(known, client)
