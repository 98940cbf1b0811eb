"""Programs that people use notice no difference. `make posix` runs these, `make test` does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.fuse.conftest import remount
from tests.support.mounts import MountedTree
from tests.support.programs import needs, run
from tests.support.snapshots import differences, snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GIT = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]


@pytest.fixture
def zoo(place: Path) -> Path:
    """A directory with a bit of everything, on the local disk's terms."""
    top = place / "zoo"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir()
    for size in (0, 1, 55, 56, 5000, 300_000):
        (top / f"file-{size}").write_bytes(os.urandom(size))
        os.utime(top / f"file-{size}", ns=(size, 1_500_000_000_123_456_789 + size))
    (top / "deep" / "er" / "script").write_text("#!/bin/sh\n")
    os.chmod(top / "deep" / "er" / "script", 0o755)
    os.link(top / "file-5000", top / "deep" / "linked")
    os.symlink("../file-1", top / "deep" / "symlink")
    os.mkfifo(top / "fifo")
    with open(os.fsencode(top) + b"/latin-\xe9", "wb") as file:
        file.write(b"x")
    os.setxattr(top / "file-1", "user.kind", b"\0\1\2")
    with open(top / "sparse", "wb") as sparse:
        os.pwrite(sparse.fileno(), b"end", 3 << 20)
    if os.geteuid() == 0:
        os.chown(top / "file-56", 1234, 5678)
        os.mknod(top / "null", 0o020666, os.makedev(1, 3))
        os.chmod(top / "file-55", 0o4755)
    return top


# --- version control ---------------------------------------------------------------------------------------


@needs("git")
def test_git(place: Path, tree: MountedTree) -> None:
    work = place / "work"
    work.mkdir()
    run(*GIT, "init", "-q", "-b", "main", cwd=work)
    for round_ in range(3):
        for number in range(60):
            path = work / f"d{number % 7}" / f"file{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{round_} {number}\n" * number)
        run(*GIT, "add", "-A", cwd=work)
        run(*GIT, "commit", "-q", "-m", f"round {round_}", cwd=work)
    assert run(*GIT, "status", "--porcelain", cwd=work) == ""
    run(*GIT, "checkout", "-q", "-b", "other", "HEAD~1", cwd=work)
    (work / "d0" / "new").write_text("new")
    run(*GIT, "add", "-A", cwd=work)
    run(*GIT, "commit", "-q", "-m", "on a branch", cwd=work)
    run(*GIT, "merge", "-q", "-m", "merged", "main", cwd=work)
    run(*GIT, "gc", "-q", "--aggressive", "--prune=now", cwd=work)
    run(*GIT, "clone", "-q", "--local", work, place / "clone", cwd=place)
    run(*GIT, "worktree", "add", "-q", place / "tree", "main", cwd=work)
    for repository in (work, place / "clone", place / "tree"):
        run(*GIT, "fsck", "--full", "--strict", cwd=repository)
        assert run(*GIT, "status", "--porcelain", cwd=repository) == ""
    remount(tree)
    for repository in (work, place / "clone"):
        run(*GIT, "fsck", "--full", "--strict", cwd=repository)
        assert run(*GIT, "status", "--porcelain", cwd=repository) == ""


# --- copies ------------------------------------------------------------------------------------------------


@needs("rsync")
def test_rsync_twice_finds_nothing_the_second_time(place: Path, zoo: Path, tmp_path: Path) -> None:
    options = "-aHAX" if shutil.which("getfacl") else "-aHX"
    for source, target in ((zoo, tmp_path / "out"), (tmp_path / "out", place / "back")):
        command = ["rsync", options, "--itemize-changes", f"{source}/", f"{target}/"]
        assert run(*command, cwd=place) != ""
        assert run(*command, cwd=place) == ""
        assert run(*command, "--checksum", "--delete", cwd=place) == ""


@needs("rsync")
def test_rsync_sees_what_changed(place: Path, zoo: Path, tree: MountedTree) -> None:
    target = place / "copy"
    command = ["rsync", "-aHX", "--itemize-changes", "--delete", f"{zoo}/", f"{target}/"]
    run(*command, cwd=place)
    remount(tree)
    assert run(*command, cwd=place) == ""
    (zoo / "file-1").write_bytes(b"y")
    (zoo / "file-0").unlink()
    out = run(*command, cwd=place)
    assert "file-1" in out
    assert ["*deleting", "file-0"] in [line.split() for line in out.splitlines()]
    run("rsync", "-a", "--inplace", "--append-verify", zoo / "file-300000", place, cwd=place)


def test_cp_and_diff(place: Path, zoo: Path) -> None:
    run("cp", "-a", zoo, place / "copy", cwd=place)
    kept = ("mode", "uid", "gid", "mtime", "nlink", "size", "rdev", "xattrs", "content")
    before, after = snapshot(zoo), snapshot(place / "copy")
    for path, seen in before.items():
        assert all(getattr(seen, field) == getattr(after[path], field) for field in kept), path
    for special in ("fifo", "null"):  # which diff takes for different things
        (zoo / special).unlink(missing_ok=True)
        (place / "copy" / special).unlink(missing_ok=True)
    run("diff", "-r", "--no-dereference", zoo, place / "copy", cwd=place)


def test_tar_round_trip(place: Path, zoo: Path) -> None:
    options = ["--xattrs", "--xattrs-include=*", "--sparse", "--format=posix"]
    run("tar", "-cf", place / "zoo.tar", *options, "-C", zoo, ".", cwd=place)
    (place / "out").mkdir()
    run("tar", "-xpf", place / "zoo.tar", *options, "-C", place / "out", cwd=place)
    run("tar", "-df", place / "zoo.tar", *options, "-C", place / "out", cwd=place)
    kept = ("mode", "uid", "gid", "mtime", "nlink", "size", "rdev", "xattrs", "content")
    before, after = snapshot(zoo), snapshot(place / "out")
    assert before.keys() == after.keys()
    for path, seen in before.items():
        assert all(getattr(seen, field) == getattr(after[path], field) for field in kept), path


def test_find_and_du(place: Path, zoo: Path) -> None:
    assert set(run("find", ".", "-type", "f", "-links", "2", cwd=zoo).split()) == {
        "./file-5000",
        "./deep/linked",
    }
    assert run("find", ".", "-newermt", "2038-01-01", "-name", "file*", cwd=zoo) == ""
    assert run("find", "/proc/self/cwd/", "-inum", str((zoo / "fifo").stat().st_ino), cwd=zoo).strip()
    apparent = int(run("du", "-s", "--apparent-size", "-B1", ".", cwd=zoo).split()[0])
    assert apparent > 3 << 20
    assert (
        int(run("du", "-s", "-B1", ".", cwd=zoo).split()[0]) < apparent
    )  # the sparse file takes nothing yet


# --- editors, builds, packages --------------------------------------------------------------------------------


@needs("vim")
@pytest.mark.parametrize("backupcopy", ["yes", "no"])
def test_vim_saves(place: Path, backupcopy: str) -> None:
    path = place / "text"
    path.write_text("first line\n")
    os.chmod(path, 0o640)
    script = [
        f"+set backupcopy={backupcopy} backup backupskip=",
        "+s/first/changed/",
        "+normal oadded",
        "+wq",
    ]
    run("vim", "-N", "-u", "NONE", "-i", "NONE", "-es", *script, path, cwd=place)
    assert path.read_text() == "changed line\nadded\n"
    assert (place / "text~").read_text() == "first line\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert not list(place.glob(".*.sw*"))


@needs("make")
@needs("gcc")
def test_make_builds_what_is_out_of_date_and_no_more(place: Path) -> None:
    units = 8
    for number in range(units):
        (place / f"unit{number}.c").write_text(
            f'#include "all.h"\nint unit{number}(void) {{ return {number}; }}\n'
        )
    calls = " + ".join(f"unit{number}()" for number in range(units))
    (place / "all.h").write_text("\n".join(f"int unit{number}(void);" for number in range(units)) + "\n")
    (place / "main.c").write_text(f'#include "all.h"\nint main(void) {{ return {calls}; }}\n')
    (place / "Makefile").write_text(
        "objects := main.o $(patsubst %.c,%.o,$(wildcard unit*.c))\n"
        "program: $(objects)\n\tgcc -o $@ $^\n%.o: %.c all.h\n\tgcc -c -o $@ $<\n"
    )
    assert run("make", "-j4", cwd=place).count("gcc") == units + 2
    assert subprocess.run([place / "program"], check=False).returncode == sum(range(units))
    assert "gcc" not in run("make", "-j4", cwd=place)
    (place / "unit3.c").write_text('#include "all.h"\nint unit3(void) { return 30; }\n')
    assert run("make", "-j4", cwd=place).count("gcc") == 2
    assert subprocess.run([place / "program"], check=False).returncode == sum(range(units)) + 27


@needs("dpkg-deb")
@pytest.mark.skipif(os.geteuid() != 0, reason="dpkg needs root")
def test_dpkg_installs_upgrades_and_removes(place: Path) -> None:
    root = place / "root"
    for directory in ("info", "updates"):
        (root / "var/lib/dpkg" / directory).mkdir(parents=True)
    (root / "var/lib/dpkg/status").touch()
    dpkg = ["dpkg", f"--root={root}", "--force-script-chrootless", "--force-depends", "--no-triggers"]
    for version in ("1", "2"):
        source = place / f"package-{version}"
        (source / "DEBIAN").mkdir(parents=True)
        (source / "usr/share/thing").mkdir(parents=True)
        control = f"Package: thing\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\n"
        (source / "DEBIAN/control").write_text(control + "Description: thing\n")
        for number in range(30):
            (source / "usr/share/thing" / f"{number}").write_text(version * number)
        os.link(source / "usr/share/thing/5", source / "usr/share/thing/linked")
        run("dpkg-deb", "--root-owner-group", "-b", source, place / f"thing-{version}.deb", cwd=place)
        run(*dpkg, "-i", place / f"thing-{version}.deb", cwd=place)
        assert (root / "usr/share/thing/linked").read_text() == version * 5
        assert "Status: install ok installed" in run(*dpkg, "-s", "thing", cwd=place)
    run(*dpkg, "-P", "thing", cwd=place)
    assert not (root / "usr/share/thing").exists()


def test_everything_again_after_a_remount(tree: MountedTree, zoo: Path) -> None:
    with tarfile.open(zoo / "archive.tar", "w") as archive:
        archive.add(zoo / "deep", "deep")
    before = snapshot(zoo)
    remount(tree)
    assert differences(before, snapshot(zoo)) == []
