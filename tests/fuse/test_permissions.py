"""Who may do what; set-id bits, sticky directories, groups that are inherited."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.users import NOBODY, as_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users")

OTHER = 65533
GROUP = 65530


@pytest.fixture
def open_place(place: Path) -> Path:
    """A directory where anybody may create files."""
    os.chmod(place, 0o777)
    return place


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def create(path: Path, mode: int = 0o666) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


def test_owner_of_what_is_made(open_place: Path) -> None:
    def make() -> None:
        create(open_place / "file")
        os.mkdir(open_place / "dir")
        os.symlink("x", open_place / "link")
        os.mkfifo(open_place / "fifo")

    as_user(NOBODY, make, gid=GROUP)
    for name in ("file", "dir", "link", "fifo"):
        status = (open_place / name).lstat()
        assert (status.st_uid, status.st_gid) == (NOBODY, GROUP)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_umask(place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        create(place / "file", 0o666)
        os.mkdir(place / "dir", 0o777)
        os.mkfifo(place / "fifo", 0o666)
    finally:
        os.umask(before)
    assert mode_of(place / "file") == 0o666 & ~umask
    assert mode_of(place / "dir") == 0o777 & ~umask
    assert mode_of(place / "fifo") == 0o666 & ~umask


def test_permission_is_checked(open_place: Path) -> None:
    create(open_place / "secret", 0o600)
    (open_place / "secret").write_text("for the owner")
    (open_place / "closed").mkdir(0o700)
    with refused(errno.EACCES):
        as_user(NOBODY, (open_place / "secret").read_bytes)
    with refused(errno.EACCES):
        as_user(NOBODY, lambda: create(open_place / "closed" / "file"))
    with refused(errno.EACCES):
        as_user(NOBODY, lambda: os.listdir(open_place / "closed"))
    with refused(errno.EPERM):
        as_user(NOBODY, lambda: os.chmod(open_place / "secret", 0o666))
    with refused(errno.EPERM):
        as_user(NOBODY, lambda: os.utime(open_place / "secret", ns=(1, 1)))
    assert as_user(NOBODY, lambda: os.access(open_place / "secret", os.R_OK)) is False


def test_supplementary_groups_count(open_place: Path) -> None:
    create(open_place / "file", 0o640)
    (open_place / "file").write_text("shared")
    os.chown(open_place / "file", 0, GROUP)
    assert as_user(NOBODY, (open_place / "file").read_text, groups=(GROUP,)) == "shared"
    with refused(errno.EACCES):
        as_user(NOBODY, (open_place / "file").read_text)


def test_a_descriptor_outlives_permission(open_place: Path) -> None:
    path = open_place / "file"

    def action() -> bytes:
        with open(path, "w+b") as file:
            file.write(b"mine")
            file.flush()
            os.chmod(path, 0)
            file.seek(0)
            return file.read()

    assert as_user(NOBODY, action) == b"mine"


# --- set-id bits -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["write", "truncate", "open", "large"])
def test_a_write_takes_set_id_bits(open_place: Path, how: str) -> None:
    path = open_place / "file"
    create(path)
    path.write_text("content")
    os.chmod(path, 0o6777)

    def change() -> None:
        if how == "truncate":
            os.truncate(path, 3)
        elif how == "open":
            os.close(os.open(path, os.O_WRONLY | os.O_TRUNC))
        else:
            fd = os.open(path, os.O_WRONLY)
            os.write(fd, b"x" * (1 if how == "write" else 300_000))
            os.close(fd)

    as_user(NOBODY, change)
    assert mode_of(path) == 0o777


def test_a_write_leaves_the_mark_of_mandatory_locks(open_place: Path) -> None:
    path = open_place / "file"
    create(path)
    os.chmod(path, 0o2666)
    os.chown(path, NOBODY, NOBODY)
    os.chmod(path, 0o2666)
    as_user(NOBODY, lambda: path.write_text("x"))
    assert mode_of(path) == 0o2666


def test_chown_takes_set_id_bits(open_place: Path) -> None:
    path = open_place / "file"

    def own_group() -> None:
        create(path)
        os.chmod(path, 0o6755)
        os.chown(path, -1, GROUP)

    as_user(NOBODY, own_group, groups=(GROUP,))
    assert mode_of(path) == 0o755
    assert path.stat().st_gid == GROUP


def test_chmod_by_a_stranger_to_the_group_takes_its_bit(open_place: Path) -> None:
    path = open_place / "file"
    as_user(NOBODY, lambda: create(path))
    os.chown(path, NOBODY, GROUP)
    as_user(NOBODY, lambda: os.chmod(path, 0o2755))
    assert mode_of(path) == 0o755


def test_set_id_programs_run_as_their_owner(open_place: Path) -> None:
    program = open_place / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", program)
    os.chown(program, OTHER, GROUP)
    os.chmod(program, 0o6755)

    def run() -> str:
        return subprocess.run([program], capture_output=True, text=True, check=True).stdout

    assert f"euid={OTHER}" in as_user(NOBODY, run)
    assert f"egid={GROUP}" in as_user(NOBODY, run)


# --- directories -------------------------------------------------------------------------------------------


def test_set_group_id_is_inherited(open_place: Path) -> None:
    shared = open_place / "shared"
    shared.mkdir()
    os.chown(shared, 0, GROUP)
    os.chmod(shared, 0o2777)

    def make() -> None:
        create(shared / "file")
        os.mkdir(shared / "dir")
        os.symlink("x", shared / "link")
        os.mkdir(shared / "dir" / "below")

    as_user(NOBODY, make)
    for name in ("file", "dir", "link", "dir/below"):
        assert (shared / name).lstat().st_gid == GROUP
    assert mode_of(shared / "dir" / "below") & stat.S_ISGID
    assert not mode_of(shared / "file") & stat.S_ISGID


def test_sticky_directories(open_place: Path) -> None:
    sticky = open_place / "sticky"
    sticky.mkdir()
    os.chmod(sticky, 0o1777)
    as_user(NOBODY, lambda: create(sticky / "file"))
    as_user(NOBODY, lambda: os.mkdir(sticky / "dir"))
    with refused(errno.EPERM):
        as_user(OTHER, lambda: os.unlink(sticky / "file"))
    with refused(errno.EPERM):
        as_user(OTHER, lambda: os.rmdir(sticky / "dir"))
    with refused(errno.EPERM):
        as_user(OTHER, lambda: os.rename(sticky / "file", sticky / "stolen"))
    as_user(OTHER, lambda: create(sticky / "own"))
    with refused(errno.EPERM):
        as_user(OTHER, lambda: os.rename(sticky / "own", sticky / "file"))
    as_user(NOBODY, lambda: os.unlink(sticky / "file"))


def test_search_permission(open_place: Path) -> None:
    inner = open_place / "dir"
    inner.mkdir()
    (inner / "file").write_text("x")
    os.chmod(inner, 0o711)
    assert as_user(NOBODY, (inner / "file").read_text) == "x"
    with refused(errno.EACCES):
        as_user(NOBODY, lambda: os.listdir(inner))
    os.chmod(inner, 0o744)
    assert as_user(NOBODY, lambda: os.listdir(inner)) == ["file"]
    with refused(errno.EACCES):
        as_user(NOBODY, (inner / "file").stat)


@pytest.mark.parametrize("mode", [0, 0o777, 0o4755, 0o2755, 0o1777, 0o7777, 0o444])
def test_any_mode_is_kept(place: Path, mode: int) -> None:
    (place / "file").touch()
    (place / "dir").mkdir()
    for name in ("file", "dir"):
        os.chmod(place / name, mode)
        assert mode_of(place / name) == mode


@pytest.mark.parametrize(
    "owner", [(0, 0), (1, 2), (65534, 65534), (1 << 31, 1 << 31), (0xFFFFFFFE, 0xFFFFFFFE)]
)
def test_any_owner_is_kept(place: Path, owner: tuple[int, int]) -> None:
    (place / "file").touch()
    os.chown(place / "file", *owner)
    status = (place / "file").stat()
    assert (status.st_uid, status.st_gid) == owner
