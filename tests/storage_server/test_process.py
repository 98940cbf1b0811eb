"""`lafs-storage` as a process: create, info, run, one server per directory, orderly ends, options."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lafsfs.errors import BusyError, ConfigError, UsageError
from lafsfs.formats import base32
from lafsfs.gbs.messages import TestWrite
from storage_server.segment import Segment
from tests.support.gbs_client import GbsClient
from tests.support.storage import StorageServer, storage_servers

DEADLINE = 30.0


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "storage_server", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def test_create_and_info(tmp_path: Path) -> None:
    directory = str(tmp_path / "new" / "server")
    created = _run("create", directory, "--listen", "127.0.0.1:0", "--advertise", "storage.example")
    assert created.returncode == 0
    info = json.loads(_run("info", directory, "--json").stdout)
    assert set(info) == {
        *("nurl", "furl", "server_id", "tubid", "spki", "permutation_seed", "port", "storage_dir"),
    }
    assert f"@storage.example:{info['port']}/" in info["nurl"]
    assert info["furl"].startswith(f"pb://{info['tubid']}@tcp:storage.example:{info['port']}/")
    assert f"pb://{info['spki']}@" in info["nurl"]
    assert len(base32.decode(info["permutation_seed"])) == 32
    swissnum = info["nurl"].rpartition("/")[2].partition("#")[0]
    assert swissnum not in created.stdout + created.stderr
    plain = _run("info", directory).stdout
    assert all(str(value) in plain for value in info.values())
    assert Path(directory).stat().st_mode & 0o077 == 0


def test_wrong_uses(tmp_path: Path) -> None:
    directory = str(tmp_path / "s")
    assert _run("create", directory).returncode == 0
    again = _run("create", directory)
    assert again.returncode == ConfigError.exit_code
    assert again.stderr.startswith("lafs-storage: ")
    assert _run("run", str(tmp_path)).returncode == ConfigError.exit_code
    assert _run("info", str(tmp_path / "nowhere")).returncode == ConfigError.exit_code
    assert _run("create", str(tmp_path / "t"), "--listen", "nonsense").returncode == UsageError.exit_code
    assert (
        _run("create", str(tmp_path / "t"), "--listen", "127.0.0.1:99999").returncode == UsageError.exit_code
    )
    assert _run("create", str(tmp_path / "t"), "--listen", "192.0.2.1:1").returncode == ConfigError.exit_code
    assert not (tmp_path / "t").exists()
    (tmp_path / "s" / "server.toml").write_text("port = 'x'\n")
    assert _run("run", directory).returncode == ConfigError.exit_code
    assert _run("--help").returncode == 0


def test_one_server_per_storage_directory(tmp_path: Path) -> None:
    with storage_servers(tmp_path) as [server]:
        refused = _run("run", str(server.directory))
        assert refused.returncode == BusyError.exit_code
        assert "another server" in refused.stderr
        other = StorageServer.create(tmp_path / "other", ("--storage-dir", str(server.storage_dir)))
        assert _run("run", str(other.directory)).returncode == BusyError.exit_code
        server.kill()  # the lock ends with the process
        other.start()
        other.stop()


def test_a_taken_port_is_reported(tmp_path: Path) -> None:
    with storage_servers(tmp_path) as [server]:
        _run("create", str(tmp_path / "t"))
        settings = tmp_path / "t" / "server.toml"
        lines = [f"port = {server.port}" if "port =" in x else x for x in settings.read_text().split("\n")]
        settings.write_text("\n".join(lines))
        refused = _run("run", str(tmp_path / "t"))
        assert refused.returncode == ConfigError.exit_code
        assert str(server.port) in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    """Idle connections do not hold it up, a request under way is finished, the journal is emptied."""
    with (
        storage_servers(tmp_path) as [server],
        GbsClient(server.nurl) as idle,
        GbsClient(server.nurl) as busy,
    ):
        index = os.urandom(16)
        assert idle.read_test_write(index, {0: TestWrite([], [(0, b"first")])})[0] == 200
        done: list[int] = []

        def write() -> None:
            change = {0: TestWrite([], [(0, bytes(30 << 20))])}
            with contextlib.suppress(OSError, http.client.HTTPException):  # it came after the signal
                done.append(busy.read_test_write(os.urandom(16), change)[0])

        thread = threading.Thread(target=write)
        thread.start()
        thread.join(0.05)  # under way, most likely; the outcome is the same if it is not
        process = server.process
        assert process is not None
        process.send_signal(number)
        thread.join(DEADLINE)
        assert process.wait(DEADLINE) == 0
        server.process = None
        assert done in ([200], [])
        for path in Path(server.storage_dir, "lafs-journal").iterdir():
            segment = Segment(str(path))
            assert not list(segment.records())
            segment.close()
        server.start()
        with GbsClient(server.nurl) as client:
            assert client.read("mutable", index, 0).body == b"first"


def test_read_only_servers_take_no_new_shares(tmp_path: Path) -> None:
    with storage_servers(tmp_path) as [server]:
        with GbsClient(server.nurl) as client:
            client.allocate(b"i" * 16, [0], 5)
            client.write(b"i" * 16, 0, 0, b"bytes")
            client.read_test_write(b"m" * 16, {0: TestWrite([], [(0, b"old")])})
        server.stop()
        server.run_options = ("--read-only",)
        server.start()
        with GbsClient(server.nurl) as client:
            answer = client.allocate(b"i" * 16, [0, 1], 5)
            assert (answer.already_have, answer.allocated) == ({0}, frozenset())
            assert client.read("immutable", b"i" * 16, 0).body == b"bytes"
            assert client.read_test_write(b"m" * 16, {0: TestWrite([], [(0, b"new")])})[0] == 200
            mixed = {0: TestWrite([], [(0, b"not")]), 1: TestWrite([], [(0, b"x")])}
            assert client.read_test_write(b"m" * 16, mixed)[0] == 403
            assert client.read("mutable", b"m" * 16, 0).body == b"new"


def test_reserved_space_is_left_free(tmp_path: Path) -> None:
    with (
        storage_servers(tmp_path, 1, ("--reserved-space", str(1 << 60))) as [server],
        GbsClient(server.nurl) as client,
    ):
        assert client.allocate(b"i" * 16, [0], 5).allocated == frozenset()
