"""Databases whose processes are killed. `make posix` runs these, `make test` does not."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import remount
from tests.support.mounts import MountedTree, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("pragma journal_mode = " + sys.argv[2])
db.execute("create table if not exists t (n integer primary key, pair integer, data blob)")
n = db.execute("select coalesce(max(n), 0) from t").fetchone()[0]
while True:
    db.execute("begin immediate")
    for _ in range(2):
        n += 1
        db.execute("insert into t values (?, ?, randomblob(3000))", (n, (n + 1) // 2))
    db.execute("commit")
    print(n, flush=True)
"""


@contextlib.contextmanager
def writer(database: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A process that commits pairs of rows and tells the last one, until it is killed."""
    command = [sys.executable, "-c", WRITER, str(database), mode]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_sqlite_with_its_writer_killed(tree: MountedTree, place: Path, mode: str) -> None:
    database = place / "db"
    told = 0
    for round_ in range(4):
        with writer(database, mode) as process:
            assert process.stdout is not None
            for _ in range(5 + round_):
                told = int(process.stdout.readline())
            time.sleep(0.01 * round_)  # anywhere inside a transaction
            process.send_signal(signal.SIGKILL)
            process.wait()
            for line in process.stdout:
                told = int(line)
        check_database(database, told)
    remount(tree)
    check_database(database, told)


def check_database(database: Path, told: int) -> None:
    """It is sound, has all that was committed, and no half of a transaction."""
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        count, last = db.execute("select count(*), max(n) from t").fetchone()
        assert count == last >= told
        assert db.execute("select count(*) from t group by pair having count(*) != 2").fetchall() == []


def test_sqlite_readers_and_writers_at_once(place: Path) -> None:
    database = place / "db"
    with writer(database, "wal") as one, writer(database, "wal") as two:
        wait_until(database.exists)
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as db:
            wait_until(lambda: _rows(db) > 40, deadline=120)
        one.kill()
        two.kill()
    check_rows = sqlite3.connect(database, timeout=30)
    with contextlib.closing(check_rows) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]


def _rows(db: sqlite3.Connection) -> int:
    try:
        return int(db.execute("select count(*) from t").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


# --- PostgreSQL ------------------------------------------------------------------------------------------------


def postgres(program: str) -> str | None:
    """Where a program of PostgreSQL is; Debian keeps them out of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), reverse=True)
    return str(found[0]) if found else shutil.which(program)


class Cluster:
    """A PostgreSQL server of a user without privilege, with its data in `directory`."""

    def __init__(self, directory: Path, sockets: Path) -> None:
        self.data = directory / "data"
        self.sockets = sockets
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that runs one of its programs as the user that owns the data."""
        found = postgres(program)
        assert found is not None
        user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        return [*user, found, *arguments]

    def run(self, program: str, *arguments: str) -> str:
        """The output of a program, which must succeed."""
        command = self.command(program, *arguments)
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{program}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start the server, and wait until it has recovered."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.sockets),
            "max_connections": "20",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with open(self.sockets / "log", "ab") as log:
            command = self.command("postgres", "-D", str(self.data), *options)
            self.process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log)
        ready = self.command("pg_isready", "-q", "-h", str(self.sockets))
        wait_until(
            lambda: subprocess.run(ready, cwd="/", check=False).returncode == 0,
            120,
            "the start of PostgreSQL",
        )

    def stop(self) -> None:
        """A fast shutdown."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(120) == 0
        self.process = None

    def kill(self) -> None:
        """SIGKILL of all its processes at once."""
        if self.process is None:
            return
        first = self.process.pid
        others = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for pid in (first, *map(int, others)):
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.process = None
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in others))

    def ask(self, query: str) -> str:
        """The answer to a query."""
        return self.run("psql", "-h", str(self.sockets), "-d", "postgres", "-Atc", query).strip()

    def bench(self, *arguments: str) -> str:
        """What pgbench says."""
        return self.run("pgbench", "-h", str(self.sockets), *arguments, "postgres")


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    """A new cluster in the mount; its sockets and its log are elsewhere."""
    with tempfile.TemporaryDirectory(prefix="lafsfs-sockets-", dir="/tmp") as sockets:
        if os.geteuid() == 0:
            os.chown(place, 65534, 65534)
            os.chown(sockets, 65534, 65534)
        made = Cluster(place, Path(sockets))
        made.run("initdb", "-D", str(made.data), "-k", "-A", "trust")
        try:
            yield made
        finally:
            made.kill()


@pytest.mark.skipif(
    any(postgres(name) is None for name in ("initdb", "postgres", "psql", "pgbench")),
    reason="postgresql is not installed",
)
def test_postgres_is_killed_and_recovers(tree: MountedTree, cluster: Cluster) -> None:
    cluster.start()
    cluster.bench("-i", "-s", "1", "-q")
    cluster.bench("-c", "2", "-T", "5")
    done = int(cluster.ask("select count(*) from pgbench_history"))
    assert done > 0
    cluster.kill()
    cluster.start()
    assert int(cluster.ask("select count(*) from pgbench_history")) == done
    sums = "select (select sum(delta) from pgbench_history) = (select sum(abalance) from pgbench_accounts)"
    assert cluster.ask(sums) == "t"
    cluster.stop()
    cluster.run("pg_checksums", "-D", str(cluster.data), "--check")
    remount(tree)
    cluster.start()
    assert int(cluster.ask("select count(*) from pgbench_history")) == done
    cluster.ask("vacuum full pgbench_accounts")
    cluster.stop()
    cluster.run("pg_checksums", "-D", str(cluster.data), "--check")
