"""The store without HTTP: uploads that time out, expiry, crashes before a checkpoint."""
# ruff: noqa: ASYNC240 -- looking at files from the loop is what these tests are for

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lafsfs.gbs.messages import AllocateRequest, ReadTestWrite, TestWrite
from storage_server.errors import ConflictError, NoShareError
from storage_server.expiry import expire
from storage_server.layout import Kind
from storage_server.leases import DURATION, LeaseSecrets
from storage_server.settings import Settings
from storage_server.slots import SlotRequest
from storage_server.store import Store
from storage_server.upload import SMALL
from storage_server.uploads import INACTIVITY, Uploads

SECRETS = LeaseSecrets(b"r" * 32, b"c" * 32)
SI = b"0123456789abcdef"


def with_store(directory: Path, work: Callable[[Store], Awaitable[None]], *, crash: bool = False) -> None:
    """Open a store and do the work; with `crash` do not close it."""

    async def main() -> None:
        store = Store(Settings("127.0.0.1", 0, "127.0.0.1", directory), b"n" * 20, b"test")
        await store.open()
        try:
            await work(store)
        finally:
            if not crash:
                await store.close()

    asyncio.run(main())


async def _upload(store: Store, shnum: int, data: bytes, si: bytes = SI) -> None:
    request = AllocateRequest(frozenset({shnum}), len(data))
    assert (await store.allocate(si, request, b"s", SECRETS)).allocated == {shnum}
    with store.uploads.writing((si, shnum), b"s", 0, len(data)) as (upload, writer):
        writer.feed(data)
        writer.finish()
    assert await store.uploads.settle(upload)


def _read(store: Store, shnum: int, si: bytes = SI) -> bytes:
    share = store.open_immutable(si, shnum)
    try:
        return share.read(0, share.length)
    finally:
        share.close()


async def _publish(store: Store, si: bytes, vectors: dict[int, TestWrite]) -> None:
    request = SlotRequest(si, b"w" * 32, SECRETS, ReadTestWrite(vectors, []))
    assert (await store.slots.read_test_write(request)).success


@pytest.mark.parametrize("size", [100, SMALL + 1])
def test_idle_uploads_are_dropped(tmp_path: Path, size: int) -> None:
    async def work(store: Store) -> None:
        now = 1000.0
        store.uploads = Uploads(store.layout, store.journal, store.locks, store._placer, lambda: now)
        await store.allocate(SI, AllocateRequest(frozenset({0}), size), b"s", SECRETS)
        now += INACTIVITY - 1
        with store.uploads.writing((SI, 0), b"s", 0, 10) as (_, writer):
            writer.feed(bytes(10))
        now += INACTIVITY - 1
        store.uploads.drop_idle()
        assert store.uploads.reserved == size
        now += 2
        store.uploads.drop_idle()
        assert store.uploads.reserved == 0
        with pytest.raises(NoShareError), store.uploads.writing((SI, 0), b"s", 0, 10):
            raise AssertionError("a dropped upload can be written")
        assert not os.listdir(store.layout.incoming)

    with_store(tmp_path, work)


def test_restarting_forgets_uploads_in_progress(tmp_path: Path) -> None:
    async def begin(store: Store) -> None:
        await store.allocate(SI, AllocateRequest(frozenset({0}), SMALL + 1), b"s", SECRETS)
        assert os.listdir(store.layout.incoming)

    async def check(store: Store) -> None:
        assert not os.listdir(store.layout.incoming)
        assert store.share_numbers(SI, Kind.IMMUTABLE) == []
        assert store.uploads.reserved == 0

    with_store(tmp_path, begin, crash=True)
    with_store(tmp_path, check)


def test_a_replay_does_not_touch_a_share_uploaded_later(tmp_path: Path) -> None:
    """A slot is deleted, then a large immutable share takes its place; the log still had the slot."""

    async def work(store: Store) -> None:
        await _publish(store, SI, {0: TestWrite([], [(0, b"mutable")])})
        await _publish(store, SI, {0: TestWrite([], [], 0)})
        assert store.journal.holds((SI, 0))
        await _upload(store, 0, bytes(SMALL + 1))
        await _publish(store, b"another slot 016", {0: TestWrite([], [(0, b"x")])})

    async def check(store: Store) -> None:
        assert _read(store, 0) == bytes(SMALL + 1)

    with_store(tmp_path, work, crash=True)
    with_store(tmp_path, check)


@pytest.mark.parametrize("size", [100, SMALL + 1])
def test_an_upload_does_not_replace_a_slot_that_came_first(tmp_path: Path, size: int) -> None:
    async def work(store: Store) -> None:
        await store.allocate(SI, AllocateRequest(frozenset({0}), size), b"s", SECRETS)
        await _publish(store, SI, {0: TestWrite([], [(0, b"mutable")])})
        with store.uploads.writing((SI, 0), b"s", 0, size) as (upload, writer):
            writer.feed(bytes(size))
        with pytest.raises(ConflictError):
            await store.uploads.settle(upload)
        share = store.open_mutable(SI, 0)
        assert share.read(0, 7) == b"mutable"
        share.close()
        store.uploads.abort((SI, 0), b"s")

    with_store(tmp_path, work)


def test_small_shares_survive_a_crash_before_the_checkpoint(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await asyncio.gather(*(_upload(store, n, b"%d" % n * 50) for n in range(30)))
        for n in range(30):  # as after power loss: of the files nothing was synced
            os.unlink(store.layout.share(SI, n))

    async def check(store: Store) -> None:
        assert [_read(store, n) for n in range(30)] == [b"%d" % n * 50 for n in range(30)]

    with_store(tmp_path, work, crash=True)
    with_store(tmp_path, check)


def test_expiry_deletes_what_nobody_holds_a_lease_on(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        now = time.time()
        await _upload(store, 0, b"data")
        await _publish(store, b"m" * 16, {3: TestWrite([], [(0, b"data")])})
        Path(store.layout.bucket(SI), "7").write_bytes(b"no container")
        assert await expire(store, now + DURATION - 60) == 0
        assert await expire(store, now + DURATION + 60) == 2
        assert store.share_numbers(SI, Kind.IMMUTABLE) == []
        assert store.share_numbers(b"m" * 16, Kind.MUTABLE) == []
        assert not os.path.exists(store.layout.bucket(b"m" * 16))
        assert os.listdir(store.layout.bucket(SI)) == ["7"]

    with_store(tmp_path, work)


def test_files_that_are_no_shares_are_ignored(tmp_path: Path) -> None:
    async def work(store: Store) -> None:
        await _upload(store, 1, b"data")
        for name in ("01", "x", "1.tmp", "-1"):
            Path(store.layout.bucket(SI), name).write_bytes(b"\0\0\0\2")
        assert store.share_numbers(SI, Kind.IMMUTABLE) == [1]

    with_store(tmp_path, work)
