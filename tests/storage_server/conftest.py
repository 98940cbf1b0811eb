"""A running `lafs-storage` for the tests of one module, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.gbs_client import GbsClient
from tests.support.storage import StorageServer, storage_servers


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with storage_servers(tmp_path_factory.mktemp("storage")) as [running]:
        yield running


@pytest.fixture
def client(server: StorageServer) -> Iterator[GbsClient]:
    with GbsClient(server.nurl) as connected:
        yield connected
