"""What gets to the disk, in which order, and what happens when the disk does not take it."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from lafsfs.tree import syncing
from lafsfs.tree.journal import Batch, Journal
from lafsfs.tree.staging import StagedFile, StagingArea
from lafsfs.tree.syncing import LOG_KEY, Syncer

KEY = bytes(range(32))


class Local:
    """The local state of one tree, and the calls that force it to the disk."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal", KEY)
        self.staging = StagingArea(folder / "staged", KEY)
        self.syncer = Syncer(self.journal, self.staging)
        self.synced: list[str] = []  # "journal", or the name of a log
        self.failures = 0  # so many calls for the journal fail
        self.before: Callable[[], None] = lambda: None
        self._call = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._fdatasync)

    def _fdatasync(self, number: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{number}")).name
        is_journal = name.endswith(".seg")
        self.before()
        if is_journal and self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._call(number)
        self.synced.append("journal" if is_journal else name)

    def commit(self, **meta: object) -> None:
        batch = Batch()
        batch.meta.update(meta)
        self.journal.commit(batch)

    def written(self) -> StagedFile:
        log = self.staging.create(0, 0)
        log.write(0, b"content", 1)
        return log

    def mark_of(self, log: StagedFile) -> object:
        return self.journal.meta(LOG_KEY + log.name)


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Local:
    return Local(tmp_path, monkeypatch)


async def test_logs_come_before_the_journal_that_tells_of_them(local: Local) -> None:
    log = local.written()
    local.commit(x=1)
    await local.syncer.sync_all()
    assert local.synced == [log.name, "journal"]
    assert local.mark_of(log) == log.length == log.synced
    assert not local.staging.unsynced
    assert not local.journal.dirty
    await local.syncer.sync(log)
    assert local.synced == [log.name, "journal"], "what is on the disk is not forced there again"
    log.write(7, b"more", 2)
    assert local.mark_of(log) == log.synced < log.length
    await local.syncer.sync()
    assert local.mark_of(log) == log.synced < log.length, "a sync of the journal is none of this log"
    await local.syncer.sync_all()
    assert local.mark_of(log) == log.synced == log.length
    local.journal.close()


async def test_when_one_of_many_logs_fails_all_are_forced_again(local: Local) -> None:
    logs = [local.written() for _ in range(5)]
    for log in logs[:2]:
        await local.syncer.sync(log)
        log.write(7, b"more", 2)
    calls = itertools.count()

    def fail() -> None:
        if next(calls) == 3:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    local.before = fail
    with pytest.raises(OSError, match="Input/output"):
        await local.syncer.sync_all()
    assert local.staging.unsynced == set(logs)
    assert [log.synced < log.length for log in logs] == [True] * 5
    await local.syncer.sync_all()
    assert not local.staging.unsynced
    assert all(local.mark_of(log) == log.synced == log.length for log in logs)
    local.journal.close()


async def test_a_log_that_goes_while_it_is_forced_is_not_heard_of_again(local: Local) -> None:
    logs = [local.written() for _ in range(3)]
    local.before = logs[1].remove
    await local.syncer.sync_all()
    assert not logs[1].path.exists()
    assert local.mark_of(logs[1]) is None
    assert local.mark_of(logs[0]) == logs[0].length
    assert not local.staging.unsynced
    assert not local.staging.synced_lately
    local.journal.close()


async def test_a_log_goes_when_the_disk_knows_that_no_row_names_it(local: Local) -> None:
    log = local.written()
    await local.syncer.sync_all()
    local.staging.retire(log)
    local.commit(x=1)
    there: list[bool] = []
    local.before = lambda: there.append(log.path.exists())
    await local.syncer.sync()
    assert there == [True]
    assert not log.path.exists()
    assert local.staging.retired == []
    assert local.mark_of(log) is not None
    await local.syncer.sync()
    assert local.mark_of(log) is None
    local.journal.close()


async def test_a_small_content_leaves_the_journal_when_its_log_is_on_the_disk(local: Local) -> None:
    batch = Batch()
    batch.contents[5] = b"content"
    local.journal.commit(batch)
    log = local.written()
    log.heir_of = 5
    await local.syncer.sync()
    assert local.journal.has_content(5)
    await local.syncer.sync(log)
    assert not local.journal.has_content(5)
    assert log.heir_of is None
    local.journal.close()


async def test_what_was_committed_during_a_sync_waits_for_the_next(local: Local) -> None:
    """And all who come meanwhile share it."""
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(30)

    local.before = hold
    done: list[int] = []

    async def sync(number: int) -> None:
        await local.syncer.sync()
        done.append(number)

    async with trio.open_nursery() as nursery:
        local.commit(x=1)
        nursery.start_soon(sync, 0)
        await trio.to_thread.run_sync(entered.wait, 30)
        local.commit(x=2)
        for number in range(1, 6):
            nursery.start_soon(sync, number)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        go_on.set()
    assert sorted(done) == list(range(6))
    assert done[0] == 0
    assert local.synced == ["journal", "journal"]
    local.journal.close()


async def test_a_failed_sync_loses_nothing(local: Local) -> None:
    log = local.written()
    await local.syncer.sync_all()
    local.staging.retire(log)
    local.commit(x=1)
    local.failures = 1
    with pytest.raises(OSError, match="Input/output"):
        await local.syncer.sync()
    assert log.path.exists()
    assert local.staging.retired == [log]
    assert local.journal.dirty
    await local.syncer.sync()
    assert not log.path.exists()
    assert not local.journal.dirty
    local.journal.close()


async def test_a_disk_that_fails_for_a_while_is_tried_again_without_being_told(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "EVERY", 0.01)
    monkeypatch.setattr(syncing, "_AFTER_FAILURE", 0.05)
    local.failures = 3
    local.commit(x=1)
    seen = ""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(local.syncer.run)
        with trio.fail_after(30):
            while "journal" not in local.synced or local.syncer.failure or local.journal.dirty:
                seen = seen or local.syncer.failure
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert "Input/output" in seen
    assert local.failures == 0
    local.journal.close()


async def test_who_writes_to_one_file_again_and_again_waits_for_its_log_only(local: Local) -> None:
    """The journal is told how far the log is synced by whoever syncs everything, soon."""
    log = local.written()
    local.commit(x=1)
    await local.syncer.sync(log)
    assert local.synced == [log.name, "journal"]
    for number in range(3):
        log.write(7, b"more", number)
        await local.syncer.sync(log)
        assert log.synced == log.length
    assert local.synced == [log.name, "journal"] + [log.name] * 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(local.syncer.run)
        with trio.fail_after(30):
            while local.mark_of(log) != log.length:  # noqa: ASYNC110
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    log.write(7, b"more", 9)
    local.commit(x=2)
    await local.syncer.sync(log)
    assert local.synced[-2:] == [log.name, "journal"]
    local.journal.close()


async def test_a_log_does_not_overtake_a_sync_of_the_rows_that_name_it(local: Local) -> None:
    entered, go_on = threading.Event(), threading.Event()
    log = local.written()
    await local.syncer.sync_all()
    log.write(7, b"more", 2)
    done: list[str] = []

    def hold() -> None:
        if not entered.is_set():
            entered.set()
            assert go_on.wait(30)

    async def sync() -> None:
        await local.syncer.sync(log)
        done.append("log")

    async with trio.open_nursery() as nursery:
        local.commit(x=1)
        local.before = hold
        nursery.start_soon(local.syncer.sync)
        await trio.to_thread.run_sync(entered.wait, 30)
        nursery.start_soon(sync)
        await trio.testing.wait_all_tasks_blocked()
        assert done == []
        go_on.set()
    assert done == ["log"]
    local.journal.close()
