"""POSIX ACLs of a mount with `-o acl`; where the temporary directory has ACLs too, each test holds there as well."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.conftest import mount_options
from tests.support.errnos import refused
from tests.support.mounts import LafsfsHome, MountedTree
from tests.support.snapshots import differences, snapshot
from tests.support.users import NOBODY, as_user

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users"),
    pytest.mark.skipif(not shutil.which("setfacl"), reason="setfacl is not installed (Debian: acl)"),
]

OTHER = 65533
GROUP = 65530
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@pytest.fixture(scope="module")
def acl_tree(own_home: LafsfsHome) -> Iterator[MountedTree]:
    """A mount with ACLs. When the module ends, a new mount that knows only the grid must show the same."""
    options = (*mount_options(), "-o", "acl")
    made = own_home.mount("home:", *options)
    os.chmod(made.path, 0o755)
    yield made
    before = snapshot(made.path)
    made.unmount()
    own_home.forget()
    again = own_home.mount("home:", *options)
    assert differences(before, snapshot(again.path)) == []
    again.unmount()


@pytest.fixture(params=["mount", "local"])
def acl_place(request: pytest.FixtureRequest, acl_tree: MountedTree, tmp_path: Path) -> Iterator[Path]:
    """An empty directory that anybody may enter: in the mount, and on the local disk, which judges the test."""
    if request.param == "mount":
        path = acl_tree.path / request.node.originalname
        path.mkdir(exist_ok=True)
        yield path
        return
    local = Path("/var/tmp") / f"lafsfs-acl-{os.getpid()}"
    local.mkdir()
    try:
        done = subprocess.run(["setfacl", "-m", "u:1:r", local], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("the local disk has no ACLs")
        subprocess.run(["setfacl", "-b", local], check=True)
        yield local
    finally:
        shutil.rmtree(local)


def setfacl(*arguments: str | Path) -> None:
    subprocess.run(["setfacl", *arguments], check=True)


def getfacl(path: Path) -> list[str]:
    command = ["getfacl", "-cnEp", path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def make(path: Path, mode: int = 0o644) -> Path:
    path.write_text("content")
    os.chmod(path, mode)
    return path


def readable(path: Path, uid: int, **who: object) -> bool:
    gid = who.get("gid")
    groups = who.get("groups", ())
    assert gid is None or isinstance(gid, int)
    assert isinstance(groups, tuple)
    return as_user(uid, lambda: os.access(path, os.R_OK) and bool(path.read_text()), gid=gid, groups=groups)


def test_named_users_and_groups(acl_place: Path) -> None:
    path = make(acl_place / "file", 0o600)
    assert not readable(path, NOBODY)
    setfacl("-m", f"u:{NOBODY}:r", path)
    assert readable(path, NOBODY)
    assert not readable(path, OTHER)
    setfacl("-x", f"u:{NOBODY}", "-m", f"g:{GROUP}:r", path)
    assert not readable(path, NOBODY)
    assert readable(path, OTHER, groups=(GROUP,))
    assert readable(path, OTHER, gid=GROUP)


def test_entries_deny_what_others_may(acl_place: Path) -> None:
    path = make(acl_place / "file", 0o644)
    setfacl("-m", f"u:{NOBODY}:-", path)
    assert not readable(path, NOBODY)
    assert readable(path, OTHER)


def test_writing_and_entering(acl_place: Path) -> None:
    directory = acl_place / "dir"
    directory.mkdir(mode=0o700)
    path = make(directory / "file", 0o600)
    setfacl("-m", f"u:{NOBODY}:x", directory)
    setfacl("-m", f"u:{NOBODY}:rw", path)
    as_user(NOBODY, lambda: path.write_text("theirs"))
    assert path.read_text() == "theirs"
    for action in (lambda: os.listdir(directory), (directory / "new").touch):
        with pytest.raises(PermissionError):
            as_user(NOBODY, action)
    setfacl("-m", f"u:{NOBODY}:rwx", directory)
    as_user(NOBODY, (directory / "new").touch)


def test_the_mask_is_the_groups_part_of_the_mode(acl_place: Path) -> None:
    path = make(acl_place / "file", 0o640)
    setfacl("-m", f"u:{NOBODY}:rwx", path)
    assert mode_of(path) == 0o670
    assert getfacl(path) == ["user::rw-", f"user:{NOBODY}:rwx", "group::r--", "mask::rwx", "other::---"]
    os.chmod(path, 0o600)
    assert getfacl(path) == ["user::rw-", f"user:{NOBODY}:rwx", "group::r--", "mask::---", "other::---"]
    assert not readable(path, NOBODY)
    setfacl("-m", "m::r", path)
    assert mode_of(path) == 0o640
    assert readable(path, NOBODY)


def test_an_acl_that_a_mode_can_say_is_a_mode(acl_place: Path) -> None:
    path = make(acl_place / "file", 0o600)
    setfacl("-m", "u::rwx,g::rx,o::x", path)
    assert mode_of(path) == 0o751
    assert os.listxattr(path) == []
    setfacl("-m", f"u:{NOBODY}:r", path)
    assert os.listxattr(path) == [ACCESS]
    setfacl("-b", path)
    assert os.listxattr(path) == []
    assert mode_of(path) == 0o751


def test_setting_an_acl_moves_ctime_only(acl_place: Path) -> None:
    path = make(acl_place / "file")
    os.utime(path, ns=(1, 1))
    before = path.stat()
    setfacl("-m", f"u:{NOBODY}:r", path)
    after = path.stat()
    assert (after.st_atime_ns, after.st_mtime_ns) == (1, 1)
    assert after.st_ctime_ns > before.st_ctime_ns


@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
def test_defaults_are_inherited_instead_of_the_umask(acl_place: Path, umask: int) -> None:
    top = acl_place / "top"
    top.mkdir(exist_ok=True)
    setfacl("-d", "-m", f"u::rwx,u:{NOBODY}:rwx,g::rx,m::rwx,o::-", top)
    old = os.umask(umask)
    try:
        (top / f"dir{umask}").mkdir()
        os.close(os.open(top / f"file{umask}", os.O_CREAT | os.O_WRONLY, 0o666))
        os.close(os.open(top / f"private{umask}", os.O_CREAT | os.O_WRONLY, 0o600))
        os.mkfifo(top / f"fifo{umask}", 0o664)
        os.symlink("x", top / f"link{umask}")
    finally:
        os.umask(old)
    entries = ["user::rwx", f"user:{NOBODY}:rwx", "group::r-x", "mask::rwx", "other::---"]
    assert getfacl(top / f"dir{umask}") == entries + [f"default:{entry}" for entry in entries]
    assert getfacl(top / f"file{umask}") == ["user::rw-", *entries[1:3], "mask::rw-", "other::---"]
    assert getfacl(top / f"private{umask}") == ["user::rw-", *entries[1:3], "mask::---", "other::---"]
    assert getfacl(top / f"fifo{umask}") == ["user::rw-", *entries[1:3], "mask::rw-", "other::---"]
    assert os.listxattr(top / f"link{umask}", follow_symlinks=False) == []
    assert [mode_of(top / f"{name}{umask}") for name in ("dir", "file", "private", "fifo", "link")] == [
        0o770, 0o660, 0o600, 0o660, 0o777
    ]  # fmt: skip


def test_minimal_defaults_leave_no_acl_on_files(acl_place: Path) -> None:
    top = acl_place / "top"
    top.mkdir()
    setfacl("-d", "-m", "u::rwx,g::rx,o::-", top)
    old = os.umask(0o077)
    try:
        os.close(os.open(top / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        (top / "dir").mkdir()
    finally:
        os.umask(old)
    assert (os.listxattr(top / "file"), mode_of(top / "file")) == ([], 0o640)
    assert (os.listxattr(top / "dir"), mode_of(top / "dir")) == ([DEFAULT], 0o750)


def test_without_defaults_the_umask_counts(acl_place: Path) -> None:
    setfacl("-m", f"u:{NOBODY}:rwx", acl_place)
    old = os.umask(0o027)
    try:
        (acl_place / "dir").mkdir()
        os.close(os.open(acl_place / "file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mknod(acl_place / "node", stat.S_IFREG | 0o666)
    finally:
        os.umask(old)
    assert [mode_of(acl_place / name) for name in ("dir", "file", "node")] == [0o750, 0o640, 0o640]
    setfacl("-b", acl_place)


def test_defaults_belong_to_directories(acl_place: Path) -> None:
    path = make(acl_place / "file")
    (acl_place / "dir").mkdir()
    setfacl("-d", "-m", f"u:{NOBODY}:rwx", acl_place / "dir")
    value = os.getxattr(acl_place / "dir", DEFAULT)
    with refused(errno.EACCES):
        os.setxattr(path, DEFAULT, value)
    assert mode_of(acl_place / "dir") == 0o755
    setfacl("-k", acl_place / "dir")
    assert os.listxattr(acl_place / "dir") == []


def test_nonsense_is_refused(acl_place: Path) -> None:
    path = make(acl_place / "file")
    for value in (b"x", bytes(4), bytes.fromhex("01000000"), bytes.fromhex("02000000 01000700 ffffffff")):
        with refused(errno.EINVAL, errno.EOPNOTSUPP):
            os.setxattr(path, ACCESS, value)
    assert mode_of(path) == 0o644


def test_symlinks_have_none(acl_place: Path) -> None:
    path = make(acl_place / "file")
    setfacl("-m", f"u:{NOBODY}:r", path)
    os.symlink("file", acl_place / "link")
    value = os.getxattr(path, ACCESS)
    with refused(errno.EOPNOTSUPP):
        os.setxattr(acl_place / "link", ACCESS, value, follow_symlinks=False)
    with refused(errno.EOPNOTSUPP, errno.ENODATA):
        os.getxattr(acl_place / "link", ACCESS, follow_symlinks=False)


def test_only_the_owner_sets_them(acl_place: Path) -> None:
    path = make(acl_place / "file", 0o666)
    other = make(acl_place / "other", 0o666)
    setfacl("-m", f"u:{NOBODY}:rw", other)
    value = os.getxattr(other, ACCESS)
    with pytest.raises(PermissionError):
        as_user(NOBODY, lambda: os.setxattr(path, ACCESS, value))
    os.chown(path, NOBODY, NOBODY)
    as_user(NOBODY, lambda: os.setxattr(path, ACCESS, value))
    assert os.getxattr(path, ACCESS) == value
    with pytest.raises(PermissionError):
        as_user(OTHER, lambda: os.removexattr(path, ACCESS))


def test_set_group_id_goes_when_an_outsider_sets_one(acl_place: Path) -> None:
    path, other = make(acl_place / "file"), make(acl_place / "other")
    setfacl("-m", f"u:{NOBODY}:rwx", other)
    value = os.getxattr(other, ACCESS)
    os.chown(path, NOBODY, GROUP)
    os.chmod(path, 0o2755)
    as_user(NOBODY, lambda: os.setxattr(path, ACCESS, value), groups=(GROUP,))
    assert mode_of(path) & 0o2000
    as_user(NOBODY, lambda: os.setxattr(path, ACCESS, value))
    assert not mode_of(path) & 0o2000
    os.chmod(path, 0o2755)
    os.setxattr(path, ACCESS, value)
    assert mode_of(path) & 0o2000


def test_large_ones(acl_place: Path) -> None:
    path = make(acl_place / "file")
    entries = ",".join(f"u:{10_000 + number}:r" for number in range(200))
    setfacl("-m", entries, path)
    assert len(getfacl(path)) == 204


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
def test_copies_keep_them(acl_place: Path) -> None:
    source = acl_place / "source"
    source.mkdir()
    setfacl("-m", f"u:{NOBODY}:rx", "-d", "-m", f"g:{GROUP}:rw", source)
    make(source / "inherits", 0o640)
    setfacl("-m", f"u:{OTHER}:r", make(source / "file", 0o600))
    subprocess.run(["cp", "-a", source, acl_place / "copied"], check=True)
    subprocess.run(["rsync", "-aAX", f"{source}/", acl_place / "synced"], check=True)
    for copy in ("copied", "synced"):
        for name in ("", "inherits", "file"):
            assert getfacl(acl_place / copy / name) == getfacl(source / name)
    again = subprocess.run(
        ["rsync", "-aAXi", f"{source}/", acl_place / "synced"], capture_output=True, text=True, check=True
    )
    assert again.stdout == ""
    subprocess.run(["tar", "--acls", "-cf", acl_place / "archive", "-C", source, "."], check=True)
    (acl_place / "untarred").mkdir()
    subprocess.run(["tar", "--acls", "-xpf", acl_place / "archive", "-C", acl_place / "untarred"], check=True)
    assert getfacl(acl_place / "untarred" / "file") == getfacl(source / "file")


def test_links_and_renames_keep_them(acl_place: Path) -> None:
    path = make(acl_place / "file", 0o600)
    setfacl("-m", f"u:{NOBODY}:r", path)
    os.link(path, acl_place / "link")
    os.rename(path, acl_place / "moved")
    assert getfacl(acl_place / "moved") == getfacl(acl_place / "link")
    assert readable(acl_place / "moved", NOBODY)


def test_without_the_option_they_are_kept_but_do_not_count(acl_tree: MountedTree) -> None:
    home = acl_tree.home
    path = make(acl_tree.path / "kept", 0o640)
    setfacl("-m", f"u:{NOBODY}:rw", path)
    acl_tree.unmount()
    plain = home.mount("home:", *mount_options())
    assert os.listxattr(plain.path / "kept") == []
    assert not readable(plain.path / "kept", NOBODY)
    for call in (lambda: os.getxattr(path, ACCESS), lambda: os.removexattr(path, ACCESS)):
        with refused(errno.EOPNOTSUPP):
            call()
    os.chmod(plain.path / "kept", 0o644)
    plain.unmount()
    home.mount("home:", *mount_options(), "-o", "acl")
    assert getfacl(path) == ["user::rw-", f"user:{NOBODY}:rw-", "group::r--", "mask::r--", "other::r--"]
