"""The bundled server: made once, started once, found again, stopped."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafsfs.config import ClientSecrets, Encoding, GridProfile, Paths
from lafsfs.daemon import local_grid
from lafsfs.errors import ConfigError, ServerUnreachableError
from lafsfs.grid.servers import Grid
from tests.support.mounts import wait_until

SECRETS = ClientSecrets(b"c" * 32, b"l" * 32)


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths.discover({"LAFSFS_HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path)})
    yield found
    local_grid.stop(found)


async def _answers(profile: GridProfile) -> bool:
    async with Grid(profile, SECRETS) as grid:
        return await grid.servers[0].probe()


async def test_the_whole_life(paths: Paths) -> None:
    assert local_grid.status(paths) == local_grid.LocalStatus(paths.data / "server", False, None)
    assert not local_grid.stop(paths)
    with pytest.raises(ConfigError):
        local_grid.describe(paths)

    profile = local_grid.own_grid(paths)
    assert profile.encoding == Encoding(1, 1, 1)
    assert await _answers(profile)
    first = local_grid.status(paths).pid
    assert first is not None
    assert local_grid.ensure_running(paths) == profile.servers[0] == local_grid.describe(paths)
    assert local_grid.status(paths).pid == first
    assert stat.S_IMODE(paths.data.stat().st_mode) == 0o700

    os.kill(first, signal.SIGKILL)
    wait_until(lambda: local_grid.status(paths).pid is None, what="the end of the server")
    assert not await _answers(profile)
    assert local_grid.own_grid(paths) == profile
    assert await _answers(profile)
    assert local_grid.status(paths).pid != first

    assert local_grid.stop(paths)
    assert not await _answers(profile)
    assert not local_grid.stop(paths)


def test_starters_at_the_same_time_start_one_server(paths: Paths) -> None:
    program = (
        "from lafsfs.config import Paths; from lafsfs.daemon import local_grid as g; p = Paths.discover();"
        "print(g.ensure_running(p).server_id, g.status(p).pid)"
    )
    environment = {**os.environ, "LAFSFS_HOME": str(paths.data.parent)}
    starters = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {starter.communicate(timeout=90)[0] for starter in starters}
    assert len(outputs) == 1
    server_id, pid = outputs.pop().split()
    assert server_id.startswith("v0-")
    # It lives on although all of its starters have ended.
    assert local_grid.status(paths).pid == int(pid)


def test_a_server_that_cannot_start_says_why(paths: Paths) -> None:
    before = local_grid.ensure_running(paths)
    local_grid.stop(paths)
    settings = paths.data / "server" / "server.toml"
    good = settings.read_text()
    settings.write_text(good.replace("127.0.0.1", "203.0.113.1"))  # an address of nobody's
    with pytest.raises(ServerUnreachableError) as caught:
        local_grid.ensure_running(paths)
    assert "cannot listen" in str(caught.value)
    assert local_grid.status(paths).pid is None
    port = before.nurls[0].port
    settings.write_text(good.replace(f"port = {port}", f"port = {port + 1}"))
    assert local_grid.describe(paths).nurls[0].port == port + 1  # what was remembered is not believed


def test_a_configured_grid_is_used_instead(paths: Paths) -> None:
    local = local_grid.ensure_running(paths)
    local_grid.stop(paths)
    GridProfile((local,), Encoding(1, 1, 1)).save(paths.grid_file)
    assert local_grid.own_grid(paths).servers == (local,)
    assert local_grid.status(paths).pid is not None  # it is one of the servers
    local_grid.stop(paths)

    profile = GridProfile((local,)).without_server(local.server_id)
    profile.save(paths.grid_file)
    assert local_grid.own_grid(paths).encoding == Encoding(1, 1, 1)
    assert local_grid.stop(paths)
