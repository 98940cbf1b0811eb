"""Ten storage servers, shared by all tests of this folder; a test leaves all of them running."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.grids import many_servers
from tests.support.storage import StorageServer


@pytest.fixture(scope="session")
def _ten_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StorageServer]]:
    with many_servers(tmp_path_factory.mktemp("grid"), 10) as servers:
        yield servers


@pytest.fixture
def ten(_ten_servers: list[StorageServer]) -> Iterator[list[StorageServer]]:
    """Ten running servers. Those that the test stopped or paused run again afterwards."""
    yield _ten_servers
    for server in _ten_servers:
        if server.process is None:
            server.start()
        else:
            server.resume()
