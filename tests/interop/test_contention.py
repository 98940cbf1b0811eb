"""Five mounts and a Tahoe node work on one tree at the same time (`make contention` does it for longer)."""

from __future__ import annotations

import pytest

from tests.contention.campaign import run

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(400)]


def test_five_mounts_and_a_tahoe_node() -> None:
    counts = run("1", 20.0)
    assert counts["tokens"] > 20
    assert counts["tahoe: create"] > 0
