"""Staging logs against a bytearray; what a crash or a bad disk leaves of them; space, pins and removal."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.errors import JournalError, LafsError, NoSpaceError
from lafsfs.formats.caps import LiteralCap
from lafsfs.nodes.literal import LiteralFile
from lafsfs.tree.contents import StagedSource, read_staged
from lafsfs.tree.staging import CHUNK, StagedFile, StagedSnapshot, StagingArea

KEY = bytes(range(32))
BASE = bytes(range(1, 41))  # what is on the grid, in the tests that have something there
HEAD = 49  # bytes before the data of a record
TAG = 16


async def content_of(staged: StagedFile | StagedSnapshot, base: bytes | None = None) -> bytes:
    """All of a content."""
    below = LiteralFile(LiteralCap(base)) if base is not None else None
    return await read_staged(staged, below, 0, staged.size)


def read(staged: StagedFile | StagedSnapshot, base: bytes | None = None) -> bytes:
    return trio.run(content_of, staged, base)


class Recorded:
    """A log of some records, and what the content was after each: (bytes of the log, content, mtime)."""

    def __init__(self, directory: Path) -> None:
        self.area = StagingArea(directory, KEY)
        self.staged = self.area.create(len(BASE), len(BASE))
        self.states = [(0, BASE, None)]
        content = bytearray(BASE)
        for mtime, step in enumerate([(5, b"first"), 12, (30, b"beyond"), (0, b"x"), 50, (10, b"last one")]):
            if isinstance(step, int):
                self.staged.truncate(step, mtime)
                content = bytearray(bytes(content[:step]).ljust(step, b"\0"))
            else:
                self.staged.write(*step, mtime)
                content = bytearray(patched(content, *step))
            self.states.append((self.staged.length, bytes(content), mtime))
        self.staged.idle()

        self.raw = self.staged.path.read_bytes()

    def recovered(self, raw: bytes | None = None, synced: int = 0, known: int = 0) -> StagedFile:
        """The log as it is found after a crash that left it so."""
        if raw is not None:
            self.staged.path.write_bytes(raw)
        area = StagingArea(self.area.directory, KEY)
        return area.recover(self.staged.name, len(BASE), len(BASE), known, synced)

    def flipped(self, offset: int) -> bytes:
        """The log with one bit changed."""
        return self.raw[:offset] + bytes([self.raw[offset] ^ 0x10]) + self.raw[offset + 1 :]


def patched(content: bytes | bytearray, offset: int, data: bytes) -> bytes:
    out = bytearray(content)
    out += bytes(max(offset - len(out), 0))
    out[offset : offset + len(data)] = data
    return bytes(out)


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path / "log")


# --- against a model ---------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=30)),
        st.integers(0, 90),
        st.just("snapshot"),
        st.just("recover"),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(steps, st.booleans())
def test_any_sequence(
    tmp_path_factory: pytest.TempPathFactory, sequence: list[tuple[int, bytes] | int | str], based: bool
) -> None:
    folder = tmp_path_factory.mktemp("area")
    base = BASE if based else b""
    staged = StagingArea(folder, KEY).create(len(base), len(base))
    model = base
    snapshots: list[tuple[StagedSnapshot, bytes]] = []
    for mtime, step in enumerate(sequence):
        if step == "snapshot":
            snapshots.append((staged.snapshot(), model))
        elif step == "recover":
            snapshots = []
            staged.idle()
            staged = StagingArea(folder, KEY).recover(staged.name, len(base), len(base), 0)
        elif isinstance(step, int):
            staged.truncate(step, mtime)
            model = model[:step].ljust(step, b"\0")
        else:
            staged.write(step[0], step[1], mtime)  # type: ignore[arg-type]
            model = patched(model, step[0], step[1])  # type: ignore[arg-type]
        assert not staged.damaged
        assert staged.size == len(model)
        assert staged.area.used == staged.length == os.stat(staged.fd()).st_size
    assert read(staged, base) == model
    for snapshot, content in snapshots:
        assert read(snapshot, base) == content
    staged.remove()
    assert staged.area.used == 0
    shutil.rmtree(folder)


def test_large_writes_are_cut_into_records(tmp_path: Path) -> None:
    staged = StagingArea(tmp_path, KEY).create(0, 0)
    data = os.urandom(3 * CHUNK + 17)
    staged.write(5, data, 1)
    assert len(staged.extents) == 4
    assert read(staged) == bytes(5) + data
    source = StagedSource(staged.snapshot(), None)
    staged.write(0, os.urandom(CHUNK), 2)
    buffer = bytearray(source.size)
    trio.run(source.read_into, 0, memoryview(buffer))
    assert buffer == bytes(5) + data


# --- crashes and damage ------------------------------------------------------------------------------


async def test_a_log_cut_anywhere_is_what_it_was_after_a_record(recorded: Recorded) -> None:
    for length in range(len(recorded.raw) + 1):
        staged = recorded.recovered(recorded.raw[:length])
        end, content, mtime = max(state for state in recorded.states if state[0] <= length)
        assert not staged.damaged
        assert (staged.length, staged.mtime) == (end, mtime)
        assert await content_of(staged, BASE) == content
        assert staged.path.stat().st_size == end, "what was torn is cut off"
        staged.write(3, b"goes on", 99)
        staged.idle()
        again = recorded.recovered()
        assert await content_of(again, BASE) == patched(content, 3, b"goes on")
        again.idle()


def test_a_cut_into_what_was_synced_is_damage(recorded: Recorded) -> None:
    for synced in (recorded.states[2][0], recorded.states[-1][0]):
        for length in range(len(recorded.raw) + 1):
            staged = recorded.recovered(recorded.raw[:length], synced)
            assert staged.damaged == (length < synced)
            staged.idle()


def test_damage_of_what_was_synced_is_found_at_every_byte(recorded: Recorded) -> None:
    """The file is marked; of its records only the damaged one is lost, and its bytes are not made up."""
    ends = [state[0] for state in recorded.states]
    whole = {piece.record for piece in recorded.staged.extents}
    assert len(whole) == 4
    for offset in range(len(recorded.raw)):
        staged = recorded.recovered(recorded.flipped(offset), len(recorded.raw))
        assert staged.damaged
        assert staged.length == (
            len(recorded.raw) if offset < ends[-2] or offset >= ends[-2] + HEAD else ends[-2]
        )
        position = max(end for end in ends if end <= offset)
        in_head = offset < position + HEAD
        left = {piece.record for piece in staged.extents}
        for reference in whole:
            assert reference is not None
            if reference >> 18 != position:
                assert reference in left
                staged.read_record(reference)
            elif in_head:
                assert reference not in left
            else:
                assert reference in left
                with pytest.raises(JournalError):
                    staged.read_record(reference)
        staged.idle()


async def test_damage_of_what_was_not_synced_is_where_the_log_ends(recorded: Recorded) -> None:
    """A power failure may leave any of the last pages unwritten."""
    ends = [state[0] for state in recorded.states]
    for synced in (0, ends[2]):
        for offset in range(synced, len(recorded.raw)):
            staged = recorded.recovered(recorded.flipped(offset), synced)
            end, content, mtime = max(state for state in recorded.states if state[0] <= offset)
            assert not staged.damaged
            assert (staged.length, staged.mtime) == (end, mtime)
            assert await content_of(staged, BASE) == content
            staged.idle()


def test_damage_of_several_full_records(tmp_path: Path) -> None:
    area = StagingArea(tmp_path, KEY)
    staged = area.create(0, 0)
    data = os.urandom(6 * CHUNK)
    staged.write(0, data, 1)
    full = HEAD + CHUNK + TAG
    with staged.path.open("r+b") as file:
        file.seek(full)
        file.write(bytes(2 * full + HEAD))  # two records, and the head of a third
    again = StagingArea(tmp_path, KEY).recover(staged.name, 0, 0, 0, staged.length)
    assert again.damaged
    assert read(again) == data[:CHUNK] + bytes(3 * CHUNK) + data[4 * CHUNK :]


def test_records_cannot_be_moved(recorded: Recorded, tmp_path: Path) -> None:
    """Two writes of one length exchanged, one written over the other, one appended once more; another log's bytes."""
    area = StagingArea(tmp_path / "a", KEY)
    log = area.create(0, 0)
    log.write(0, b"one", 1)
    log.write(3, b"two", 2)
    log.idle()
    half = log.length // 2
    raw = log.path.read_bytes()
    one, two = raw[:half], raw[half:]
    for forged, good in ((two + one, 0), (one + one, 3), (two + two, 0), (one + two + one, 6)):
        log.path.write_bytes(forged)
        torn = StagingArea(tmp_path / "a", KEY).recover(log.name, 0, 0, 0)
        assert torn.size == good
        log.path.write_bytes(forged)
        damaged = StagingArea(tmp_path / "a", KEY).recover(log.name, 0, 0, 0, len(forged))
        assert damaged.damaged
    log.path.write_bytes(one + two)
    other = area.create(0, 0)
    other.path.write_bytes(one + two)
    assert area.recover(other.name, 0, 0, 0).length == 0
    assert StagingArea(tmp_path / "a", bytes(32)).recover(log.name, 0, 0, 0).length == 0


def test_a_head_with_the_data_of_another_record(tmp_path: Path) -> None:
    area = StagingArea(tmp_path, KEY)
    log = area.create(0, 0)
    log.write(0, b"one", 1)
    raw = log.path.read_bytes()
    again = StagingArea(tmp_path, KEY).recover(log.name, 0, 0, 0)
    log.path.write_bytes(b"")
    again.replay(0, 0)
    again.write(0, b"two", 1)  # the same place of the same log, written anew
    log.path.write_bytes(raw[:HEAD] + log.path.read_bytes()[HEAD:])
    assert StagingArea(tmp_path, KEY).recover(log.name, 0, 0, 0).length == 0


def test_changes_that_the_journal_knows_do_not_set_the_time(recorded: Recorded) -> None:
    for known, _, _ in recorded.states:
        staged = recorded.recovered(known=known)
        assert staged.mtime == (recorded.states[-1][2] if known < len(recorded.raw) else None)


def test_nothing_of_the_content_is_on_the_disk(tmp_path: Path) -> None:
    staged = StagingArea(tmp_path, KEY).create(0, 0)
    for _ in range(3):
        staged.write(0, b"a rather secret sentence " * 10, 1)
    raw = staged.path.read_bytes()
    assert b"secret" not in raw
    assert raw[:HEAD] not in raw[HEAD:]
    assert staged.path.stat().st_mode & 0o777 == 0o600


# --- full disks and limits ----------------------------------------------------------------------------


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The kernel cuts writes short there, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_does_not_fit_leaves_all_as_it_was(tmp_path: Path) -> None:
    area = StagingArea(tmp_path, KEY)
    staged = area.create(0, 0)
    staged.write(0, b"before", 1)
    length = staged.length
    for room in (0, 1, HEAD, HEAD + 50, HEAD + 99 + TAG):
        with no_file_longer_than(length + room), pytest.raises(NoSpaceError):
            staged.write(3, b"x" * 100, 2)
        with no_file_longer_than(length + min(room, HEAD - 1)), pytest.raises(NoSpaceError):
            staged.truncate(0, 2)
        assert (staged.length, staged.size, staged.mtime, area.used) == (length, 6, 1, length)
        assert staged.path.stat().st_size == length
        assert read(staged) == b"before"
    with no_file_longer_than(length + HEAD + 100 + TAG):
        staged.write(3, b"x" * 100, 2)
    assert read(staged) == b"bef" + b"x" * 100


def test_the_limit(tmp_path: Path) -> None:
    area = StagingArea(tmp_path, KEY, limit=1000)
    staged = area.create(0, 0)
    area.account_inline(7, 300)
    staged.write(0, b"x" * (700 - HEAD - TAG), 1)
    assert not area.has_room(1)
    with pytest.raises(NoSpaceError):
        staged.write(0, b"y", 2)
    with pytest.raises(NoSpaceError):
        staged.truncate(0, 2)
    assert read(staged) == b"x" * (700 - HEAD - TAG)
    freed = area.freed
    area.account_inline(7, 200)
    assert freed.is_set()
    assert area.has_room(100)
    assert not area.has_room(101)
    area.account_inline(7, None)
    area.account_inline(7, None)
    freed = area.freed
    staged.remove()
    assert freed.is_set()
    assert (area.used, area.inline_used) == (0, 0)
    assert area.has_room(1000)


# --- the life of a log --------------------------------------------------------------------------------


def test_a_pinned_log_outlives_its_removal(tmp_path: Path) -> None:
    area = StagingArea(tmp_path, KEY)
    staged = area.create(0, 0)
    staged.write(0, b"content", 1)
    staged.pin()
    staged.pin()
    snapshot = staged.snapshot()
    staged.remove()
    staged.idle()
    staged.unpin()
    assert read(snapshot) == b"content"
    assert staged.path.exists()
    assert area.used == staged.length
    staged.unpin()
    assert not staged.path.exists()
    assert area.used == 0


def test_removal(tmp_path: Path) -> None:
    area = StagingArea(tmp_path, KEY)
    one, two = area.create(0, 0), area.create(0, 0)
    one.write(0, b"one", 1)
    two.write(0, b"two", 1)
    assert area.unsynced == {one, two}
    one.sync()
    assert (one.synced, two.synced) == (one.length, 0)
    one.remove()
    one.remove()
    assert area.unsynced == {two}
    assert area.used == two.length
    area.retire(two)
    assert area.unsynced == set()
    assert area.retired == [two]
    assert two.path.exists(), "a power failure may bring its row back"
    area.remove_all_but({two.name})
    assert [path.name for path in tmp_path.iterdir()] == [two.name]
    area.remove_all_but(set())
    assert list(tmp_path.iterdir()) == []


def test_an_idle_log_is_opened_again(tmp_path: Path) -> None:
    staged = StagingArea(tmp_path, KEY).create(0, 0)
    staged.write(0, b"one", 1)
    descriptors = len(os.listdir("/proc/self/fd"))
    staged.idle()
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
    staged.write(3, b"two", 2)
    assert read(staged) == b"onetwo"


def test_a_vanished_log_is_an_error(tmp_path: Path) -> None:
    """Its bytes are not made up."""
    staged = StagingArea(tmp_path, KEY).create(0, 0)
    staged.write(0, b"content", 1)
    staged.idle()
    staged.path.unlink()
    with pytest.raises(LafsError):
        read(staged)


def test_when_rewriting_pays(tmp_path: Path) -> None:
    staged = StagingArea(tmp_path, KEY).create(0, 0)
    for offset in range(4096):
        staged.write(2 * offset, b"x", 1)
    assert not staged.wasteful
    staged.write(2 * 4096, b"x", 1)
    assert staged.wasteful
    staged.rewritten()
    for offset in range(4097, 2 * 4097):
        staged.write(2 * offset, b"x", 1)
        assert not staged.wasteful, "as many again are worth it, not one more"
    staged.write(2 * 2 * 4097, b"x", 1)
    assert staged.wasteful


def padded(area: StagingArea) -> StagedFile:
    """A log that was synced so often, a little each time, that zeros stand behind it."""
    staged = area.create(0, 0)
    for number in range(12):
        staged.write(number * 10, b"0123456789", number)
        staged.sync()
    assert staged.path.stat().st_size > staged.length + 1000
    return staged


def test_zeros_behind_a_log_are_not_a_part_of_it(tmp_path: Path) -> None:
    staged = padded(StagingArea(tmp_path, KEY))
    filled = staged.path.stat().st_size
    staged.write(120, b"more", 13)
    assert staged.path.stat().st_size == filled, "a little goes into the zeros"
    assert staged.area.used == staged.length
    found = StagedFile(StagingArea(tmp_path, KEY), staged.name, 0, 0)
    found.replay(known=0, synced=staged.synced)
    assert not found.damaged
    assert read(found) == b"0123456789" * 12 + b"more"
    assert found.length == found.path.stat().st_size == staged.length


@pytest.mark.parametrize("torn", [1, 30, HEAD + 3])
def test_a_torn_record_among_zeros_is_where_the_log_ends(tmp_path: Path, torn: int) -> None:
    staged = padded(StagingArea(tmp_path, KEY))
    before = staged.length
    staged.write(120, b"more", 13)
    with staged.path.open("r+b") as file:
        file.seek(before + torn)
        file.write(bytes(staged.length - before - torn))
    found = StagedFile(StagingArea(tmp_path, KEY), staged.name, 0, 0)
    found.replay(known=0, synced=staged.synced)
    assert not found.damaged
    assert read(found) == b"0123456789" * 12
    assert found.length == found.path.stat().st_size == before


def test_large_syncs_need_no_zeros(tmp_path: Path) -> None:
    staged = StagingArea(tmp_path, KEY).create(0, 0)
    for number in range(12):
        staged.write(number << 17, bytes(1 << 17), number)
        staged.sync()
    assert staged.path.stat().st_size == staged.length
