"""lafsfs attach and lafsfs cap on real mounts, and what the extended attributes tell of the same objects."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lafsfs.config import Paths
from lafsfs.daemon import client
from lafsfs.errors import BadCapError, LafsError, ReadOnlyError, UnknownAliasError, UsageError
from lafsfs.formats import base32
from lafsfs.formats.caps import DirCap, MutableWriteCap, UnknownCap, parse
from tests.support.errnos import refused
from tests.support.mounts import LafsfsHome, MountedTree, processes_of, wait_until
from tests.support.users import NOBODY, as_user

pytestmark = pytest.mark.timeout(180)

NAMES = ("cap", "readcap", "verifycap", "kind", "si", "seqnum")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")


def attribute(path: Path, name: str) -> str:
    """The value of `user.lafs.NAME`."""
    return os.getxattr(path, f"user.lafs.{name}").decode()


def ask(home: LafsfsHome, operation: str, path: Path, **arguments: object) -> dict[str, Any]:
    """What the command of that name asks the mount, without the time that starting a command takes."""
    mount, below = client.find(Paths.discover(home.environment), str(path))
    with mount:
        return mount.request(operation, path=os.fsdecode(below), **arguments)


def cap_of(tree: MountedTree, path: Path, kind: str = "write") -> str:
    return str(ask(tree.home, "cap", path, kind=kind)["cap"])


def test_attach_in_every_way(home: LafsfsHome) -> None:
    shared = home.create("shared")
    home.create()
    with home.mounted("shared:") as tree:
        (tree.path / "docs").mkdir()
        (tree.path / "docs" / "file").write_text("theirs")
    (home.directory / "cap").write_text(shared + "\n")
    tree = home.mount("home:", "-o", "publish_delay=3600")
    for name, what, options, stdin, inside in (
        ("stdin", "-", (), shared, "docs/file"),
        ("alias", f"@{home.directory}/cap", (), "", "docs/file"),
        ("below", "shared:docs", (), "", "file"),
        ("a-file", "shared:docs/file", (), "", ""),
        ("without-writing", "shared:", ("--read-only",), "", "docs/file"),
    ):
        done = home.lafsfs("attach", *options, what, str(tree.path / name), stdin=stdin)
        assert "URI" not in done.stderr + done.stdout
        assert (tree.path / name / inside).read_text() == "theirs"
    home.lafsfs("attach", "imm.future:2", str(tree.path / "future2"))
    (tree.path / "alias" / "docs" / "new").write_text("ours")
    with refused(errno.EROFS):
        (tree.path / "without-writing" / "docs" / "new").write_text("")
    tree.kill()  # nothing of this is on the grid yet
    tree = home.mount("home:")
    assert cap_of(tree, tree.path / "stdin") == shared
    assert cap_of(tree, tree.path / "without-writing").startswith("URI:DIR2-RO:")
    tree.unmount()
    shutil.rmtree(home.path / "state")
    with home.mounted("home:") as tree:
        assert (tree.path / "stdin" / "docs" / "new").read_text() == "ours"
        assert len(list(tree.path.iterdir())) == 6
        assert cap_of(tree, tree.path / "future2") == "imm.future:2"


def test_attach_refuses(home: LafsfsHome) -> None:
    cap = home.create()
    known = parse(cap)
    assert isinstance(known, DirCap)
    verifier = known.verify_cap()
    assert verifier is not None
    with home.mounted("home:") as tree:
        (tree.path / "there").write_text("")
        (tree.path / "dir").mkdir()

        def refusal(exit_code: int, text: str, path: Path = tree.path / "new") -> str:
            with pytest.raises(LafsError) as caught:
                ask(home, "attach", path, cap=text)
            assert caught.value.exit_code == exit_code
            secret = text.split(":")[2] if text.count(":") > 2 else "?"
            assert secret not in str(caught.value)
            assert "unexpected" not in str(caught.value)
            return str(caught.value)

        literal = "URI:LIT:nfxca5dimuqggylq"
        assert "well-formed" in refusal(3, cap[:-1])
        assert "verify cap" in refusal(3, verifier.to_string())
        assert "of a kind" in refusal(3, "lafs://from-the-future")
        assert "inside itself" in refusal(2, cap, tree.path / "dir" / "loop")
        assert "File exists" in refusal(2, literal, tree.path / "there")
        assert "File exists" in refusal(2, literal, tree.path)
        assert "File name too long" in refusal(2, literal, tree.path / ("n" * 256))
        assert "No such file" in refusal(4, literal, tree.path / "missing" / "new")
        assert "Not a directory" in refusal(4, literal, tree.path / "there" / "new")
        assert "not in a mounted" in refusal(8, literal, home.directory / "elsewhere")
        done = home.lafsfs("attach", "-", str(tree.path / "new"), stdin=cap[:-1], exit_code=3)
        assert "well-formed" in done.stderr
        assert cap.split(":")[2] not in done.stderr
        home.lafsfs("attach", "nowhere:", str(tree.path / "new"), exit_code=4)
        home.lafsfs("attach", "home:missing", str(tree.path / "new"), exit_code=4)
        assert {path.name for path in tree.path.iterdir()} == {"there", "dir"}
    with home.mounted("home:", "-o", "ro") as tree, pytest.raises(ReadOnlyError):
        ask(home, "attach", tree.path / "new", cap=literal)


def test_an_attached_cap_is_seen_nowhere(home: LafsfsHome) -> None:
    shared = home.create("shared")
    home.create()
    secret = shared.split(":")[2].encode()
    with home.mounted("home:") as tree:
        home.lafsfs("attach", shared, str(tree.path / "shared"))
        for pid in processes_of(home.directory):
            assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()
        tree.flush()
        for path in [*(home.path / "state").rglob("*"), *(home.path / "cache").rglob("*")]:
            assert not path.is_file() or secret not in path.read_bytes(), path


def test_attributes_and_commands_agree(home: LafsfsHome) -> None:
    shared = home.create("shared")
    home.create()
    with home.mounted("home:") as tree:
        (tree.path / "large").write_bytes(os.urandom(5000))
        (tree.path / "small").write_text("in the cap")
        (tree.path / "dir").mkdir()
        ask(home, "attach", tree.path / "shared", cap=shared)
        ask(home, "attach", tree.path / "read", cap=shared, read_only=True)
        ask(home, "attach", tree.path / "future", cap="ro.future:1")
        tree.flush()
        kinds = {
            "large": "CHK",
            "small": "LIT",
            "dir": "DIR2",
            "shared": "DIR2",
            "read": "DIR2-RO",
            "future": "unknown",
            "": "DIR2",
        }
        for name, kind in kinds.items():
            path = tree.path / name
            assert attribute(path, "kind") == kind
            assert attribute(path, "cap") == cap_of(tree, path)
            assert attribute(path, "readcap") == cap_of(tree, path, "read")
            cap = parse(attribute(path, "cap"))
            if isinstance(cap, UnknownCap) or cap.storage_index is None:
                for missing in ("verifycap", "si", "seqnum"):
                    with refused(errno.ENODATA):
                        attribute(path, missing)
                with pytest.raises(BadCapError):
                    cap_of(tree, path, "verify")
                continue
            assert attribute(path, "verifycap") == cap_of(tree, path, "verify")
            assert attribute(path, "si") == base32.encode(cap.storage_index)
            if cap.is_mutable:
                assert int(attribute(path, "seqnum")) >= 1
        assert attribute(tree.path / "shared", "cap") == shared
        before = int(attribute(tree.path / "dir", "seqnum"))
        (tree.path / "dir" / "new").touch()
        tree.flush()
        assert int(attribute(tree.path / "dir", "seqnum")) == before + 1


def test_mutable_files(home: LafsfsHome) -> None:
    directory = parse(home.create())
    with home.mounted("home:") as tree:
        assert isinstance(directory, DirCap)
        assert isinstance(directory.file, MutableWriteCap)
        # A directory's bytes are those of a file.
        ask(home, "attach", tree.path / "rw", cap=directory.file.to_string())
        ask(home, "attach", tree.path / "ro", cap=directory.file.read_cap().to_string())
        assert attribute(tree.path / "rw", "kind") == "SSK"
        assert attribute(tree.path / "ro", "kind") == "SSK-RO"
        for name in ("rw", "ro"):
            assert attribute(tree.path / name, "seqnum") == attribute(tree.path, "seqnum")
            assert attribute(tree.path / name, "si") == attribute(tree.path, "si")
            assert cap_of(tree, tree.path / name, "verify").startswith("URI:SSK-Verifier:")
        assert cap_of(tree, tree.path / "ro") == directory.file.read_cap().to_string()
        with refused(errno.EROFS):
            (tree.path / "ro").write_text("")


def test_what_is_not_on_the_grid_has_no_attributes_yet(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:", "-o", "publish_delay=3600") as tree:
        (tree.path / "new").write_bytes(os.urandom(5000))
        (tree.path / "dir").mkdir()
        for name in NAMES:
            for path in (tree.path / "new", tree.path / "dir"):
                with refused(errno.ENODATA):
                    attribute(path, name)
        first = cap_of(tree, tree.path / "new")  # which publishes it
        assert attribute(tree.path / "new", "cap") == first
        with (tree.path / "new").open("r+b") as file:
            file.write(b"changed")
        with refused(errno.ENODATA):
            attribute(tree.path / "new", "readcap")
        assert cap_of(tree, tree.path / "new") != first


def test_attributes_cannot_be_set_and_are_not_copied(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        (tree.path / "file").write_bytes(os.urandom(5000))
        (tree.path / "dir").mkdir()
        os.setxattr(tree.path / "file", "user.mine", b"1")
        tree.flush()
        for path in (tree.path / "file", tree.path / "dir"):
            for name in NAMES:
                with refused(errno.EPERM):
                    os.setxattr(path, f"user.lafs.{name}", b"x")
                with refused(errno.EPERM):
                    os.removexattr(path, f"user.lafs.{name}")
            with refused(errno.EOPNOTSUPP):
                os.setxattr(path, "user.lafs.other", b"x")
        assert os.listxattr(tree.path / "file") == ["user.mine"]
        subprocess.run(["cp", "-a", tree.path / "file", tree.path / "dir", home.directory], check=True)
        subprocess.run(["cp", "-a", tree.path / "file", tree.path / "copy"], check=True)
        assert os.getxattr(tree.path / "copy", "user.mine") == b"1"
        assert os.listxattr(tree.path / "copy") == ["user.mine"]


@as_root
def test_the_write_cap_is_for_the_owner_of_the_mount(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:", "-o", "allow_other") as tree:
        os.chmod(home.directory, 0o755)
        (tree.path / "file").write_bytes(os.urandom(5000))
        (tree.path / "dir").mkdir()
        tree.flush()
        for path, hidden in ((tree.path / "file", {"cap"}), (tree.path / "dir", {"cap", "readcap"})):
            mine = {name: attribute(path, name) for name in ("cap", "readcap", "verifycap", "kind", "si")}

            def theirs(path: Path = path, hidden: set[str] = hidden) -> dict[str, str]:
                for name in hidden:
                    with refused(errno.EPERM):
                        attribute(path, name)
                return {name: attribute(path, name) for name in {*NAMES[:5]} - hidden}

            assert as_user(NOBODY, theirs) == {name: mine[name] for name in {*mine} - hidden}
        (tree.path / "file").chmod(0o600)
        with refused(errno.EACCES):
            as_user(NOBODY, lambda: attribute(tree.path / "file", "readcap"))


def test_formats_of_new_objects(home: LafsfsHome) -> None:
    cap = home.lafsfs("create", "--format", "mdmf", "--show-cap").stdout.strip()
    assert cap.startswith("URI:DIR2-MDMF:")
    with home.mounted("home:", "-o", "new_files=mdmf") as tree:
        (tree.path / "dir").mkdir()
        (tree.path / "large").write_bytes(b"1" * 300_000)
        (tree.path / "small").write_text("1")
        os.setxattr(tree.path / "dir", "user.lafs.new_files", b"chk")
        (tree.path / "dir" / "file").write_bytes(b"1" * 300_000)
        with refused(errno.EINVAL):
            os.setxattr(tree.path / "dir", "user.lafs.new_files", b"other")
        tree.flush()
        assert attribute(tree.path / "dir", "kind") == "DIR2-MDMF"
        assert attribute(tree.path / "dir" / "file", "kind") == "CHK"
        for name in ("large", "small"):
            before = cap_of(tree, tree.path / name)
            assert before.startswith("URI:MDMF:")
            with (tree.path / name).open("r+b") as file:
                file.write(b"2")
            assert cap_of(tree, tree.path / name) == before
            assert attribute(tree.path / name, "seqnum") == "2"
        subprocess.run(["cp", "-a", tree.path / "dir", tree.path / "copy"], check=True)
        assert os.getxattr(tree.path / "copy", "user.lafs.new_files") == b"chk"
    home.lafsfs("mount", "-o", "new_files=ssk", "home:", str(home.mountpoint()), exit_code=2)


def test_seal_and_detach(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        top = tree.path / "top"
        (top / "deep").mkdir(parents=True)
        (top / "deep" / "file").write_bytes(b"sealed" * 1000)
        os.link(top / "deep" / "file", tree.path / "outside")
        reading = (top / "deep" / "file").open("rb")
        directory = os.open(top / "deep", os.O_RDONLY | os.O_DIRECTORY)
        with (top / "deep" / "new").open("w") as file:
            file.write("x")
            file.flush()
            assert "new is open" in home.lafsfs("seal", str(top), exit_code=7).stderr
        done = home.lafsfs("seal", "--show-cap", str(top))
        cap = done.stdout.strip()
        assert cap.startswith("URI:DIR2-CHK:")
        assert "2 directories" in done.stderr
        assert cap not in done.stderr
        assert attribute(top, "cap") == cap
        assert attribute(top / "deep", "kind") == "DIR2-CHK"
        assert reading.read() == b"sealed" * 1000
        reading.close()
        assert os.listdir(directory) == ["file", "new"]
        for change in (
            lambda: os.open("more", os.O_CREAT | os.O_WRONLY, dir_fd=directory),
            lambda: os.unlink("file", dir_fd=directory),
            lambda: os.chmod(top / "deep", 0o700),
            lambda: (top / "deep" / "file").write_text(""),
            lambda: os.link(top / "deep" / "file", tree.path / "link"),
            lambda: os.rename(top / "deep", tree.path / "deep"),
        ):
            with refused(errno.EROFS):
                change()
        os.close(directory)
        assert (tree.path / "outside").stat().st_nlink == 1
        (tree.path / "outside").write_text("goes on")
        with pytest.raises(UsageError):
            ask(home, "seal", tree.path)
        with pytest.raises(UsageError):
            ask(home, "seal", tree.path / "outside")
        with pytest.raises(UnknownAliasError):
            ask(home, "seal", tree.path / "missing")
        os.rename(top, tree.path / "renamed")
        ask(home, "attach", tree.path / "twin", cap=cap)
        home.lafsfs("detach", str(tree.path / "renamed"))
        home.lafsfs("detach", str(tree.path / "missing"), exit_code=4)
        assert sorted(os.listdir(tree.path)) == ["outside", "twin"]
        assert (tree.path / "twin" / "deep" / "file").read_bytes() == b"sealed" * 1000
    shutil.rmtree(home.path / "state")
    with home.mounted(cap, name="sealed") as tree:
        assert tree.status()["read_only"] is True
        assert (tree.path / "deep" / "new").read_text() == "x"


def test_leases_are_renewed_and_status_tells(home: LafsfsHome) -> None:
    home.create()
    with home.mounted("home:") as tree:
        (tree.path / "dir").mkdir()
        (tree.path / "dir" / "file").write_bytes(os.urandom(5000))
    with home.mounted("home:", "-o", "leases=1") as tree:
        wait_until(lambda: tree.status()["leases"]["finished"], what="the renewal of leases")
        assert tree.status()["leases"]["last"] == {"renewed": 3, "lost": 0, "missed": 0}
        assert "leases    of 3 objects renewed at" in home.lafsfs("status", str(tree.path)).stdout
        metrics = home.lafsfs("status", "--metrics", str(tree.path)).stdout
        assert f'lafsfs_leases_lost{{mountpoint="{tree.path}"}} 0.0' in metrics
        assert "lafsfs_leases_renewed_timestamp_seconds" in metrics
    with home.mounted("home:", "-o", "leases=off") as tree:
        assert tree.status()["leases"]["state"] == "off"
        assert "renewal is off" in home.lafsfs("status", str(tree.path)).stdout
