"""Who wins when two sides changed a name, and what the loser is called: every combination."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.formats.packed import Packed, make_entry
from lafsfs.tree.directories import NAME_MAX, digest
from lafsfs.tree.merge import Verdict, conflict_name, decide

WRITEKEY = bytes(16)


def entry(ro_uri: bytes, metadata: bytes = b"{}", rw_uri: bytes = b"") -> bytes:
    return make_entry("name", ro_uri, rw_uri, metadata, WRITEKEY)


A, A2 = entry(b"URI:LIT:a"), entry(b"URI:LIT:a", b'{"other": 1}')  # the same content, other metadata
B, C = entry(b"URI:LIT:b"), entry(b"URI:LIT:c")
STATES = [None, A, A2, B, C]

APPLY, DROP, CONFLICT = Verdict.APPLY, Verdict.DROP, Verdict.CONFLICT


@pytest.mark.parametrize(
    ("base", "theirs", "ours", "verdict"),
    [
        # nobody else changed anything
        (None, None, A, APPLY),
        (A, A, B, APPLY),
        (A, A, A2, APPLY),
        (A, A, None, APPLY),
        # they removed it: what we changed comes back, what we removed is gone
        (A, None, B, APPLY),
        (A, None, None, APPLY),
        # they made it, or changed it
        (None, B, None, DROP),
        (A, B, None, DROP),
        (A, A2, None, DROP),
        (None, B, C, CONFLICT),
        (A, B, C, CONFLICT),
        (A, B, A2, CONFLICT),
        # both did the same, or the content is the same
        (None, B, B, APPLY),
        (A, B, B, APPLY),
        (None, A, A2, APPLY),
        (B, A, A2, APPLY),
    ],
)
def test_the_table(base: bytes | None, theirs: bytes | None, ours: bytes | None, verdict: Verdict) -> None:
    assert decide(theirs, ours, digest(base), ()) is verdict


def test_all_combinations() -> None:
    """What somebody else put there is never overwritten, nor ours given up without another's in its place."""
    for base, theirs, ours in itertools.product(STATES, repeat=3):
        verdict = decide(theirs, ours, digest(base), ())
        theirs_is_new = theirs is not None and theirs != base
        if verdict is APPLY and theirs_is_new:
            assert ours is not None
            assert Packed().with_changes({"n": theirs}).get("n").ro_uri == (  # type: ignore[union-attr]
                Packed().with_changes({"n": ours}).get("n").ro_uri  # type: ignore[union-attr]
            )
        if verdict is DROP:
            assert theirs_is_new
            assert ours is None
        if verdict is CONFLICT:
            assert theirs_is_new
            assert ours is not None


def test_what_we_may_have_written_ourselves_is_ours() -> None:
    for base, theirs, ours in itertools.product(STATES, repeat=3):
        mark = digest(theirs)
        if mark is not None:
            assert decide(theirs, ours, digest(base), {mark}) is APPLY
        others = {mark for mark in map(digest, STATES) if mark is not None and mark != digest(theirs)}
        assert decide(theirs, ours, digest(base), others) is decide(theirs, ours, digest(base), ())


def test_entries_without_a_readable_cap_are_not_the_same() -> None:
    """Unknown caps may have no read-only form, and damaged entries have none: these are different things."""
    one, two = entry(b"", rw_uri=b"future-cap-1"), entry(b"", rw_uri=b"future-cap-2")
    assert decide(one, two, None, ()) is CONFLICT
    assert decide(one, entry(b"", b'{"x": 1}', b"future-cap-1"), None, ()) is APPLY
    for broken in (b"", b"noise", one[:-1]):
        assert decide(broken, two, None, ()) is CONFLICT
        assert decide(broken, entry(b""), None, ()) is CONFLICT


# --- the names of conflict copies ----------------------------------------------------------------------

WHEN = 1_700_000_000.0
STAMP = "20231114T221320"


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        (b"a.txt", f"a.conflict-me-{STAMP}.txt"),
        (b"a", f"a.conflict-me-{STAMP}"),
        (b".profile", f".profile.conflict-me-{STAMP}"),
        (b"a.tar.gz", f"a.tar.conflict-me-{STAMP}.gz"),
        (b"a.", f"a.conflict-me-{STAMP}."),
        (b"a.a sentence, no extension", f"a.a sentence, no extension.conflict-me-{STAMP}"),
        (b"a.conflict-you-20200101T000000.txt", f"a.conflict-me-{STAMP}.txt"),
        (b"a.conflict-you-20200101T000000-12", f"a.conflict-me-{STAMP}"),
        (b"a.conflict-you-20200101T000000.conflict-he-20200101T000001.c", f"a.conflict-me-{STAMP}.c"),
        (b".conflict-you-20200101T000000", f".conflict-you-20200101T000000.conflict-me-{STAMP}"),
        (b"a.conflict-you", f"a.conflict-me-{STAMP}.conflict-you"),
        (b".lafsfs-moving-1f", f"moved.conflict-me-{STAMP}"),
    ],
)
def test_conflict_names(name: bytes, copy: str) -> None:
    assert conflict_name(name, "me", WHEN, lambda _: False) == copy.encode()


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.binary(min_size=1, max_size=NAME_MAX),
        st.text(min_size=1, max_size=255).map(lambda text: text.encode("utf-8", "replace")[:NAME_MAX]),
    ),
    st.text(max_size=80),
    st.integers(0, 12),
)
def test_a_conflict_name_is_free_and_fits(name: bytes, label: str, others: int) -> None:
    name = name.replace(b"/", b"_").replace(b"\0", b"_")
    taken: set[bytes] = {name}
    for _ in range(others + 1):
        copy = conflict_name(name, label, WHEN, taken.__contains__)
        assert 0 < len(copy) <= NAME_MAX
        assert copy not in taken
        assert b"/" not in copy
        assert b"\0" not in copy
        taken.add(copy)
        if is_text(name):
            assert is_text(copy), "no character is cut in two"


def is_text(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
