"""`lafsfs grid`: as a user runs it, and in this process where many commands are tried."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lafsfs.cli.grid import grid
from lafsfs.errors import (
    ConfigError,
    NotEnoughServersError,
    PinMismatchError,
    ServerRefusedError,
    ServerUnreachableError,
    UsageError,
)
from tests.support.mounts import LafsfsHome
from tests.support.storage import StorageServer, storage_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[StorageServer]]:
    with storage_servers(tmp_path_factory.mktemp("servers"), 2) as running:
        yield running


def _run(home: LafsfsHome, *arguments: str, stdin: str = "") -> Result:
    """`lafsfs grid ARGUMENTS` in this process; what was raised is in `exception`."""
    return CliRunner().invoke(grid, arguments, input=stdin, env=home.environment)


def _shown(home: LafsfsHome, *options: str) -> dict[str, Any]:
    return dict(json.loads(_run(home, "show", "--json", *options).stdout))


def test_adding_showing_and_removing(fresh_home: LafsfsHome, servers: list[StorageServer]) -> None:
    first, second = servers
    done = fresh_home.lafsfs(
        *("grid", "add", first.nurl.to_string(), first.furl.to_string()),
        *("--nickname", "one", "--server-id", first.server_id),
    )
    assert "1 server" in done.stdout
    assert "needs at least 7 servers" in done.stderr
    # By standard input, without a FURL: the identity comes from the certificate.
    _run(fresh_home, "add", "-", stdin=f"# a comment\n\n{second.nurl.to_string()}\n")
    assert _run(fresh_home, "encoding", "1", "2", "2").stderr == ""

    seen = _shown(fresh_home, "--check")
    assert seen["encoding"] == {"needed": 1, "happy": 2, "total": 2}
    assert [server["reachable"] for server in seen["servers"]] == [True, True]
    assert not seen["bundled"]
    with_secrets = _shown(fresh_home, "--show-nurls")["servers"]
    assert [server["nurls"] for server in with_secrets] == [
        [first.nurl.to_string()],
        [second.nurl.to_string()],
    ]
    assert with_secrets[1]["furl"].startswith(second.furl.to_string().partition("@")[0])

    shown = _run(fresh_home, "show").stdout
    assert "one" in shown
    for server in servers:
        assert f"127.0.0.1:{server.port}" in shown
        assert server.nurl.swissnum not in shown
        assert server.nurl.swissnum not in json.dumps(seen)

    assert _run(fresh_home, "remove", f"127.0.0.1:{second.port}").exit_code == 0
    assert isinstance(_run(fresh_home, "remove", second.server_id).exception, UsageError)
    assert "bundled" in _run(fresh_home, "remove", "one").stderr
    assert _shown(fresh_home) == {
        "bundled": True,
        "encoding": {"needed": 1, "happy": 1, "total": 1},
        "servers": [],
    }


def test_what_cannot_be_added_changes_nothing(home: LafsfsHome, servers: list[StorageServer]) -> None:
    nurl = servers[0].nurl
    text = nurl.to_string()
    wrong_pin = text.replace(nurl.spki, "A" * 43)
    other_swissnum = text.replace(nurl.swissnum, "b" * 32)
    nobody = text.replace(f":{nurl.port}/", ":1/")
    furl = servers[0].furl.to_string()
    home.lafsfs("grid", "add", wrong_pin, exit_code=PinMismatchError.exit_code)
    for argument, kind in [
        (wrong_pin, PinMismatchError),
        (nobody, ServerUnreachableError),
        (other_swissnum, ServerRefusedError),
        (furl, UsageError),
        (text.removesuffix("#v=1"), UsageError),
        ("nonsense", UsageError),
        ("@/nowhere", ConfigError),
    ]:
        done = _run(home, "add", argument)
        assert isinstance(done.exception, kind)
        assert nurl.swissnum not in str(done.exception)
    assert not (home.path / "config" / "grid.yaml").exists()
    assert _run(home, "add", "--no-check", nobody).exit_code == 0
    assert "DOWN" in _run(home, "show", "--check").stdout


def test_too_few_servers_for_a_new_directory(fresh_home: LafsfsHome, servers: list[StorageServer]) -> None:
    _run(fresh_home, "add", *(server.nurl.to_string() for server in servers))
    _run(fresh_home, "encoding", "1", "2", "2")
    servers[1].stop()
    try:
        done = fresh_home.lafsfs("create", exit_code=NotEnoughServersError.exit_code)
    finally:
        servers[1].start()
    assert "2 are wanted" in done.stderr
    assert "pb://" not in done.stderr
    fresh_home.lafsfs("create")


@pytest.mark.parametrize(
    "numbers", [["3", "2"], ["4", "1", "3"], ["1", "9", "3"], ["0", "1", "1"], ["1", "1", "300"]]
)
def test_impossible_encodings(home: LafsfsHome, numbers: list[str]) -> None:
    assert isinstance(_run(home, "encoding", *numbers).exception, UsageError | ConfigError)
    assert "1-of-1" in _run(home, "encoding").stdout


def test_the_bundled_server(fresh_home: LafsfsHome) -> None:
    assert "running, process" in fresh_home.lafsfs("grid", "server", "start").stdout
    assert _shown(fresh_home, "--check")["servers"][0]["reachable"] is True
    assert "running, process" in _run(fresh_home, "show").stdout
    assert _run(fresh_home, "add", "local").exit_code == 0
    assert not _shown(fresh_home)["bundled"]
    assert "stopped" in _run(fresh_home, "server", "stop").stdout
    assert "did not run" in _run(fresh_home, "server", "stop").stdout


def test_help_for_newcomers(home: LafsfsHome) -> None:
    for verb in ([], ["show"], ["add"], ["remove"], ["encoding"], ["server"], ["server", "start"]):
        assert _run(home, *verb, "--help").stdout.startswith("Usage:")
