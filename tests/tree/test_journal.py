"""The journal holds states: what a commit left is read back, whole, from the files as they are at any instant."""

from __future__ import annotations

import copy
import os
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lafsfs.errors import JournalError, LafsError
from lafsfs.tree.journal import Batch, EdgeRow, Journal

KEY = bytes(range(32))
TABLES = {"object": "ino", "content": "ino", "edge": "id", "meta": "name"}


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
            held.update({key: value for key, value in changes.items() if value is not None})  # type: ignore
            for key in [key for key, value in changes.items() if value is None]:
                held.pop(key, None)  # type: ignore


def state_of(journal: Journal) -> State:
    """What a journal that was just opened holds; damage is left out."""
    state = State()
    for directory, edge in journal.edges():
        if edge is not None:
            assert (directory, edge.name) not in state.edges
            state.edges[directory, edge.name] = edge
    state.objects = {ino: row for ino, row in journal.objects() if row is not None}
    damaged = set(journal.damaged_contents())
    for ino in range(60):
        assert journal.has_content(ino) == (ino in damaged or _has(journal, ino))
        if _has(journal, ino):
            state.contents[ino] = journal.content(ino)
    state.meta = {key: value for key, value in journal.metas("note:") if value is not None}
    return state


def _has(journal: Journal, ino: int) -> bool:
    try:
        journal.content(ino)
    except JournalError:
        return False
    return True


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
        batch_of(objects={2: [1, b"x"]}, edges={(1, b"a"): EdgeRow(b"a", 2, None, None)}),
        batch_of(contents={2: b"content"}, meta={"note:a": 1}),
        batch_of(
            objects={3: ["y", None], 2: [2, b"z"]},
            edges={(1, b"b"): EdgeRow(b"b", 3, b"base", 9), (1, b"a"): EdgeRow(b"a", None, b"base", 2)},
        ),
        batch_of(contents={2: b"", 3: b"c" * 9000}, meta={"note:a": [b"x"], "note:b": "y"}),
        batch_of(objects={2: None}, contents={2: None}, edges={(1, b"a"): None}),
        batch_of(objects={4: {}}, edges={(3, b"a"): EdgeRow(b"a", 4, None, None)}, meta={"note:a": None}),
    ]


# --- what goes in comes out ----------------------------------------------------------------------------

numbers = st.integers(1, 5)
names = st.sampled_from([b"a", b"b", b"\xff\xfe", b"x" * 255])
values = st.one_of(
    st.none(),
    st.integers(-(1 << 70), 1 << 70),
    st.binary(max_size=5),
    st.lists(st.text(max_size=3), max_size=3),
)
rows = values.filter(lambda value: value is not None)


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


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(batches(), st.sampled_from(["reopen", "crash", "sync"])), max_size=12))
def test_any_sequence(tmp_path_factory: pytest.TempPathFactory, steps: list[Batch | str]) -> None:
    folder = tmp_path_factory.mktemp("journal")
    path = folder / "journal.sqlite"
    state = State()
    journal = Journal(path, KEY)
    for number, step in enumerate(steps):
        if isinstance(step, Batch):
            journal.commit(step)
            state.apply(step)
            assert journal.dirty
            continue
        if step == "sync":
            journal.sync(journal.count_sync(Batch()))
            assert not journal.dirty
            continue
        if step == "crash":  # as kill -9 leaves it
            shutil.copytree(path.parent, folder / str(number), ignore=shutil.ignore_patterns("[0-9]*"))
            path = folder / str(number) / path.name
        journal.close()
        journal = Journal(path, KEY)
        assert state_of(journal) == state
    journal.close()
    assert read_back(path) == state
    shutil.rmtree(folder)


def test_a_state_committed_twice_is_that_state(tmp_path: Path) -> None:
    once, twice = tmp_path / "once" / "j.sqlite", tmp_path / "twice" / "j.sqlite"
    for path, times in ((once, 1), (twice, 3)):
        path.parent.mkdir()
        with opened(path) as journal:
            for batch in some_batches():
                for _ in range(times):
                    journal.commit(copy.deepcopy(batch))
    assert read_back(once) == read_back(twice) == read_back(twice)


def test_made_and_removed_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    with opened(path) as journal:
        for batch in some_batches():
            journal.commit(batch)
        for batch in some_batches():
            gone = {name: dict.fromkeys(changes) for name, changes in vars(batch).items()}
            journal.commit(batch_of(**gone))
            journal.commit(batch_of(**gone))
    assert read_back(path) == State()
    with closing(sqlite3.connect(path)) as db:
        for table in ("object", "content", "edge"):
            assert db.execute(f"select count(*) from {table}").fetchone() == (0,)


def test_values_by_name(tmp_path: Path) -> None:
    with opened(tmp_path / "j.sqlite") as journal:
        names = ["a:", "a:1", "a:\U0010ffff", "a;", "a", "b:1"]
        journal.commit(batch_of(meta={name: name for name in names}))
        assert sorted(name for name, _ in journal.metas("a:")) == ["a:", "a:1", "a:\U0010ffff"]
        assert journal.meta("b:1") == "b:1"
        assert journal.meta("c") is None


# --- copies at any instant -----------------------------------------------------------------------------


@pytest.mark.parametrize("synced", [False, True])
def test_a_log_cut_anywhere_is_the_state_after_some_commit(tmp_path: Path, synced: bool) -> None:
    """All of a transaction or nothing, and what was synced and is missing is told."""
    path = tmp_path / "life" / "journal.sqlite"
    path.parent.mkdir()
    with opened(path) as journal:
        wal = Path(f"{path}-wal")
        states: list[tuple[int, State]] = [(wal.stat().st_size, State())]
        for batch in some_batches():
            journal.commit(batch)
            if synced:
                journal.sync(journal.count_sync(Batch()))
            states.append((wal.stat().st_size, copy.deepcopy(states[-1][1])))
            states[-1][1].apply(batch)
        raw = wal.read_bytes()
        cuts = {length + more for length in range(0, len(raw) + 1, 4120) for more in (0, 32, 2000)}
        for number, cut in enumerate(sorted(cut for cut in cuts if cut <= len(raw))):
            other = tmp_path / str(number)
            shutil.copytree(path.parent, other)
            os.truncate(other / wal.name, cut)
            lost = cut < states[-1][0]
            with opened(other / path.name) as found:
                assert state_of(found) in [state for _, state in states]
                held = sum(length <= cut for length, _ in states)
                assert not held or state_of(found) in [state for _, state in states[held - 1 : held + 1]]
                assert bool(found.broken) == (synced and lost)
            shutil.rmtree(other)


def test_an_older_copy_beside_a_newer_mark_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "now" / "journal.sqlite"
    path.parent.mkdir()
    with opened(path) as journal:
        journal.sync(journal.count_sync(Batch()))
        shutil.copytree(path.parent, tmp_path / "old")
        for _ in range(3):
            journal.sync(journal.count_sync(Batch()))
        shutil.copy(path.with_suffix(".mark"), tmp_path / "old")
    with opened(tmp_path / "old" / path.name) as journal:
        assert journal.broken == ["the end of the journal: its last 3 syncs are missing"]
        journal.sync(journal.count_sync(Batch()))
    with opened(tmp_path / "old" / path.name) as journal:
        assert journal.broken == []


def test_a_torn_mark_is_no_reason_to_stop(tmp_path: Path) -> None:
    """The power may fail while it is written: it may be empty, short, or noise."""
    path = tmp_path / "journal.sqlite"
    with opened(path) as journal:
        journal.commit(some_batches()[0])
        journal.sync(journal.count_sync(Batch()))
    mark = path.with_suffix(".mark")
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


def rows_of(path: Path) -> Iterator[tuple[str, object, bytes]]:
    with closing(sqlite3.connect(path)) as db:
        for table, key in TABLES.items():
            for row in db.execute(f"select {key}, payload from {table}").fetchall():
                yield table, *row


def put(path: Path, table: str, key: object, payload: bytes) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"update {table} set payload = ? where {TABLES[table]} = ?", (payload, key))


def missing(journal: Journal) -> tuple[int, int, int]:
    """How many objects, edges and contents cannot be read."""
    objects = sum(row is None for _, row in journal.objects())
    edges = sum(edge is None for _, edge in journal.edges())
    return objects, edges, len(list(journal.damaged_contents()))


def check_one_lost(path: Path, table: str, key: object, state: State) -> None:
    """Exactly that row is gone, and that is told."""
    with opened(path) as journal:
        expected = {"object": (1, 0, 0), "edge": (0, 1, 0), "content": (0, 0, 1), "meta": (0, 0, 0)}[table]
        assert missing(journal) == expected
        found = state_of(journal)
        if table == "meta":
            assert journal.broken
        lost = copy.deepcopy(state)
        if table == "object":
            del lost.objects[key]  # type: ignore[arg-type]
        elif table == "content":
            del lost.contents[key]  # type: ignore[arg-type]
        elif table == "meta":
            lost.meta.pop(str(key), None)
        else:
            (gone,) = lost.edges.keys() - found.edges.keys()
            del lost.edges[gone]
        assert found == lost


def test_every_damaged_row_is_found_and_no_other_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    state = filled(path)
    count = 0
    for table, key, payload in list(rows_of(path)):
        middle, last = len(payload) // 2, len(payload) - 1
        for bad in (
            *(payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :] for at in (0, middle, last)),
            *(payload[:length] for length in (0, 1, 7, 8, 12, 27, last)),
            payload + b"\0",
        ):
            put(path, table, key, bad)
            check_one_lost(path, table, key, state)
            count += 1
        put(path, table, key, payload)
    assert count >= 60
    assert read_back(path) == state


def test_payloads_cannot_change_places(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    state = filled(path)
    every = list(rows_of(path))
    for table, key, payload in every:
        for _, _, other in every:
            if other != payload:
                put(path, table, key, other)
                check_one_lost(path, table, key, state)
        put(path, table, key, payload)


def test_another_key_reads_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    state = filled(path)
    with opened(path, bytes(32)) as journal:
        assert state_of(journal) == State()
        assert missing(journal) == (len(state.objects), len(state.edges), len(state.contents))
    assert read_back(path) == state


def test_new_names_do_not_overwrite_unreadable_ones(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    filled(path)
    last = max(key for table, key, _ in rows_of(path) if table == "edge" and isinstance(key, int))
    put(path, "edge", last, b"damaged")
    for _ in range(2):
        with opened(path) as journal:
            list(journal.edges())
            journal.commit(batch_of(edges={(7, b"new"): EdgeRow(b"new", 2, None, None)}))
            assert missing(journal) == (0, 1, 0)


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
    path = tmp_path / "journal.sqlite"
    state = filled(path)
    told: list[int] = []
    with opened(path) as journal:
        assert state_of(journal) == state
        journal.on_commit = lambda: told.append(1)
        large = batch_of(
            objects={2: None, 9: [1]},
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
    with opened(tmp_path / "j.sqlite") as journal:
        assert not journal.has_content(5)
        with pytest.raises(JournalError):
            journal.content(5)


def test_nothing_can_be_read_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with opened(path) as journal:
        journal.commit(
            batch_of(
                objects={2: [b"secret cap"]},
                contents={2: b"secret content"},
                edges={(1, b"secret name"): EdgeRow(b"secret name", 2, None, None)},
                meta={"note:x": "secret note"},
            )
        )
        for file in tmp_path.iterdir():
            assert b"secret" not in file.read_bytes()
            assert file.stat().st_mode & 0o77 == 0
