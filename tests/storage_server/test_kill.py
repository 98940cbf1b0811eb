"""kill -9 at random moments during uploads and read-test-writes; what was acknowledged is there, whole."""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lafsfs.gbs.messages import TestWrite
from tests.support.gbs_client import GbsClient
from tests.support.storage import StorageServer, storage_servers

WORKERS = 4
SHARES = (0, 3, 300)
REMEMBERED = 30
"""Uploads of earlier rounds that each worker goes on checking."""
NETWORK = (OSError, http.client.HTTPException)


def _content(label: object, size: int) -> bytes:
    return hashlib.shake_128(repr(label).encode()).digest(size)


@dataclass
class Slot:
    """A mutable slot whose shares all say the same version."""

    index: bytes
    acknowledged: int = 0
    attempted: int = 0

    def version(self, number: int, shnum: int) -> bytes:
        """The share of a version: growing and shrinking, so that the lease block moves."""
        if number == 0:
            return b""
        size = 100 + (number * 7919) % 20_000
        return number.to_bytes(8, "big") + _content((self.index, number, shnum), size)

    def change(self, client: GbsClient) -> None:
        """Publish the next version on all shares at once."""
        old, new = self.acknowledged, self.attempted + 1
        self.attempted = new
        vectors = {}
        for shnum in SHARES:
            before, after = self.version(old, shnum), self.version(new, shnum)
            test = (0, max(1, len(before)), before)
            vectors[shnum] = TestWrite([test], [(0, after[:50]), (50, after[50:])], len(after))
        status, answer = client.read_test_write(self.index, vectors, [(0, 8)])
        assert status == 200
        assert answer is not None
        assert answer.success
        self.acknowledged = new

    def check(self, client: GbsClient) -> None:
        """All shares are of one version, not older than the acknowledged one. It becomes the current one."""
        numbers = client.shares("mutable", self.index)
        found = {n: client.read("mutable", self.index, n).body for n in numbers}
        assert numbers in (frozenset(), frozenset(SHARES))
        versions = {int.from_bytes(data[:8], "big") for data in found.values()} or {0}
        assert len(versions) == 1, "shares of different versions: a torn read-test-write"
        [version] = versions
        assert self.acknowledged <= version <= self.attempted
        for shnum, data in found.items():
            assert data == self.version(version, shnum)
        self.acknowledged = self.attempted = version


@dataclass
class Worker:
    """One client that uploads and publishes until its server dies."""

    number: int
    rng: random.Random
    slots: list[Slot]
    uploads: dict[bytes, tuple[int, bool]] = field(default_factory=dict)
    begun: int = 0
    acknowledged: int = 0
    failure: BaseException | None = None

    def run(self, server: StorageServer) -> None:
        """Work until the connection breaks."""
        try:
            with GbsClient(server.nurl) as client:
                while True:
                    if self.rng.random() < 0.5:
                        self.rng.choice(self.slots).change(client)
                    else:
                        self._upload(client)
        except NETWORK:
            return
        except BaseException as error:
            self.failure = error

    def _upload(self, client: GbsClient) -> None:
        self.begun += 1
        index = _content((self.number, self.begun, "index"), 16)
        size = self.rng.choice([1, 700, 40_000, 131_072, 131_073, 400_000])
        self.uploads[index] = (size, False)
        data = _content(index, size)
        assert client.allocate(index, [1], size).allocated == {1}
        status = 200
        for offset in range(0, size, 150_000):
            status, _ = client.write(index, 1, offset, data[offset : offset + 150_000])
        assert status == 201
        self.uploads[index] = (size, True)
        self.acknowledged += 1

    def check(self, client: GbsClient) -> None:
        """Acknowledged uploads are there; others are whole or not there."""
        for index, (size, acknowledged) in self.uploads.items():
            present = client.shares("immutable", index)
            assert present == {1} or (not acknowledged and not present)
            if present:
                assert client.read("immutable", index, 1).body == _content(index, size)
        for slot in self.slots:
            slot.check(client)
        kept = self.rng.sample(sorted(self.uploads), min(REMEMBERED, len(self.uploads)))
        self.uploads = {index: self.uploads[index] for index in kept if client.shares("immutable", index)}
        self.uploads = {index: (size, True) for index, (size, _) in self.uploads.items()}


def _round(server: StorageServer, workers: list[Worker], delay: float) -> None:
    threads = [threading.Thread(target=worker.run, args=(server,)) for worker in workers]
    for thread in threads:
        thread.start()
    killer = threading.Event()
    killer.wait(delay)  # not a wait for something to happen: the moment of the kill
    server.kill()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    for worker in workers:
        if worker.failure is not None:
            raise worker.failure


def _kill_repeatedly(server: StorageServer, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    workers = [
        Worker(n, random.Random(f"{seed}/{n}"), [Slot(_content((seed, n, s), 16)) for s in range(2)])
        for n in range(WORKERS)
    ]
    for _ in range(rounds):
        _round(server, workers, rng.uniform(0.05, 0.6))
        server.start()
        assert not list(Path(server.storage_dir, "shares", "incoming").rglob("*"))
        with GbsClient(server.nurl) as client:
            for worker in workers:
                worker.check(client)
    assert all(worker.acknowledged for worker in workers), "the test did not test"
    assert any(slot.acknowledged for worker in workers for slot in worker.slots)


def test_kill_at_random_moments(tmp_path: Path) -> None:
    with storage_servers(tmp_path) as [server]:
        _kill_repeatedly(server, seed=1, rounds=4)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_at_many_random_moments(tmp_path: Path) -> None:
    with storage_servers(tmp_path) as [server]:
        _kill_repeatedly(server, seed=time.time_ns(), rounds=60)
