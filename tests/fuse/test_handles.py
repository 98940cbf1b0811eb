"""File handles, as an NFS server keeps them: of what nobody remembers, and of another mount's time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.fuse.conftest import remount
from tests.support.errnos import refused
from tests.support.mounts import MountedTree
from tests.support.syscalls import file_handle, open_handle

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_DAC_READ_SEARCH")

PATHS = ("a", "a/b", "a/b/c", "a/b/c/file", "a/b/fifo", "a/b/link", "top")


@pytest.fixture
def handles(tree: MountedTree, place: Path) -> dict[str, object]:
    """Handles of some objects that are on the grid, and that the kernel has forgotten."""
    (place / "a" / "b" / "c").mkdir(parents=True)
    for name in ("a/b/c/file", "top"):
        (place / name).write_text(name)
    os.mkfifo(place / "a/b/fifo")
    os.symlink("x" * 300, place / "a/b/link")
    made = {path: file_handle(place / path) for path in PATHS}
    tree.flush()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    return made


def check(tree: MountedTree, place: Path, handles: dict[str, object]) -> None:
    for path, handle in handles.items():
        fd = open_handle(tree.path, handle, os.O_PATH | os.O_NOFOLLOW)
        found = os.fstat(fd)
        os.close(fd)
        assert os.path.samestat(found, os.lstat(place / path))
    for path in ("a/b/c/file", "top"):
        with open(open_handle(tree.path, handles[path], os.O_RDONLY)) as file:
            assert file.read() == path
    fd = open_handle(tree.path, handles["a/b/c"], os.O_RDONLY)
    assert os.listdir(fd) == ["file"]
    assert os.readlink(f"/proc/self/fd/{fd}") == str(place / "a/b/c")
    os.close(fd)


def test_handles_of_what_was_forgotten(tree: MountedTree, place: Path, handles: dict[str, object]) -> None:
    check(tree, place, handles)


@pytest.mark.parametrize("forget", [True, False])
def test_handles_in_another_mount(
    tree: MountedTree, place: Path, handles: dict[str, object], forget: bool
) -> None:
    remount(tree, forget=forget)
    fd = open_handle(tree.path, handles["a/b/c/file"], os.O_RDWR)
    os.write(fd, b"changed!")
    os.close(fd)
    assert (place / "a/b/c/file").read_text().startswith("changed!")
    (place / "a/b/c/file").write_text("a/b/c/file")
    check(tree, place, handles)


def test_handles_of_what_was_removed(tree: MountedTree, place: Path, handles: dict[str, object]) -> None:
    (place / "top").unlink()
    os.rename(place / "a/b/fifo", place / "moved")
    tree.flush()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    with refused(errno.ESTALE):
        open_handle(tree.path, handles["top"], os.O_RDONLY)
    fd = open_handle(tree.path, handles["a/b/fifo"], os.O_PATH)
    assert os.fstat(fd).st_ino == (place / "moved").stat().st_ino
    os.close(fd)
