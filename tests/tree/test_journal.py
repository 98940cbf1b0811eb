"""The journal holds states: what a commit left is read back, whole, from the files as they are at any instant."""

from __future__ import annotations

import copy
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafsfs.errors import JournalError, LafsError
from lafsfs.tree import journal as journals
from lafsfs.tree import record_log
from lafsfs.tree.journal import Batch, EdgeRow, Journal
from lafsfs.tree.rows import pack_edge, pack_object, unpack_edge, unpack_object

KEY = bytes(range(32))


def obj(mark: int = 0, *, parent: tuple[int, bytes] | None = None, xattrs: object = None) -> tuple[Any, ...]:
    """A row of an inode."""
    return (
        (0o100644, 1, 2, 0, mark, 5, 6, 7, 8),
        1,
        xattrs,
        None,
        None,
        ["i"] if mark % 2 else None,
        parent,
        None,
    )


def plain(value: object) -> object:
    """Tuples as lists, but for edges: what stands in a journal does not tell one from the other."""
    if isinstance(value, list | tuple) and not isinstance(value, EdgeRow):
        return [plain(one) for one in value]
    return value


@dataclass
class State:
    """All that a journal holds."""

    objects: dict[int, object] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    edges: dict[tuple[int, bytes], EdgeRow] = field(default_factory=dict)
    meta: dict[str, object] = field(default_factory=dict)

    def apply(self, batch: Batch) -> None:
        for held, changes in (
            (self.objects, batch.objects),
            (self.contents, batch.contents),
            (self.edges, batch.edges),
            (self.meta, batch.meta),
        ):
            held.update({key: plain(value) for key, value in changes.items() if value is not None})  # type: ignore
            for key in [key for key, value in changes.items() if value is None]:
                held.pop(key, None)  # type: ignore


def state_of(journal: Journal) -> State:
    """What a journal that was just opened holds; damage is left out."""
    state = State()
    for directory, edge in journal.edges():
        if edge is not None:
            assert (directory, edge.name) not in state.edges
            state.edges[directory, edge.name] = edge
    state.objects = {ino: plain(row) for ino, row in journal.objects() if row is not None}
    for ino in range(60):
        if journal.has_content(ino):
            state.contents[ino] = journal.content(ino)
    assert sorted(state.contents) == sorted(journal.contents())
    state.meta = dict(journal.metas("note:"))
    return state


@contextmanager
def opened(path: Path, key: bytes = KEY) -> Iterator[Journal]:
    journal = Journal(path, key)
    try:
        yield journal
    finally:
        journal.close()


def read_back(path: Path, *, broken: bool = False) -> State:
    with opened(path) as journal:
        state = state_of(journal)
        assert bool(journal.broken) == broken, journal.broken
        return state


def batch_of(**changes: object) -> Batch:
    batch = Batch()
    for name, value in changes.items():
        setattr(batch, name, value)
    return batch


def some_batches() -> list[Batch]:
    """A life: things are made, changed, changed back, and removed."""
    return [
        batch_of(objects={2: obj(1)}, edges={(1, b"a"): EdgeRow(b"a", 2, None, None)}),
        batch_of(contents={2: b"content"}, meta={"note:a": 1}),
        batch_of(
            objects={3: obj(2, parent=(1, b"b")), 2: obj(3)},
            edges={(1, b"b"): EdgeRow(b"b", 3, b"base", 9), (1, b"a"): EdgeRow(b"a", None, b"base", 2)},
        ),
        batch_of(contents={2: b"", 3: b"c" * 9000}, meta={"note:a": [b"x"], "note:b": "y"}),
        batch_of(objects={2: None}, contents={2: None}, edges={(1, b"a"): None}),
        batch_of(
            objects={4: obj(xattrs={b"user.x": b"y"})},
            edges={(3, b"a"): EdgeRow(b"a", 4, None, None)},
            meta={"note:a": None},
        ),
    ]


# --- what goes in comes out ----------------------------------------------------------------------------

numbers = st.integers(1, 5)
names = st.sampled_from([b"a", b"b", b"\xff\xfe", b"x" * 255])
values = st.one_of(
    st.none(),
    st.integers(-(1 << 60), 1 << 60),
    st.binary(max_size=5),
    st.lists(st.text(max_size=3), max_size=3),
)
times = st.integers(-(1 << 70), 1 << 70)
attributes = st.tuples(
    st.integers(0, 0xFFFF), *[st.integers(0, 1 << 32)] * 2, st.integers(0, 1 << 63), *[times] * 5
)
texts = st.binary(max_size=20)
rows = st.tuples(
    attributes,
    st.integers(0, 70_000),
    st.none() | st.dictionaries(texts, texts, max_size=2),
    st.none() | texts,
    st.none() | st.tuples(texts, texts),
    st.none()
    | st.just(["i"])
    | st.tuples(st.just("s"), st.text(max_size=3), numbers, numbers, numbers).map(list),
    st.none() | st.tuples(numbers, texts),
    st.none() | st.tuples(numbers, texts),
)


@given(rows)
def test_objects_as_bytes(row: tuple[Any, ...]) -> None:
    assert plain(unpack_object(pack_object(row))) == plain(row)


@given(texts, st.none() | numbers, st.none() | st.binary(max_size=16), st.none() | st.integers(0, 1 << 63))
def test_edges_as_bytes(name: bytes, ino: int | None, base: bytes | None, base_ino: int | None) -> None:
    edge = EdgeRow(name, ino, base, base_ino)
    assert unpack_edge(pack_edge(edge)) == edge


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    edges: dict[tuple[int, bytes], EdgeRow | None] = {}
    for directory, name in draw(st.lists(st.tuples(numbers, names), max_size=4)):
        ino, base = draw(st.none() | numbers), draw(st.none() | st.binary(max_size=16))
        edges[directory, name] = (
            EdgeRow(name, ino, base, draw(st.none() | numbers)) if draw(st.booleans()) else None
        )
    return batch_of(
        objects=draw(st.dictionaries(numbers, st.none() | rows, max_size=3)),
        contents=draw(st.dictionaries(numbers, st.none() | st.binary(max_size=30), max_size=3)),
        edges=edges,
        meta=draw(
            st.dictionaries(st.sampled_from(["note:a", "note:", "note:\U0010ffff"]), values, max_size=2)
        ),
    )


STEPS = ["reopen", "crash", "sync", "tidy"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that tidies itself as soon as it is tidied at all, and has many segments."""
    monkeypatch.setattr(record_log, "SEGMENT_BYTES", 300)
    monkeypatch.setattr(record_log, "_PARTS", 1 << 20)
    monkeypatch.setattr(journals, "SLACK_BYTES", 200)
    monkeypatch.setattr(journals, "_SLICE", 2)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(st.one_of(batches(), st.sampled_from(STEPS)), max_size=16))
def test_any_sequence(
    small: None, tmp_path_factory: pytest.TempPathFactory, steps: list[Batch | str]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = folder / "0" / "journal"
    path.parent.mkdir()
    state = State()
    journal = Journal(path, KEY)
    for number, step in enumerate(steps, 1):
        if isinstance(step, Batch):
            journal.commit(step)
            state.apply(step)
            continue
        if step == "sync":
            journal.sync(journal.sync_point(Batch()))
            assert not journal.dirty
            continue
        if step == "tidy":
            if journal.wasteful:
                journal.tidy()
            continue
        if step == "crash":  # as kill -9 leaves it
            shutil.copytree(path.parent, folder / str(number))
            path = folder / str(number) / path.name
        journal.close()
        journal = Journal(path, KEY)
        assert state_of(journal) == state
    journal.close()
    assert read_back(path) == state
    shutil.rmtree(folder)


def test_a_state_committed_twice_is_that_state(tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    for path, times in ((once, 1), (twice, 3)):
        with opened(path) as journal:
            for batch in some_batches():
                for _ in range(times):
                    journal.commit(copy.deepcopy(batch))
    assert read_back(once) == read_back(twice) == read_back(twice)


def test_made_and_removed_leaves_nothing(tmp_path: Path, small: None) -> None:
    path = tmp_path / "journal"
    for _ in range(20):
        with opened(path) as journal:
            for batch in some_batches():
                journal.commit(batch)
            for batch in some_batches():
                gone = {name: dict.fromkeys(changes) for name, changes in vars(batch).items()}
                journal.commit(batch_of(**gone))
                journal.commit(batch_of(**gone))
            while journal.wasteful:
                journal.tidy()
        assert read_back(path) == State()
    assert sum(file.stat().st_size for file in path.iterdir()) < 20_000


def test_the_log_stays_about_as_long_as_what_it_holds(tmp_path: Path, small: None) -> None:
    path = tmp_path / "journal"
    state = State()
    with opened(path) as journal:
        for number in range(600):
            ino = 2 + number % 40
            batch = batch_of(objects={ino: obj(number)}, contents={ino: bytes([number % 256]) * 400})
            batch.edges[1, b"%d" % ino] = EdgeRow(b"%d" % ino, ino, None, None)
            journal.commit(batch)
            state.apply(batch)
            if number % 50 == 49:
                while journal.wasteful:
                    journal.tidy()
                journal.sync(journal.sync_point())
                assert sum(file.stat().st_size for file in path.iterdir()) < 3 * 40 * 700
    assert read_back(path) == state


def test_values_by_name(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as journal:
        names = ["a:", "a:1", "a:\U0010ffff", "a;", "a", "b:1"]
        journal.commit(batch_of(meta={name: name for name in names}))
        assert sorted(name for name, _ in journal.metas("a:")) == ["a:", "a:1", "a:\U0010ffff"]
        assert journal.meta("b:1") == "b:1"
        assert journal.meta("c") is None


# --- copies at any instant -----------------------------------------------------------------------------


def length_of(journal: Journal) -> int:
    """Where the last record ends."""
    mark = journal.sync_point().mark
    assert mark is not None
    return mark.length


@pytest.mark.parametrize("synced", [False, True])
def test_a_log_cut_anywhere_is_the_state_after_some_commit(tmp_path: Path, synced: bool) -> None:
    """All of a transaction or nothing, and what was synced and is missing is told."""
    path = tmp_path / "life"
    states: list[tuple[int, State]] = [(0, State())]
    with opened(path) as journal:
        for batch in some_batches():
            journal.commit(batch)
            if synced:
                journal.sync(journal.sync_point())
            states.append((length_of(journal), copy.deepcopy(states[-1][1])))
            states[-1][1].apply(batch)
        (segment,) = path.glob("*.seg")
        whole, padded = length_of(journal), segment.stat().st_size
        assert (padded > whole) == synced
        for cut in {
            *range(0, padded, 97 if padded == whole else 977),
            *(length + more for length, _ in states[1:] for more in (-1, 0, 1)),
        }:
            other = tmp_path / str(cut)
            shutil.copytree(path, other)
            os.truncate(other / segment.name, min(cut, padded))
            with opened(other) as found:
                held = sum(length <= cut for length, _ in states)
                assert state_of(found) == states[held - 1][1]
                assert bool(found.broken) == (synced and cut < whole)
            shutil.rmtree(other)


def test_an_older_copy_beside_a_newer_mark_is_told_once(tmp_path: Path) -> None:
    path, old = tmp_path / "now", tmp_path / "old"
    with opened(path) as journal:
        journal.commit(some_batches()[0])
        journal.sync(journal.sync_point())
        shutil.copytree(path, old)
        for batch in some_batches():
            journal.commit(batch)
            journal.sync(journal.sync_point())
        shutil.copy(path / "mark", old)
    with opened(old) as journal:
        assert journal.broken == ["its end is missing"]
        journal.sync(journal.sync_point())
    with opened(old) as journal:
        assert journal.broken == []


def test_a_torn_mark_is_no_reason_to_stop(tmp_path: Path) -> None:
    """The power may fail while it is written: it may be empty, short, or noise."""
    path = tmp_path / "journal"
    with opened(path) as journal:
        journal.commit(some_batches()[0])
    mark = path / "mark"
    whole = mark.read_bytes()
    for length in (*range(len(whole)), None):
        mark.write_bytes(whole[:length] if length is not None else os.urandom(len(whole)))
        with opened(path) as journal:
            assert journal.broken == []
            assert list(state_of(journal).objects) == [2]
    mark.unlink()
    assert list(read_back(path).objects) == [2]


# --- damage ---------------------------------------------------------------------------------------------


def filled(path: Path) -> State:
    state = State()
    with opened(path) as journal:
        for batch in some_batches()[:4]:
            journal.commit(batch)
            state.apply(batch)
    return state


def segments(path: Path) -> list[Path]:
    return sorted(path.glob("*.seg"))


def without(number: int) -> State:
    """The state that all of `some_batches` but one make."""
    state = State()
    for index, batch in enumerate(some_batches()):
        if index != number:
            state.apply(batch)
    return state


@pytest.mark.parametrize("marked", [True, False])
def test_every_damaged_record_is_found_and_no_other_is_lost(tmp_path: Path, marked: bool) -> None:
    path = tmp_path / "journal"
    ends: list[int] = []
    with opened(path) as journal:
        for batch in some_batches():
            journal.commit(batch)
            ends.append(segments(path)[0].stat().st_size)
    if not marked:
        (path / "mark").unlink()
    (segment,) = segments(path)
    whole = segment.read_bytes()
    starts = [ends[0] - (ends[1] - ends[0]), *ends[:-1]]  # of the first record only about
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if number == 0 or (number == len(ends) - 1 and not marked):
            continue
        for at in {start, start + 3, start + 5, start + 12, (start + end) // 2, end - 1}:
            segment.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with opened(path) as journal:
                assert state_of(journal) == without(number)
                assert len(journal.broken) == 1
            if not marked:
                (path / "mark").unlink()
    segment.write_bytes(whole)
    assert read_back(path) == without(-1)


def test_damage_is_told_and_kept_until_the_log_is_tidied(tmp_path: Path, small: None) -> None:
    path = tmp_path / "journal"
    state = filled(path)
    first = segments(path)[0]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    with opened(path) as journal:
        assert journal.broken
        for number in range(200):
            journal.commit(batch_of(objects={7: obj(number)}))
            while journal.wasteful:
                journal.tidy()
        assert state_of(journal) != state
    assert read_back(path).objects[7] == plain(obj(199))
    (kept,) = path.glob("damaged-*")
    assert kept.read_bytes() == data


def test_records_cannot_change_places(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    batches = [batch_of(meta={"note:a": number}) for number in range(4)]
    ends = []
    with opened(path) as journal:
        for batch in batches:
            journal.commit(batch)
            ends.append(segments(path)[0].stat().st_size)
    (segment,) = segments(path)
    whole = segment.read_bytes()
    size = ends[1] - ends[0]
    records = [whole[end - size : end] for end in ends]
    segment.write_bytes(whole[: ends[0] - size] + records[0] + records[3] + records[2] + records[1])
    with opened(path) as journal:
        assert journal.meta("note:a") == 2
        assert journal.broken
    shutil.copytree(path, tmp_path / "other")
    segment.write_bytes(whole)
    (path / "00000002.seg").write_bytes(whole)  # under another number
    with opened(path) as journal:
        assert journal.meta("note:a") == 3


def test_what_was_removed_may_come_back_in_part(tmp_path: Path, small: None) -> None:
    """Power fails while old segments are being removed: the first name is there again, the second is not."""
    path = tmp_path / "journal"
    with opened(path) as journal:
        for number in range(30):
            journal.commit(batch_of(objects={7: obj(number)}))
        journal.sync(journal.sync_point())
        first = segments(path)[0]
        content = first.read_bytes()
        while journal.wasteful:
            journal.tidy()
    assert not first.exists()
    first.write_bytes(content)
    assert read_back(path) == State(objects={7: plain(obj(29))})
    assert not first.exists()


@pytest.mark.parametrize("which", [0, 1, 2, -1])
def test_a_missing_segment_is_told(tmp_path: Path, small: None, which: int) -> None:
    path = tmp_path / "journal"
    with opened(path) as journal:
        for number in range(40):
            journal.commit(batch_of(objects={number: obj(number)}))
    assert len(segments(path)) > 5
    segments(path)[which].unlink()
    with opened(path) as journal:
        assert len(journal.broken) == 1
        assert 20 < len(list(journal.objects())) < 40


def test_another_key_reads_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    state = filled(path)
    mark = (path / "mark").read_bytes()
    with opened(path, bytes(32)) as journal:
        assert state_of(journal) == State()
    (path / "mark").write_bytes(mark)
    assert read_back(path) == state


# --- power ------------------------------------------------------------------------------------------------


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_power_fails(
    small: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    """What was synced is there; of the rest any part may be: the state is that after some later commit, and no damage
    is told.
    """
    folder = tmp_path_factory.mktemp("power")
    path = folder / "journal"
    durable: dict[str, bytes] = {}
    names: set[str] = set()
    states, synced = [State()], 0

    def remember(number: int, call: Any) -> None:
        call(number)
        file = Path(os.readlink(f"/proc/self/fd/{number}"))
        if file == path:
            names.clear()
            names.update(one.name for one in path.iterdir())
        elif file.parent == path:
            durable[file.name] = file.read_bytes()

    with monkeypatch.context() as watched:
        for name in ("fsync", "fdatasync"):
            call = getattr(os, name)
            watched.setattr(os, name, lambda number, call=call: remember(number, call))
        journal = Journal(path, KEY)
        for step in data.draw(st.lists(st.one_of(batches(), st.sampled_from(["sync", "tidy"])), max_size=20)):
            if step == "sync":
                journal.sync(journal.sync_point())
                synced = len(states) - 1
            elif step == "tidy":
                if journal.wasteful:
                    journal.tidy()
            else:
                journal.commit(step)
                states.append(copy.deepcopy(states[-1]))
                states[-1].apply(step)
        back = folder / "back"
        back.mkdir()
        for file in path.iterdir():
            _come_back(file, back, durable.get(file.name, b""), file.name in names, data)
        journal.close()
    with opened(back) as journal:
        assert journal.broken == []
        assert state_of(journal) in states[synced:]
        extra = batch_of(objects={50: obj(50)})
        journal.commit(extra)
        expected = state_of(journal)
    assert read_back(back) == expected
    shutil.rmtree(folder)


def _come_back(file: Path, to: Path, durable: bytes, named: bool, data: st.DataObject) -> None:
    """One file as the disk may hold it: its name, and each part of what was written since, or not."""
    if not named and not data.draw(st.booleans(), label=f"name {file.name}"):
        return
    now = file.read_bytes()
    if file.name == "mark":
        (to / file.name).write_bytes(now if data.draw(st.booleans(), label="mark") else durable)
        return
    size = data.draw(st.integers(len(durable), len(now)), label=f"size of {file.name}")
    content = bytearray(now[:size])
    for start in range(0, size, 64):
        if data.draw(st.integers(0, 5), label="lost") == 0:
            content[start : start + 64] = bytes(len(content[start : start + 64]))
    content[: len(durable)] = durable
    (to / file.name).write_bytes(content)


# --- failure ---------------------------------------------------------------------------------------------


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_commit_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    state = filled(path)
    told: list[int] = []
    with opened(path) as journal:
        assert state_of(journal) == state
        journal.on_commit = lambda: told.append(1)
        large = batch_of(
            objects={2: None, 9: obj(1)},
            contents={9: os.urandom(200_000)},
            edges={(1, b"a"): None, (1, b"new"): EdgeRow(b"new", 9, None, None)},
        )
        with no_file_longer_than(100_000), pytest.raises(LafsError):
            journal.commit(large)
        assert state_of(journal) == state
        assert told == []
        journal.commit(large)
        state.apply(large)
        journal.commit(batch_of(edges={(1, b"new"): EdgeRow(b"new", None, b"x", 9)}))
        state.edges[1, b"new"] = EdgeRow(b"new", None, b"x", 9)
        assert told == [1, 1]
    assert read_back(path) == state


def test_missing_content_is_an_error(tmp_path: Path) -> None:
    with opened(tmp_path / "journal") as journal:
        assert not journal.has_content(5)
        with pytest.raises(JournalError):
            journal.content(5)


def test_nothing_can_be_read_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with opened(path) as journal:
        journal.commit(
            batch_of(
                objects={2: (*obj()[:4], (b"secret cap", b""), None, None, None)},
                contents={2: b"secret content"},
                edges={(1, b"secret name"): EdgeRow(b"secret name", 2, None, None)},
                meta={"note:x": "secret note"},
            )
        )
        for file in (tmp_path / "journal").iterdir():
            assert b"secret" not in file.read_bytes()
            assert file.stat().st_mode & 0o77 == 0
