"""Files with several names, in the mount and after it."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.fuse.conftest import remount
from tests.support.errnos import refused
from tests.support.mounts import MountedTree


def test_names_share_everything(place: Path) -> None:
    one, two = place / "one", place / "dir" / "two"
    (place / "dir").mkdir()
    one.write_bytes(b"content")
    os.link(one, two)
    assert one.stat() == two.stat()
    assert one.stat().st_nlink == 2
    two.write_bytes(b"other content")
    os.chmod(one, 0o600)
    os.setxattr(two, "user.a", b"1")
    os.utime(one, ns=(1, 2))
    assert one.read_bytes() == b"other content"
    assert os.getxattr(one, "user.a") == b"1"
    assert one.stat() == two.stat()


def test_counts(place: Path) -> None:
    first = place / "0"
    first.touch()
    for number in range(1, 30):
        os.link(place / f"{number - 1}", place / f"{number}")
        assert first.stat().st_nlink == number + 1
    for number in range(1, 30):
        before = first.stat().st_ctime_ns
        (place / f"{number}").unlink()
        assert first.stat().st_nlink == 30 - number
        assert first.stat().st_ctime_ns > before


def test_a_descriptor_sees_names_come_and_go(place: Path) -> None:
    with open(place / "a", "w+b") as file:
        os.link(place / "a", place / "b")
        assert os.fstat(file.fileno()).st_nlink == 2
        (place / "a").unlink()
        file.write(b"through the other name")
        file.flush()
        assert (place / "b").read_bytes() == b"through the other name"
        (place / "b").unlink()
        assert os.fstat(file.fileno()).st_nlink == 0


def test_refusals(place: Path) -> None:
    (place / "dir").mkdir()
    (place / "a").touch()
    with refused(errno.EPERM):
        os.link(place / "dir", place / "dir2")
    with refused(errno.EEXIST):
        os.link(place / "a", place / "dir")
    with refused(errno.EEXIST):
        os.link(place / "a", place / "a")
    with refused(errno.ENOENT):
        os.link(place / "nothing", place / "b")
    with refused(errno.EXDEV):
        os.link("/etc/hostname", place / "b")


def test_renaming_over_one_of_the_names(place: Path) -> None:
    (place / "a").write_text("linked")
    os.link(place / "a", place / "b")
    (place / "new").write_text("new")
    os.rename(place / "new", place / "b")
    assert (place / "a").stat().st_nlink == 1
    assert ((place / "a").read_text(), (place / "b").read_text()) == ("linked", "new")


@pytest.mark.parametrize("forget", [True, False])
def test_changes_while_the_other_directory_was_not_looked_at(
    tree: MountedTree, place: Path, forget: bool
) -> None:
    one, two = place / "one" / "x", place / "two" / "x"
    for path in (one, two):
        path.parent.mkdir()
    one.write_bytes(b"first" * 10_000)
    os.link(one, two)
    number = one.stat().st_ino
    remount(tree, forget=forget)
    one.write_bytes(b"second" * 10_000)
    remount(tree, forget=forget)
    assert two.read_bytes() == b"second" * 10_000
    assert (two.stat().st_ino, two.stat().st_nlink) == (number, 2)
    two.unlink()
    remount(tree, forget=forget)
    assert one.stat().st_nlink == 1


def test_what_is_kept_in_the_root_is_not_shown(tree: MountedTree, place: Path) -> None:
    (place / "a").touch()
    os.link(place / "a", place / "b")
    assert not any(name.startswith(".lafsfs") for name in os.listdir(tree.path))
    assert not (tree.path / ".lafsfs-links").exists()
    with refused(errno.EPERM):
        (tree.path / ".lafsfs-links").mkdir()
    assert tree.path.stat().st_nlink == 2 + sum(path.is_dir() for path in tree.path.iterdir())


def test_copies_of_linked_trees(place: Path) -> None:
    source = place / "source"
    (source / "dir").mkdir(parents=True)
    (source / "a").write_text("a")
    os.link(source / "a", source / "dir" / "b")
    subprocess.run(["cp", "-a", source, place / "copied"], check=True)
    assert os.path.samefile(place / "copied" / "a", place / "copied" / "dir" / "b")
    subprocess.run(["cp", "-al", source, place / "linked"], check=True)
    assert (source / "a").stat().st_nlink == 4
    subprocess.run(["rm", "-r", source], check=True)
    assert (place / "linked" / "a").stat().st_nlink == 2
