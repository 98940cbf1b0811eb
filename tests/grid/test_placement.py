"""Happiness and upload plans against the vectors and against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.grid.placement import Plan, happiness, happiness_by_server, plan
from tests import vectors_support as vectors
from tests.vectors_support import every_leaf_of, reads

_PRIMITIVES = vectors.load("primitives.json")


@reads("primitives.json", "happiness")
@pytest.mark.parametrize("vector", _PRIMITIVES["happiness"])
def test_happiness_of_vectors(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        layout = {int(share): servers for share, servers in v["sharemap"].plain().items()}
        assert happiness(layout) == v["happiness"]
        holdings: dict[int, set[int]] = {}
        for share, servers in layout.items():
            for server in servers:
                holdings.setdefault(server, set()).add(share)
        assert happiness_by_server(holdings) == v["happiness"]


def _holdings_after(result: Plan[Any], existing: dict[Any, Any]) -> dict[Any, set[int]]:
    holdings = {server: set(have) for server, have in existing.items()}
    for server, shares in result.uploads.items():
        holdings.setdefault(server, set()).update(shares)
    return holdings


@reads("primitives.json", "placement")
@pytest.mark.parametrize("vector", _PRIMITIVES["placement"])
def test_plans_of_vectors(vector: Any) -> None:
    with every_leaf_of(vector) as v:
        readonly, existing = set(v["readonly"].plain()), v["existing"].plain()
        writable = [server for server in v["writable"].plain() if server not in readonly]
        result = plan(v["n"], writable, existing)
        assert result.happiness == v["max_happiness"]
        assert happiness_by_server(_holdings_after(result, existing)) == v["max_happiness"]
        assert set(result.uploads) <= set(writable)

        # Tahoe's own plan, without the shares that it gives to read-only servers, is no better than ours.
        theirs = {int(share): server for share, server in v["tahoe_placement"].plain().items()}
        assert len(set(theirs.values())) == v["tahoe_unique_servers"]
        real = {server: set(have) for server, have in existing.items()}
        for share, server in theirs.items():
            if server in writable:
                real.setdefault(server, set()).add(share)
        assert happiness_by_server(real) <= result.happiness


@st.composite
def _situations(draw: st.DrawFn) -> tuple[int, list[int], dict[int, set[int]]]:
    n = draw(st.integers(1, 4))
    servers = range(draw(st.integers(1, 4)))
    shares = st.sets(st.integers(0, n - 1))
    existing = {server: draw(shares) for server in servers if draw(st.booleans())}
    writable = [server for server in servers if draw(st.booleans())]
    return n, writable, existing


def _brute_force_happiness(holdings: dict[int, set[int]]) -> int:
    """The most servers that can each be given a share of their own."""
    for size in range(len(holdings), 0, -1):
        for chosen in itertools.combinations(holdings, size):
            choices = itertools.product(*(holdings[server] for server in chosen))
            if any(len(set(choice)) == size for choice in choices):
                return size
    return 0


@given(st.dictionaries(st.integers(0, 4), st.sets(st.integers(0, 4)), max_size=5))
def test_happiness_is_a_maximum_matching(holdings: dict[int, set[int]]) -> None:
    assert happiness_by_server(holdings) == _brute_force_happiness(holdings)


@settings(max_examples=200)
@given(_situations())
def test_no_placement_is_happier_than_the_plan(situation: tuple[int, list[int], dict[int, set[int]]]) -> None:
    n, writable, existing = situation
    best = _brute_force_happiness(
        {**existing, **{server: set(range(n)) for server in writable}},
    )
    result = plan(n, writable, existing)
    assert result.happiness == best
    assert _brute_force_happiness(_holdings_after(result, existing)) == best


@settings(max_examples=200)
@given(_situations())
def test_a_plan_is_complete_and_sends_nothing_twice(
    situation: tuple[int, list[int], dict[int, set[int]]],
) -> None:
    n, writable, existing = situation
    result = plan(n, writable, existing)
    available = set(range(n)) if writable else set().union(*existing.values())
    assert set(result.servers) == available & set(range(n))
    for server, shares in result.uploads.items():
        assert server in writable
        assert not shares & existing.get(server, set())
        assert all(result.servers[share] == server for share in shares)
    for share, server in result.servers.items():
        assert share in existing.get(server, set()) or share in result.uploads[server]


def test_what_is_there_is_not_uploaded_again() -> None:
    result = plan(3, ["a", "b", "c"], {"a": {0}, "b": {1}, "c": {2}})
    assert result.happiness == 3
    assert result.uploads == {}


def test_leftovers_spread_evenly() -> None:
    result = plan(10, ["a", "b", "c"], {})
    assert sorted(len(shares) for shares in result.uploads.values()) == [3, 3, 4]


def test_many_shares_on_few_servers_is_quick() -> None:
    servers = [f"s{i}" for i in range(50)]
    result = plan(256, servers, {server: set(range(256)) for server in servers[:10]})
    assert result.happiness == 50
