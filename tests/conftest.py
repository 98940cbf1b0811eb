"""Fixtures that tests of several packages use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mounts import LafsfsHome, clean_leftovers, lafsfs_home


def pytest_sessionstart() -> None:
    """What a killed test run left mounted or running goes first."""
    clean_leftovers()


@pytest.fixture
def home() -> Iterator[LafsfsHome]:
    """A LAFSFS_HOME of its own; whatever is mounted or runs in it ends with the test."""
    with lafsfs_home() as fresh:
        yield fresh
