"""The newest versions seen, kept across mounts."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from lafsfs.tree.floors import Floors
from lafsfs.tree.journal import Batch, Journal

KEY, FLOORS = bytes(32), bytes(range(32))
A, B, C = (bytes([number]) * 16 for number in range(3))


def commits(journal: Journal) -> list[int]:
    """Grows with every commit."""
    told: list[int] = []
    journal.on_commit = lambda: told.append(1)
    return told


def test_what_was_seen_is_known_to_the_next_mount(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, seen = Journal(path, KEY), {}
    floors = Floors(journal, FLOORS, seen)
    seen |= {A: 5, B: 1}
    floors.save()
    seen[A] = 7
    floors.save()
    seen[C] = 9  # not saved: the process is killed
    journal.close()

    journal, again = Journal(path, KEY), {}
    floors = Floors(journal, FLOORS, again)
    assert again == {A: 7, B: 1}
    told = commits(journal)
    floors.save()
    assert told == [], "nothing is new"
    again[B] = 2
    floors.save()
    floors.save()
    assert told == [1]
    journal.close()


def test_a_floor_never_sinks(tmp_path: Path) -> None:
    """Neither by what is remembered when the mount has seen more, nor by a lower number seen later."""
    path = tmp_path / "journal"
    journal = Journal(path, KEY)
    Floors(journal, FLOORS, seen := {})
    seen[A] = 5
    floors = Floors(journal, FLOORS, seen)
    floors.save()
    for number, expected in ((9, 9), (3, 5)):
        seen = {A: number}
        Floors(journal, FLOORS, seen)
        assert seen == {A: expected}
    seen = {}
    floors = Floors(journal, FLOORS, seen)
    seen[A] = 1
    floors.save()
    journal.close()
    journal = Journal(path, KEY)
    Floors(journal, FLOORS, last := {})
    assert last == {A: 5}
    journal.close()


def test_a_full_disk_is_no_reason_to_fail_and_it_is_saved_later(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, seen = Journal(path, KEY), {}
    floors = Floors(journal, FLOORS, seen)
    seen |= {bytes([1, number % 256, number // 256]) * 5: number + 1 for number in range(2000)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        floors.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    floors.save()
    journal.close()
    journal = Journal(path, KEY)
    Floors(journal, FLOORS, again := {})
    assert again == seen
    journal.close()


@pytest.mark.parametrize("value", [1, "x", [], [A], [A, 1, 2], {}])
def test_notes_of_another_form_are_ignored(tmp_path: Path, value: object) -> None:
    journal = Journal(tmp_path / "journal", KEY)
    batch = Batch()
    batch.meta["floor:x"] = value
    journal.commit(batch)
    Floors(journal, FLOORS, seen := {})
    assert seen == {}
    journal.close()


def test_storage_indexes_are_not_in_the_clear(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, seen = Journal(path, KEY), {}
    index = b"storage-index-16"
    floors = Floors(journal, FLOORS, seen)
    seen[index] = 1
    floors.save()
    assert not any(index in file.read_bytes() for file in path.iterdir())
    journal.close()
