"""ACLs as values: what is one, and how ACL and mode follow each other."""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafsfs.tree import acl
from lafsfs.tree.acl import ACCESS, DEFAULT, Acl, Entry

ANY = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 1, 2, 4, 8, 16, 32

bits = st.integers(0, 7)


@st.composite
def acls(draw: st.DrawFn) -> Acl:
    users = [
        Entry(USER, draw(bits), number) for number in sorted(draw(st.sets(st.integers(0, 99), max_size=3)))
    ]
    groups = [
        Entry(GROUP, draw(bits), number) for number in sorted(draw(st.sets(st.integers(0, 99), max_size=3)))
    ]
    mask = [Entry(MASK, draw(bits), ANY)] if users or groups or draw(st.booleans()) else []
    first, middle, last = (Entry(tag, draw(bits), ANY) for tag in (USER_OBJ, GROUP_OBJ, OTHER))
    return (first, *users, middle, *groups, *mask, last)


@settings(max_examples=100, deadline=None)
@given(acls(), st.integers(0, 0o7777))
def test_acl_and_mode_follow_each_other(value: Acl, mode: int) -> None:
    assert acl.parse(acl.pack(value)) == value
    changed = acl.with_permissions(value, mode)
    assert acl.permissions(changed) == mode & 0o777
    assert acl.with_permissions(changed, mode) == changed
    for before, after in zip(value, changed, strict=True):
        assert (before.tag, before.number) == (after.tag, after.number)
        if before.tag in (USER, GROUP):
            assert before == after
    assert acl.with_permissions(value, acl.permissions(value)) == value


@settings(max_examples=100, deadline=None)
@given(acls(), st.sampled_from([stat.S_IFREG, stat.S_IFDIR]), st.integers(0, 0o777))
def test_what_a_default_acl_hands_down(default: Acl, kind: int, mode: int) -> None:
    """Never more than asked for, nor than the default allows; the umask has no say."""
    above = {DEFAULT: acl.pack(default), ACCESS: b"not of interest"}
    made, xattrs = acl.born_with(above, kind | mode, 0o077)
    assert made == kind | mode & acl.permissions(default)
    assert acl.born_with(above, kind | mode, 0) == (made, xattrs)
    assert ((xattrs or {}).get(DEFAULT) == acl.pack(default)) == (kind == stat.S_IFDIR)
    if len(default) == 3:
        assert ACCESS not in (xattrs or {})
    else:
        assert xattrs is not None
        assert acl.permissions(acl.parse(xattrs[ACCESS])) == made & 0o777


def test_without_a_default_acl_the_umask_counts() -> None:
    for above in (None, {}, {b"user.x": b"y"}, {DEFAULT: b"noise"}):
        assert acl.born_with(above, stat.S_IFREG | 0o666, 0o027) == (stat.S_IFREG | 0o640, None)
    assert acl.born_with({}, stat.S_IFLNK | 0o777, 0o077) == (stat.S_IFLNK | 0o777, None)


def test_an_acl_that_another_client_spoilt_does_not_stop_chmod() -> None:
    assert acl.after_chmod({ACCESS: b"noise"}, 0o600) is None
    assert acl.after_chmod({ACCESS: b"", b"user.x": b"y"}, 0o600) == {b"user.x": b"y"}
    assert acl.after_chmod({b"user.x": b"y"}, 0o600) == {b"user.x": b"y"}
    assert acl.after_chmod(None, 0o600) is None


def packed(*entries: tuple[int, int, int], version: int = 2) -> bytes:
    return struct.pack("<I", version) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


MINIMAL = [(USER_OBJ, 7, ANY), (GROUP_OBJ, 5, ANY), (OTHER, 0, ANY)]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\2\0\0",
        packed(),
        packed(*MINIMAL, version=1),
        packed(*MINIMAL) + b"\0",
        packed(*MINIMAL[:2]),
        packed(*MINIMAL, MINIMAL[2]),
        packed(*reversed(MINIMAL)),
        packed((USER_OBJ, 8, ANY), *MINIMAL[1:]),
        packed(MINIMAL[0], (USER, 7, 5), *MINIMAL[1:]),  # a named user needs a mask
        packed(MINIMAL[0], (3, 7, 5), *MINIMAL[1:]),
    ],
)
def test_what_is_no_acl(value: bytes) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        acl.parse(value)


def test_the_smallest() -> None:
    value = acl.parse(packed(*MINIMAL))
    assert acl.is_minimal(value)
    assert acl.permissions(value) == 0o750
