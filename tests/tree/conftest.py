"""One storage server, and three of them, for all tests of the tree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from lafsfs.config import Encoding
from lafsfs.nodes.maker import NodeMaker
from tests.support.grids import client
from tests.support.many import many_servers, start_all
from tests.support.storage import StorageServer


@pytest.fixture(scope="session")
def _three_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StorageServer]]:
    with many_servers(tmp_path_factory.mktemp("trees"), 3) as servers:
        yield servers


@pytest.fixture
def three(_three_servers: list[StorageServer]) -> Iterator[list[StorageServer]]:
    """Three running storage servers. Those that a test stops or pauses run again after it."""
    yield _three_servers
    for server in _three_servers:
        if server.process is not None:
            server.resume()
    start_all([server for server in _three_servers if server.process is None])


@pytest.fixture
async def nodes(three: list[StorageServer]) -> AsyncIterator[NodeMaker]:
    """A client of one server."""
    async with client(three[:1], Encoding(1, 1, 1)) as maker:
        yield maker


@pytest.fixture
async def other_nodes(three: list[StorageServer]) -> AsyncIterator[NodeMaker]:
    """Another client of the same server, which knows nothing of the first."""
    async with client(three[:1], Encoding(1, 1, 1)) as maker:
        yield maker
