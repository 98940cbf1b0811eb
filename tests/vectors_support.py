"""The golden vectors: where they are, how to read them, and what makes sure that all of them are read.

The set in the directory LAFSFS_VECTORS (default tests/vectors) may be replaced by any other set of the same
form, so checks iterate over what the files hold. A check says which section it reads (all of them when it
names none) with `@reads("chk.json", "vectors")`, that is `@pytest.mark.vectors("chk.json", "vectors")`;
`tests/test_vectors_complete.py` fails for sections that no check reads. Within a section, `every_leaf_of`
fails for values that the check did not look at.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

reads = pytest.mark.vectors


def directory() -> Path:
    """The directory of the vector set."""
    return Path(os.environ.get("LAFSFS_VECTORS") or Path(__file__).parent / "vectors")


@cache
def load(name: str) -> Any:
    """The parsed contents of one JSON file of the set. Not to be changed."""
    return json.loads((directory() / name).read_text("utf-8"))


def recipe(seed: str, size: int) -> bytes:
    """The plaintext that a seed stands for."""
    digests = (hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in range(-(-size // 32)))
    return b"".join(digests)[:size]


def share_file(entry: Any) -> bytes:
    """The bytes of a share entry that has a file."""
    return (directory() / entry["file"]).read_bytes()


class Tracked:
    """A JSON object or array that remembers what was looked at."""

    def __init__(self, value: dict[str, Any] | list[Any]) -> None:
        self._value = value
        self._seen: dict[Any, Tracked | None] = {}

    def __getitem__(self, key: Any) -> Any:
        child = self._value[key]
        if isinstance(child, dict | list):
            tracked = self._seen.get(key) or Tracked(child)
            self._seen[key] = tracked
            return tracked
        self._seen[key] = None
        return child

    def __contains__(self, key: object) -> bool:
        return key in self._value

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        """Keys of an object (values not looked at yet), elements of an array (looked at)."""
        if isinstance(self._value, dict):
            return iter(self._value)
        return (self[i] for i in range(len(self._value)))

    def plain(self) -> Any:
        """The whole value, all of it looked at."""
        for key in self._value if isinstance(self._value, dict) else range(len(self._value)):
            child = self[key]
            if isinstance(child, Tracked):
                child.plain()
        return self._value

    def unread(self, path: str = "") -> list[str]:
        """Paths of what was not looked at."""
        missed = []
        for key in self._value if isinstance(self._value, dict) else range(len(self._value)):
            here = f"{path}/{key}"
            if key not in self._seen:
                missed.append(here)
            child = self._seen.get(key)
            if child is not None:
                missed += child.unread(here)
        return missed


@contextmanager
def every_leaf_of(value: Any) -> Iterator[Any]:
    """The value, tracked; AssertionError on leaving when part of it was not looked at (`note`s excepted)."""
    tracked = Tracked(value)
    yield tracked
    missed = [path for path in tracked.unread() if not path.endswith("/note")]
    assert not missed, f"not read: {missed}"


def names(vectors: list[Any]) -> list[str]:
    """Test ids for a list of vectors."""
    return [str(v.get("id", i)) if isinstance(v, dict) else str(i) for i, v in enumerate(vectors)]
