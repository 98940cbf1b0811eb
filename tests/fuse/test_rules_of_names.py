"""Rules of directories, names, links, renames and file handles, in the mount and on ext4, which judges the tests."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.errnos import refused
from tests.support.syscalls import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    DirectoryStream,
    file_handle,
    open_handle,
    rename2,
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_DAC_READ_SEARCH")


def at(spot: Path, name: bytes) -> bytes:
    return os.fsencode(spot) + b"/" + name


# --- what cannot be a name or a path ---------------------------------------------------------------------------


def test_paths_that_are_too_long(spot: Path) -> None:
    long = os.fsencode(spot) + b"/." * 2040 + b"/x"
    assert len(long) > 4096
    with refused(errno.ENAMETOOLONG):
        os.open(long, os.O_CREAT | os.O_WRONLY)
    fd = os.open(spot, os.O_RDONLY)
    for _ in range(40):
        os.mkdir("d" * 200, dir_fd=fd)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert os.listdir(fd) == ["deep"]
    os.close(fd)
    subprocess.run(["rm", "-r", spot / ("d" * 200)], check=True)


def test_the_dots(spot: Path) -> None:
    (spot / "dir").mkdir()
    for number, action in (
        (errno.EINVAL, lambda: os.rmdir(f"{spot}/dir/.")),
        (errno.ENOTEMPTY, lambda: os.rmdir(f"{spot}/dir/..")),
        (errno.EEXIST, lambda: os.mkdir(f"{spot}/dir/.")),
        (errno.EEXIST, lambda: os.symlink("x", f"{spot}/dir/..")),
        (errno.EBUSY, lambda: os.rename(f"{spot}/dir/.", spot / "new")),
        (errno.EBUSY, lambda: os.rename(spot / "dir", f"{spot}/dir/..")),
        (errno.EISDIR, lambda: os.unlink(f"{spot}/dir/.")),
    ):
        with refused(number):
            action()


def test_trailing_slashes(spot: Path) -> None:
    (spot / "file").touch()
    os.mkdir(f"{spot}/dir/")
    os.rename(f"{spot}/dir/", f"{spot}/moved/")
    for number, action in (
        (errno.ENOTDIR, lambda: os.stat(f"{spot}/file/")),
        (errno.ENOTDIR, lambda: os.unlink(f"{spot}/file/")),
        (errno.ENOTDIR, lambda: os.rename(f"{spot}/file/", spot / "x")),
        (errno.ENOTDIR, lambda: os.rename(spot / "file", f"{spot}/x/")),
        (errno.ENOENT, lambda: os.link(spot / "file", f"{spot}/x/")),
        (errno.ENOENT, lambda: os.symlink("y", f"{spot}/x/")),
    ):
        with refused(number):
            action()
    os.symlink("moved", spot / "link")
    assert stat.S_ISDIR(os.lstat(f"{spot}/link/").st_mode)
    os.rmdir(f"{spot}/moved/")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("é".encode(), "e\u0301".encode()),
        ("Å".encode(), "\u212b".encode()),
        ("ﬁ".encode(), b"fi"),
        (b"README", b"readme"),
        ("ß".encode(), b"ss"),
        ("가".encode(), "\u1100\u1161".encode()),
        (b"a", b"a "),
        (b"a", b"a."),
        (b"\xff", "ÿ".encode()),
        (b"\xc3", b"\xe9"),
    ],
)
def test_names_that_look_alike_are_two(spot: Path, one: bytes, other: bytes) -> None:
    for name in (one, other):
        with open(at(spot, name), "xb") as file:
            file.write(name)
    assert sorted(os.listdir(os.fsencode(spot))) == sorted([one, other])
    for name in (one, other):
        with open(at(spot, name), "rb") as file:
            assert file.read() == name
    os.rename(at(spot, one), at(spot, other))
    assert os.listdir(os.fsencode(spot)) == [other]
    with open(at(spot, one), "xb"):
        pass


def test_every_byte_but_two(spot: Path) -> None:
    names = [bytes([value]) for value in range(1, 256) if value not in b"./"]
    names += [b"x" + bytes([value]) + b"y" for value in range(1, 256) if value != ord("/")]
    for name in names:
        os.mknod(at(spot, name))
    assert sorted(os.listdir(os.fsencode(spot))) == sorted(names)
    for name in names:
        os.unlink(at(spot, name))


# --- directories -----------------------------------------------------------------------------------------------


def test_types_and_numbers_in_listings(spot: Path) -> None:
    (spot / "file").touch()
    (spot / "dir").mkdir()
    os.symlink("file", spot / "link")
    os.mkfifo(spot / "fifo")
    os.mknod(spot / "socket", stat.S_IFSOCK | 0o600)
    with os.scandir(spot) as entries:
        found = {entry.name: entry for entry in entries}
        assert found["file"].is_file(follow_symlinks=False)
        assert found["dir"].is_dir(follow_symlinks=False)
        assert found["link"].is_symlink()
        for entry in found.values():
            assert entry.inode() == os.lstat(entry.path).st_ino


def test_every_directory_lists_its_dots(spot: Path) -> None:
    (spot / "dir").mkdir()
    with DirectoryStream(spot / "dir") as stream:
        assert sorted(stream) == [b".", b".."]


def test_emptying_a_directory_while_it_is_read(spot: Path) -> None:
    for number in range(1200):
        os.mknod(spot / f"{number:05}")
    seen = set()
    with DirectoryStream(spot) as stream:
        for name in stream:
            if name not in (b".", b".."):
                seen.add(name)
                os.unlink(at(spot, name))
    assert len(seen) == 1200
    assert os.listdir(spot) == []


def test_a_position_in_a_directory_lasts(spot: Path) -> None:
    for number in range(500):
        os.mknod(spot / f"{number:05}")
    with DirectoryStream(spot) as stream:
        for _ in range(250):
            stream.read()
        mark, following = stream.tell(), stream.read()
        rest = list(stream)
        stream.seek(mark)
        assert stream.read() == following
        assert list(stream) == rest
        stream.rewind()
        assert len(list(stream)) == 502
    with DirectoryStream(spot) as other:
        other.seek(mark)
        assert other.read() == following


def test_a_rewound_stream_shows_what_is_new(spot: Path) -> None:
    with DirectoryStream(spot) as stream:
        assert len(list(stream)) == 2
        os.mknod(spot / "new")
        stream.rewind()
        assert sorted(stream) == [b".", b"..", b"new"]


def test_a_directory_that_was_removed_under_a_program(spot: Path) -> None:
    (spot / "dir").mkdir()
    script = (
        "import errno, os, sys\n"
        "os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "assert os.listdir('.') == [] and os.stat('.').st_nlink == 0\n"
        "for call in (os.getcwd, lambda: os.mkdir('x'), lambda: open('x', 'w'), lambda: os.symlink('a', 'b'),\n"
        "             lambda: os.stat('x'), lambda: os.rename('/etc/hostname', 'x')):\n"
        "    try: call()\n"
        "    except OSError as problem: assert problem.errno in (errno.ENOENT, errno.EXDEV), problem\n"
        "    else: raise AssertionError('no error')\n"
        "os.chmod('.', 0o700)\n"
        "os.stat('..')\n"
    )
    subprocess.run([sys.executable, "-c", script, spot / "dir"], check=True)


def test_links_of_a_directory_are_its_subdirectories(spot: Path) -> None:
    before = spot.stat().st_nlink
    for number in range(5):
        (spot / f"{number}").mkdir()
    assert spot.stat().st_nlink == before + 5
    os.rename(spot / "0", spot / "1" / "0")
    assert (spot.stat().st_nlink, (spot / "1").stat().st_nlink) == (before + 4, 3)
    rename2(spot / "2", spot / "1" / "0", RENAME_EXCHANGE)
    assert (spot.stat().st_nlink, (spot / "1").stat().st_nlink) == (before + 4, 3)
    os.rename(spot / "2", spot / "3")
    assert spot.stat().st_nlink == before + 3


# --- links -----------------------------------------------------------------------------------------------------


def test_names_of_one_file(spot: Path) -> None:
    (spot / "a").write_text("x")
    (spot / "dir").mkdir()
    for number in range(100):
        os.link(spot / "a", spot / "dir" / f"{number}")
    assert (spot / "a").stat().st_nlink == 101
    os.rename(spot / "dir" / "5", spot / "dir" / "6")  # two names of one file: nothing happens
    assert (spot / "a").stat().st_nlink == 101
    with open(spot / "dir" / "7", "a") as file:
        file.write("y")
    assert (spot / "dir" / "8").read_text() == "xy"
    assert len({path.stat() for path in (spot / "dir").iterdir()}) == 1
    rename2(spot / "dir" / "1", spot / "a", RENAME_EXCHANGE)
    assert (spot / "a").stat().st_nlink == 101
    for path in (spot / "dir").iterdir():
        path.unlink()
    assert (spot / "a").stat().st_nlink == 1


def test_what_can_have_several_names(spot: Path) -> None:
    os.symlink("target", spot / "symlink")
    os.mkfifo(spot / "fifo")
    for name in ("symlink", "fifo"):
        os.link(spot / name, spot / f"{name}2", follow_symlinks=False)
        assert os.path.samestat(os.lstat(spot / name), os.lstat(spot / f"{name}2"))
    (spot / "dir").mkdir()
    with refused(errno.EPERM):
        os.link(spot / "dir", spot / "dir2")


def test_symlinks(spot: Path) -> None:
    for length in (1, 59, 60, 100, 4000, 4095):
        os.symlink("t" * length, spot / f"{length}")
        assert os.readlink(spot / f"{length}") == "t" * length
        assert os.lstat(spot / f"{length}").st_size == length
    with refused(errno.ENAMETOOLONG):
        os.symlink("t" * 4096, spot / "long")
    with refused(errno.ENOENT):
        os.symlink("", spot / "empty")
    with refused(errno.EINVAL):
        os.readlink(spot)
    (spot / "0").touch()
    for number in range(41):
        os.symlink(f"chain{number - 1}" if number else "0", spot / f"chain{number}")
    assert (spot / "chain39").stat().st_size == 0
    with refused(errno.ELOOP):
        os.stat(spot / "chain40")


# --- renames ---------------------------------------------------------------------------------------------------


def test_what_replaces_what(spot: Path) -> None:
    def fresh(name: str) -> Path:
        subprocess.run(["rm", "-rf", spot / name], check=True)
        if name.startswith("dir"):
            (spot / name).mkdir()
        elif name.startswith("full"):
            (spot / name / "inner").mkdir(parents=True)
        else:
            (spot / name).write_text(name)
        return spot / name

    for old, new, number in (
        ("file1", "file2", 0),
        ("dir1", "dir2", 0),
        ("full1", "dir2", 0),
        ("dir1", "full2", errno.ENOTEMPTY),
        ("file1", "dir2", errno.EISDIR),
        ("file1", "full2", errno.EISDIR),
        ("dir1", "file2", errno.ENOTDIR),
    ):
        source, target = fresh(old), fresh(new)
        ino = source.stat().st_ino
        if number:
            with refused(number):
                os.rename(source, target)
            assert source.stat().st_ino == ino
        else:
            os.rename(source, target)
            assert (target.stat().st_ino, source.exists()) == (ino, False)


def test_renames_that_cannot_be(spot: Path) -> None:
    (spot / "a" / "b" / "c").mkdir(parents=True)
    cases: list[tuple[int, Callable[[], None]]] = [
        (errno.EINVAL, lambda: os.rename(spot / "a", spot / "a" / "new")),
        (errno.EINVAL, lambda: os.rename(spot / "a", spot / "a" / "b" / "c" / "new")),
        (errno.ENOTEMPTY, lambda: os.rename(spot / "a" / "b" / "c", spot / "a")),
        (errno.EINVAL, lambda: rename2(spot / "a", spot / "a" / "b", RENAME_EXCHANGE)),
        (errno.EINVAL, lambda: rename2(spot / "a" / "b", spot / "a", RENAME_EXCHANGE)),
        (errno.EEXIST, lambda: rename2(spot / "a", spot / "a", RENAME_NOREPLACE)),
        (errno.ENOENT, lambda: rename2(spot / "a", spot / "nothing", RENAME_EXCHANGE)),
        (errno.EINVAL, lambda: rename2(spot / "a", spot / "x", RENAME_EXCHANGE | RENAME_NOREPLACE)),
    ]
    for number, action in cases:
        with refused(number):
            action()
    os.rename(spot / "a", spot / "a")
    assert (spot / "a" / "b" / "c").is_dir()


def test_what_a_rename_changes(spot: Path) -> None:
    for name in ("from", "to"):
        (spot / name).mkdir()
    (spot / "from" / "file").write_text("x")
    (spot / "to" / "file").write_text("y")
    with open(spot / "to" / "file") as old:
        for path in (spot / "from", spot / "to", spot / "from" / "file"):
            os.utime(path, ns=(1, 1))
        before = (spot / "from" / "file").stat()
        old_before = os.fstat(old.fileno())
        os.rename(spot / "from" / "file", spot / "to" / "file")
        after = (spot / "to" / "file").stat()
        assert (after.st_mtime_ns, after.st_ino, after.st_mode) == (1, before.st_ino, before.st_mode)
        assert after.st_ctime_ns > before.st_ctime_ns
        assert (spot / "from").stat().st_mtime_ns > 1
        assert (spot / "to").stat().st_mtime_ns > 1
        replaced = os.fstat(old.fileno())
        assert replaced.st_nlink == 0
        assert replaced.st_ctime_ns > old_before.st_ctime_ns
        assert old.read() == "y"


def test_an_exchange_is_one_step(spot: Path) -> None:
    (spot / "a").write_text("a")
    (spot / "b").mkdir()
    (spot / "b" / "inner").touch()
    numbers = [(spot / name).stat().st_ino for name in "ab"]
    rename2(spot / "a", spot / "b", RENAME_EXCHANGE)
    assert [(spot / name).stat().st_ino for name in "ba"] == numbers
    assert (spot / "a" / "inner").exists()


def test_readers_see_the_old_file_or_the_new_one(spot: Path) -> None:
    """However fast files are replaced, a name is never missing and a content never half."""
    target = spot / "target"
    target.write_text("0" * 1000)
    script = (
        "import os, sys\n"
        "for n in range(1, 200):\n"
        "    with open(sys.argv[1] + '.new', 'w') as f: f.write(str(n % 10) * 1000)\n"
        "    os.rename(sys.argv[1] + '.new', sys.argv[1])\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, target]) as process:
        while process.poll() is None:
            text = target.read_text()
            assert (len(text), len(set(text))) == (1000, 1)
    assert process.returncode == 0


def test_an_exchange_never_leaves_a_name_out(spot: Path) -> None:
    for name in ("a", "b"):
        (spot / name).write_text(name)
    script = (
        "import ctypes, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "for n in range(200): assert libc.renameat2(-100, sys.argv[1].encode(), -100, sys.argv[2].encode(), 2) == 0\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, spot / "a", spot / "b"]) as process:
        while process.poll() is None:
            assert sorted(os.listdir(spot)) == ["a", "b"]
            assert (spot / "a").read_text() in ("a", "b")
    assert process.returncode == 0
    assert (spot / "a").read_text() == "a"


def test_a_renamed_directory_is_where_it_says(spot: Path) -> None:
    (spot / "a" / "b").mkdir(parents=True)
    (spot / "c").mkdir()
    fd = os.open(spot / "a" / "b", os.O_RDONLY)
    os.rename(spot / "a" / "b", spot / "c" / "d")
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    assert (spot / "c" / "d" / "new").exists()
    assert os.stat("..", dir_fd=fd).st_ino == (spot / "c").stat().st_ino
    assert os.readlink(f"/proc/self/fd/{fd}").endswith("/c/d")
    os.close(fd)


# --- numbers and handles ---------------------------------------------------------------------------------------


def test_inode_numbers_stay_and_are_unique(spot: Path) -> None:
    numbers = {}
    for number in range(300):
        (spot / f"{number}").touch()
        numbers[f"{number}"] = (spot / f"{number}").stat().st_ino
    assert len(set(numbers.values())) == 300
    for number in range(100):
        os.rename(spot / f"{number}", spot / f"moved{number}")
        assert (spot / f"moved{number}").stat().st_ino == numbers[f"{number}"]
    (spot / "150").write_text("content")
    os.chmod(spot / "150", 0o600)
    assert (spot / "150").stat().st_ino == numbers["150"]
    assert len({path.stat().st_dev for path in spot.iterdir()}) == 1


@as_root
def test_handles(spot: Path) -> None:
    (spot / "dir" / "inner").mkdir(parents=True)
    (spot / "dir" / "file").write_text("content")
    os.symlink("file", spot / "dir" / "link")
    handles = {name: file_handle(spot / "dir" / name) for name in ("file", "inner", "link")}
    fd = open_handle(spot, handles["file"], os.O_RDWR)
    assert os.read(fd, 100) == b"content"
    os.close(fd)
    fd = open_handle(spot, handles["inner"], os.O_RDONLY)
    assert os.stat("..", dir_fd=fd).st_ino == (spot / "dir").stat().st_ino
    os.close(fd)
    fd = open_handle(spot, handles["link"], os.O_PATH | os.O_NOFOLLOW)
    assert os.readlink("", dir_fd=fd) == "file"
    os.close(fd)
    os.rename(spot / "dir" / "file", spot / "moved")
    fd = open_handle(spot, handles["file"], os.O_RDONLY)
    assert os.fstat(fd).st_ino == (spot / "moved").stat().st_ino
    os.close(fd)
    (spot / "moved").unlink()
    with refused(errno.ESTALE):
        open_handle(spot, handles["file"], os.O_RDONLY)


@as_root
def test_handles_outlive_the_kernels_caches(spot: Path) -> None:
    (spot / "a" / "b" / "c").mkdir(parents=True)
    (spot / "a" / "b" / "c" / "file").write_text("content")
    handles = [file_handle(spot / path) for path in ("a", "a/b", "a/b/c", "a/b/c/file")]
    for _ in range(3):
        Path("/proc/sys/vm/drop_caches").write_text("2")
    for handle in reversed(handles):
        os.close(open_handle(spot, handle, os.O_RDONLY))
    fd = open_handle(spot, handles[3], os.O_RDONLY)
    assert os.read(fd, 100) == b"content"
    os.close(fd)
