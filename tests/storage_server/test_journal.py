"""The journal: commits are all or nothing, wherever the log was cut; a replay ends where the commits had."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from storage_server import journal as journal_module
from storage_server.changes import Change, Create, Delete, Modify, Put, Zero
from storage_server.errors import DiskFullError
from storage_server.journal import Journal
from storage_server.layout import Layout

A, B = b"a" * 16, b"b" * 16


def _layout(root: Path) -> Layout:
    layout = Layout(root)
    layout.make()
    return layout


def tree(layout: Layout) -> dict[str, bytes]:
    """Every share file of a storage directory."""
    top = Path(layout.shares)
    return {str(p.relative_to(top)): p.read_bytes() for p in sorted(top.rglob("*")) if p.is_file()}


def with_journal(layout: Layout, work: Callable[[Journal], Awaitable[None]], *, close: bool = True) -> None:
    """Open the journal, do the work; without `close` leave it as a crash would."""

    async def main() -> None:
        journal = Journal(layout)
        await journal.open()
        await work(journal)
        if close:
            await journal.close()
        else:
            for task in journal._tasks:
                task.cancel()

    asyncio.run(main())


COMMITS: list[list[Change]] = [
    [Create(A, 0, [Put(0, b"0123456789")]), Create(B, 7, [Put(4, b"x" * 100)])],
    [Modify(A, 0, [Put(8, b"ABCD"), Zero(1, 3)]), Create(A, 1, [Put(0, b"one")])],
    [Delete(B, 7), Modify(A, 1, [Put(3, b"!")])],
    [Create(B, 7, [Put(0, b"again")])],
]


def _name(storage_index: bytes, shnum: int) -> str:
    return os.path.relpath(Layout(Path("/")).share(storage_index, shnum), "/shares")


A0, A1, B7 = _name(A, 0), _name(A, 1), _name(B, 7)
STATES: list[dict[str, bytes]] = [
    {},
    {A0: b"0123456789", B7: bytes(4) + b"x" * 100},
    {A0: b"0\0\0\0004567ABCD", A1: b"one", B7: bytes(4) + b"x" * 100},
    {A0: b"0\0\0\0004567ABCD", A1: b"one!"},
    {A0: b"0\0\0\0004567ABCD", A1: b"one!", B7: b"again"},
]


async def _commit_all(journal: Journal) -> None:
    for changes in COMMITS:
        await journal.commit(changes)


def test_commits_are_visible_and_survive_a_close(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    with_journal(layout, _commit_all)
    assert tree(layout) == STATES[-1]
    with_journal(layout, _nothing)
    assert tree(layout) == STATES[-1]


async def _nothing(journal: Journal) -> None:
    """Opening alone."""


def test_a_log_cut_anywhere_gives_a_state_between_two_commits(tmp_path: Path) -> None:
    """Power loss: the log is durable up to some byte; of what it says none, or all, reached the files."""
    layout = _layout(tmp_path / "whole")
    with_journal(layout, _commit_all, close=False)
    logs = {name: Path(layout.journal, name).read_bytes() for name in ("a", "b")}
    active = max(logs, key=lambda name: len(logs[name]))
    reached = set()
    for cut in [*range(0, len(logs[active]), 11), len(logs[active])]:
        logs_left = {**logs, active: logs[active][:cut]}
        state = _recovered(tmp_path / f"none{cut}", logs_left, {})
        assert state in STATES
        assert _recovered(tmp_path / f"all{cut}", logs_left, state) == state
        reached.add(STATES.index(state))
    assert reached == set(range(len(STATES)))


def _recovered(root: Path, logs: dict[str, bytes], files: dict[str, bytes]) -> dict[str, bytes]:
    layout = _layout(root)
    for name, content in logs.items():
        Path(layout.journal, name).write_bytes(content)
    for name, content in files.items():
        path = Path(layout.shares, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with_journal(layout, _nothing)
    return tree(layout)


def test_a_flipped_bit_ends_the_log_there(tmp_path: Path) -> None:
    layout = _layout(tmp_path / "whole")
    with_journal(layout, _commit_all, close=False)
    content = max((Path(layout.journal, name).read_bytes() for name in "ab"), key=len)
    for position in range(16, len(content), 23):
        other = _layout(tmp_path / f"flip{position}")
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        Path(other.journal, "a").write_bytes(damaged)
        with_journal(other, _nothing)
        assert tree(other) in STATES[:-1]


def test_replay_over_the_final_files_changes_nothing(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    with_journal(layout, _commit_all, close=False)
    assert tree(layout) == STATES[-1]
    with_journal(layout, _nothing)
    assert tree(layout) == STATES[-1]


def test_checkpoints_alternate_the_segments_and_forget(tmp_path: Path) -> None:
    layout = _layout(tmp_path)

    async def work(journal: Journal) -> None:
        for changes in COMMITS:
            await journal.commit(changes)
            assert journal.holds((changes[0].storage_index, changes[0].shnum))
            await journal.checkpoint()
            assert not journal.holds((changes[0].storage_index, changes[0].shnum))
            assert not any(list(segment.records()) for segment in journal._segments)

    with_journal(layout, work)
    assert tree(layout) == STATES[-1]


def test_a_crash_after_a_checkpoint_replays_only_what_came_later(tmp_path: Path) -> None:
    layout = _layout(tmp_path)

    async def work(journal: Journal) -> None:
        for number, changes in enumerate(COMMITS):
            await journal.commit(changes)
            if number == 1:
                await journal.checkpoint()

    with_journal(layout, work, close=False)
    # Whatever the files of settled commits are now is the truth: a replay must not touch share A 0.
    path = layout.share(A, 0)
    Path(path).write_bytes(b"changed by somebody else")
    with_journal(layout, _nothing)
    assert Path(path).read_bytes() == b"changed by somebody else"
    assert Path(layout.share(B, 7)).read_bytes() == b"again"


def test_concurrent_commits_share_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = _layout(tmp_path)
    syncs = 0
    real = os.fdatasync

    def counting(fd: int) -> None:
        nonlocal syncs
        syncs += 1
        real(fd)

    async def work(journal: Journal) -> None:
        monkeypatch.setattr(os, "fdatasync", counting)
        commits = [journal.commit([Create(A, n, [Put(0, b"%d" % n)])]) for n in range(200)]
        await asyncio.gather(*commits)
        monkeypatch.undo()

    with_journal(layout, work)
    assert len(tree(layout)) == 200
    assert syncs <= 4


def test_full_disk_refuses_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = _layout(tmp_path)
    real = os.pwrite

    def full(fd: int, data: bytes, offset: int) -> int:
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data, offset)

    async def work(journal: Journal) -> None:
        await journal.commit(COMMITS[0])
        monkeypatch.setattr(os, "pwrite", full)
        large = journal.commit([Create(A, 5, [Put(0, b"l" * 5000)])])
        small = journal.commit(COMMITS[1])
        results = await asyncio.gather(large, small, return_exceptions=True)
        assert isinstance(results[0], DiskFullError)
        assert results[1] is None
        monkeypatch.undo()

    with_journal(layout, work, close=False)
    assert tree(layout) == STATES[2]
    with_journal(layout, _nothing)
    assert tree(layout) == STATES[2]


def test_logged_changes_that_fail_are_made_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = _layout(tmp_path)
    monkeypatch.setattr(journal_module, "_RETRY_SECONDS", 0.01)
    real, failures = journal_module.apply, 3

    def failing(where: Layout, changes: list[Change]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EIO, "broken")
        real(where, changes)

    monkeypatch.setattr(journal_module, "apply", failing)

    async def work(journal: Journal) -> None:
        with pytest.raises(journal_module.UnsettledError):
            await journal.commit(COMMITS[0])
        async with asyncio.timeout(10):
            while journal.stuck:
                with pytest.raises(journal_module.UnsettledError):
                    await journal.commit(COMMITS[1])
                await asyncio.sleep(0.005)
        await journal.commit(COMMITS[1])

    with_journal(layout, work)
    assert tree(layout) == STATES[2]
