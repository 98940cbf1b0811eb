"""lafsfs itself: on the bundled server, and on ten local servers with 3-of-10; and Tahoe's web API on those servers."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.bench.places import GRID, Place
from tests.support.many import many_servers
from tests.support.mounts import LafsfsHome, lafsfs_home, processes_of
from tests.support.storage import StorageServer
from tests.support.tahoe import TahoeClient, tahoe_client

_PATIENCE = 1200.0


class LafsfsPlace(Place):
    """A mounted tree."""

    def __init__(self, name: str, home: LafsfsHome, options: Sequence[str], servers: Sequence[int]) -> None:
        super().__init__(name, home.mountpoint())
        self._home, self._options, self._own_servers = home, options, servers

    def suits(self, group: str) -> bool:
        # What happens before the grid comes into play does not depend on the grid.
        return group == GRID or not self._own_servers

    def start(self) -> None:
        """Mount it."""
        self._home.mount("home:", *self._options)

    def _processes(self, word: bytes) -> list[int]:
        found = []
        for pid in processes_of(self._home.directory):
            with contextlib.suppress(OSError):
                if word in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def clients(self) -> list[int]:
        return self._processes(b"lafsfs.daemon")

    def servers(self) -> list[int]:
        return list(self._own_servers) or self._processes(b"storage_server")

    def cold(self) -> bool:
        """Another machine: neither cache nor local state, everything comes from the servers."""
        self._home.lafsfs("unmount", str(self.path), timeout=_PATIENCE)
        self._home.forget()
        self.start()
        return True

    def flush(self) -> bool:
        self._home.lafsfs("flush", str(self.path), timeout=_PATIENCE)
        return True


@contextmanager
def bundled(name: str = "lafsfs") -> Iterator[LafsfsPlace]:
    """The default: the bundled server, 1-of-1."""
    with lafsfs_home() as home:
        home.create()
        place = LafsfsPlace(name, home, (), ())
        place.start()
        yield place


@contextmanager
def ten_servers(
    scratch: Path, name: str = "lafsfs 3-of-10"
) -> Iterator[tuple[LafsfsPlace, list[StorageServer]]]:
    """Ten local servers; any three of ten shares suffice."""
    with lafsfs_home() as home, many_servers(scratch / "servers", 10) as servers:
        home.path.mkdir(parents=True, exist_ok=True)
        grid = scratch / "grid.yaml"
        encoding = {"needed": 3, "happy": 7, "total": 10}
        storage = {server.server_id: server.announcement() for server in servers}
        grid.write_text(yaml.safe_dump({"storage": storage, "encoding": encoding}))
        home.lafsfs("create", "--grid", str(grid), "home")
        place = LafsfsPlace(name, home, ("--grid", str(grid)), [server.pid for server in servers])
        place.start()
        yield place, servers


class TahoeWeb(Place):
    """Tahoe's web API: no mount, but files and directories can be put and got."""

    def __init__(self, name: str, client: TahoeClient, servers: Sequence[int]) -> None:
        super().__init__(name, client.directory)
        self._client, self._own_servers = client, servers
        self.root = client.request("POST", "/uri?t=mkdir&format=SDMF", b"").decode()

    def suits(self, group: str) -> bool:
        return group == GRID

    def clients(self) -> list[int]:
        process = self._client.process
        return [process.pid] if process is not None else []

    def servers(self) -> list[int]:
        return list(self._own_servers)

    def _url(self, directory: str, name: str) -> str:
        return f"/uri/{urllib.parse.quote(directory)}/{urllib.parse.quote(name)}"

    def put(self, directory: str, name: str, data: bytes) -> str:
        """A new file in a directory; its cap. It is on the grid on return."""
        return self._client.request("PUT", self._url(directory, name), data).decode()

    def get(self, cap: str) -> bytes:
        """The contents of a file."""
        return self._client.get(cap)

    def mkdir(self, directory: str, name: str) -> str:
        """A new directory in a directory; its cap."""
        return self._client.request("POST", f"{self._url(directory, name)}?t=mkdir&format=SDMF", b"").decode()


@contextmanager
def tahoe_web(
    name: str, scratch: Path, servers: Sequence[StorageServer], k: int, happy: int, n: int
) -> Iterator[TahoeWeb]:
    """A Tahoe client of these servers."""
    announcements = {server.server_id: server.announcement() for server in servers}
    scratch.mkdir()
    with tahoe_client(scratch / "tahoe", announcements, k=k, happy=happy, n=n) as client:
        yield TahoeWeb(name, client, [server.pid for server in servers])
