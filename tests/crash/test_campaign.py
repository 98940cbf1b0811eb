"""A short campaign of random crashes (`make crash` is the long one): one round of each kind."""

from __future__ import annotations

import pytest

from tests.crash.campaign import KINDS, run
from tests.support.power_cut import compiler
from tests.support.small_disk import only_root


@only_root
@pytest.mark.timeout(300)
def test_one_round_of_each_kind() -> None:
    kinds = [kind for kind in KINDS if kind != "power" or compiler() is not None]
    counts = run(20_261_121, len(kinds), kinds=kinds)
    assert all(counts[kind] == 1 for kind in kinds)
    assert counts["fresh mounts"] > 0
    assert counts["calls"] > 20
