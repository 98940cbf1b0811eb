"""A home whose grid are three `lafs-storage` servers, 2-of-3."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.many import many_servers, start_all
from tests.support.mounts import LafsfsHome
from tests.support.storage import StorageServer


@dataclass(frozen=True)
class FaultyGrid:
    """Servers to do things to, and a home that uses them."""

    home: LafsfsHome
    servers: list[StorageServer]
    file: Path

    def use(self, needed: int, happy: int, total: int) -> None:
        """Write the grid file that all commands of these tests name."""
        storage = {server.server_id: server.announcement() for server in self.servers}
        encoding = {"needed": needed, "happy": happy, "total": total}
        self.file.write_text(json.dumps({"storage": storage, "encoding": encoding}))  # JSON is YAML

    @property
    def options(self) -> tuple[str, str]:
        """The options that make lafsfs use this grid."""
        return "--grid", str(self.file)

    def create(self) -> str:
        """A new directory, alias home; its cap."""
        return self.home.run_here("create", "--show-cap", *self.options).strip()

    def shares(self) -> dict[Path, bytes]:
        """Every share on every server, as it is on the disk."""
        tops = (server.storage_dir / "shares" for server in self.servers)
        return {path: path.read_bytes() for top in tops for path in top.rglob("*") if path.is_file()}

    def advisories(self) -> list[str]:
        """What the servers were told of damaged shares."""
        tops = (server.storage_dir / "corruption-advisories" for server in self.servers)
        return [path.read_text() for top in tops for path in top.glob("*")]


@pytest.fixture(scope="session")
def _three_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StorageServer]]:
    with many_servers(tmp_path_factory.mktemp("faulty"), 3) as servers:
        yield servers


@pytest.fixture
def faulty(_three_servers: list[StorageServer], fresh_home: LafsfsHome) -> Iterator[FaultyGrid]:
    """Three running servers, 2-of-3."""
    grid = FaultyGrid(fresh_home, _three_servers, fresh_home.directory / "grid.yaml")
    grid.use(2, 2, 3)
    yield grid
    for server in _three_servers:
        if server.process is not None:
            server.resume()
    start_all([server for server in _three_servers if server.process is None])
