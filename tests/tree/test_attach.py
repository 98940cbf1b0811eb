"""Capabilities of others get a name in the tree, and what is read-only stays as it is."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lafsfs.errors import BadCapError
from lafsfs.formats.caps import (
    ChkCap,
    ChkVerifyCap,
    DirCap,
    LiteralCap,
    MutableWriteCap,
    UnknownCap,
    parse,
)
from lafsfs.formats.dirnode import Packed, make_entry
from lafsfs.nodes.maker import NodeMaker
from lafsfs.transfer.encoding import BytesContents
from lafsfs.tree.attaching import caps_to_attach
from lafsfs.tree.namespace import RENAME_EXCHANGE
from tests.support.errnos import refused
from tests.support.trees import EAGER, Files, left_in, new_root, opened

WRITE = MutableWriteCap(b"w" * 16, b"f" * 32, mdmf=False)
CHK = ChkCap(b"k" * 16, b"u" * 32, 3, 10, 5000)


# --- which capabilities ----------------------------------------------------------------------------------


def test_known_capabilities_become_what_directories_hold() -> None:
    assert caps_to_attach(WRITE.to_bytes()) == (WRITE.to_bytes(), WRITE.read_cap().to_bytes())
    read = WRITE.read_cap().to_bytes()
    assert caps_to_attach(read) == (b"", read)
    assert caps_to_attach(b"ro." + read) == (b"", read)
    for cap in (CHK, LiteralCap(b"x"), DirCap(CHK), DirCap(LiteralCap(b""))):
        assert (
            caps_to_attach(cap.to_bytes())
            == caps_to_attach(b"imm." + cap.to_bytes())
            == (b"", cap.to_bytes())
        )
    directory = DirCap(WRITE)
    assert caps_to_attach(directory.to_bytes()) == (directory.to_bytes(), directory.read_cap().to_bytes())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "empty"),
        (b"URI:CHK:abc", "well-formed"),
        (WRITE.to_bytes() + b"x", "well-formed"),
        (b"ro." + WRITE.to_bytes(), "well-formed"),
        (b"imm." + WRITE.read_cap().to_bytes(), "well-formed"),
        (ChkCap(b"k" * 16, b"u" * 32, 11, 10, 5000).to_bytes(), "out of range"),
        (DirCap(ChkCap(b"k" * 16, b"u" * 32, 0, 0, 5000)).to_bytes(), "out of range"),
        (CHK.verify_cap().to_bytes(), "verify cap"),
        (DirCap(WRITE.verify_cap()).to_bytes(), "verify cap"),
        (b"lafs://from-the-future", "of a kind lafsfs knows"),
        (b"ro.with blanks", "white space"),
    ],
)
def test_others_are_refused(text: bytes, says: str) -> None:
    with pytest.raises(BadCapError) as caught:
        caps_to_attach(text)
    assert says in str(caught.value)
    assert len(text) < 8 or text.decode()[8:] not in str(caught.value)


def test_unknown_capabilities_need_a_prefix() -> None:
    assert caps_to_attach(b"ro.future:1") == (b"", b"ro.future:1")
    assert caps_to_attach(b"imm.future:1") == (b"", b"imm.future:1")
    assert caps_to_attach(b"ro.ro.URI:CHK:x") == (b"", b"ro.ro.URI:CHK:x")


# --- in a tree -------------------------------------------------------------------------------------------


class Others:
    """What somebody else made."""

    def __init__(self, nodes: NodeMaker) -> None:
        self.nodes = nodes

    async def directory(self, **files: bytes) -> DirCap:
        """A directory with these files."""
        caps = {name: (await self.nodes.upload(_Source(data))).to_bytes() for name, data in files.items()}

        def make(writekey: bytes) -> Packed:
            entries = {name: make_entry(name, cap, b"", b"{}", writekey) for name, cap in caps.items()}
            return Packed().with_changes(entries)

        return (await self.nodes.create_directory(make))[0].cap


class _Source(BytesContents):
    """A file to upload."""


async def test_all_kinds_are_read_and_survive(
    nodes: NodeMaker, other_nodes: NodeMaker, tmp_path: Path
) -> None:
    others = Others(other_nodes)
    chk = await other_nodes.upload(_Source(b"immutable" * 100))
    shared = await others.directory(inside=b"shared")
    mutable = [(await other_nodes.create_mutable(b"mutable" * 20, mdmf)).cap for mdmf in (False, True)]
    given = {
        "chk": chk,
        "lit": LiteralCap(b"literal"),
        "ssk": mutable[0],
        "mdmf": mutable[1],
        "ssk-ro": mutable[0].read_cap(),
        "dir": shared,
        "dir-ro": shared.read_cap(),
        "dir-lit": DirCap(LiteralCap(b"")),
        "future": UnknownCap(b"ro.future:1", None),
    }
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        for name, cap in given.items():
            await fs.attach(name, cap.text if isinstance(cap, UnknownCap) else cap.to_bytes())
        assert (await fs.find("")).nlink == 2 + 3
        assert await fs.read("chk") == b"immutable" * 100
        with refused(errno.EEXIST):
            await fs.attach("chk", CHK.to_bytes())
        await fs.rename("lit", "renamed")
    async with opened(nodes, root, tmp_path / "one") as fs:  # from the journal
        assert await fs.read("renamed") == b"literal"
        assert await fs.read("ssk") == await fs.read("ssk-ro") == b"mutable" * 20
        await fs.write("dir/new", b"through the write cap")
        await fs.replace("mdmf", b"changed")
        await fs.drain()
        assert left_in(fs.tree) == []
    async with opened(other_nodes, root, tmp_path / "two", EAGER) as fs:
        expected = {os.fsencode(name) for name in given} - {b"lit"} | {b"renamed"}
        assert await fs.names() == expected
        assert await fs.names("dir") == await fs.names("dir-ro") == {b"inside", b"new"}
        assert await fs.read("dir-ro/new") == b"through the write cap"
        assert await fs.read("mdmf") == b"changed"
        for name, cap in given.items():
            there = await fs.tree.caps_at(os.fsencode(name if name != "lit" else "renamed"))
            text = cap.text if isinstance(cap, UnknownCap) else cap.to_bytes()
            assert (there[0] or there[1]) == text
    assert (await other_nodes.mutable_file(mutable[1]).read(0, 100)) == b"changed"


async def test_no_directory_inside_itself(nodes: NodeMaker, tmp_path: Path) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "state") as fs:
        await fs.mkdir("a")
        await fs.mkdir("a/b")
        await fs.drain()
        above = parse((await fs.tree.caps_at(b"a"))[0])
        assert isinstance(above, DirCap)
        for cap in (root, above, above.read_cap()):
            with pytest.raises(OSError, match="inside itself"):
                await fs.attach("a/b/loop", cap.to_bytes())
        await fs.attach("beside", above.to_bytes())
        assert await fs.names("beside") == {b"b"}


async def test_the_attachment_is_lost_at_no_step(nodes: NodeMaker, tmp_path: Path) -> None:
    """What is attached where a directory is still new, then the parent is renamed before anything is published."""
    cap = await Others(nodes).directory(inside=b"x")
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "one") as fs:
        await fs.mkdir("new")
        await fs.attach("new/theirs", cap.to_bytes())
        await fs.rename("new", "moved")
        await fs.drain()
    async with opened(nodes, root, tmp_path / "two") as fs:
        assert await fs.read("moved/theirs/inside") == b"x"


# --- read-only subtrees ----------------------------------------------------------------------------------


Action = Callable[[Files], Awaitable[object]]


def _changes() -> dict[str, Action]:
    """Every change below `ro`, which is somebody else's; `file` and `empty` beside it are ours."""
    return {
        "create": lambda fs: fs.create("ro/new"),
        "mkdir": lambda fs: fs.mkdir("ro/new"),
        "symlink": lambda fs: fs.symlink(b"x", "ro/new"),
        "mknod": lambda fs: fs.make("ro/new", stat.S_IFIFO | 0o600),
        "deep create": lambda fs: fs.create("ro/dir/new"),
        "unlink": lambda fs: fs.unlink("ro/file"),
        "deep unlink": lambda fs: fs.unlink("ro/dir/below"),
        "rmdir": lambda fs: fs.rmdir("ro/hollow"),
        "rmdir of a full one": lambda fs: fs.rmdir("ro/dir"),
        "rename": lambda fs: fs.rename("ro/file", "ro/new"),
        "rename out": lambda fs: fs.rename("ro/file", "new"),
        "rename out over": lambda fs: fs.rename("ro/file", "file"),
        "rename in": lambda fs: fs.rename("file", "ro/new"),
        "rename in over": lambda fs: fs.rename("file", "ro/file"),
        "rename a directory over a full one": lambda fs: fs.rename("empty", "ro/dir"),
        "exchange": lambda fs: fs.rename("file", "ro/file", RENAME_EXCHANGE),
        "link in": lambda fs: fs.link("file", "ro/new"),
        "link out": lambda fs: fs.link("ro/file", "new"),
        "open for writing": lambda fs: fs.open("ro/file", os.O_WRONLY),
        "open for both": lambda fs: fs.open("ro/file", os.O_RDWR),
        "open with O_TRUNC": lambda fs: fs.open("ro/file", os.O_RDONLY | os.O_TRUNC),
        "open a mutable file": lambda fs: fs.open("ro/mutable", os.O_WRONLY),
        "truncate": lambda fs: fs.set("ro/file", size=3),
        "extend": lambda fs: fs.set("ro/file", size=1 << 20),
        "truncate a mutable file": lambda fs: fs.set("ro/mutable", size=3),
        "chmod": lambda fs: fs.set("ro/file", mode=0o600),
        "chmod of a directory": lambda fs: fs.set("ro/dir", mode=0o700),
        "chown": lambda fs: fs.set("ro/file", uid=1),
        "utimens": lambda fs: fs.set("ro/file", mtime=1),
        "setxattr": lambda fs: fs.setxattr("ro/file", b"user.x", b"1"),
        "removexattr": lambda fs: fs.removexattr("ro/file", b"user.x"),
        "attach": lambda fs: fs.attach("ro/new", CHK.to_bytes()),
    }


@pytest.fixture
async def below(other_nodes: NodeMaker, tmp_path: Path) -> DirCap:
    """A directory of somebody else, with files, directories and a mutable file that he can write."""
    root = await new_root(other_nodes)
    async with opened(other_nodes, root, tmp_path / "theirs") as fs:
        await fs.write("file", b"theirs" * 20)
        for name in ("dir", "hollow"):
            await fs.mkdir(name)
        await fs.write("dir/below", b"deep")
        mutable = await other_nodes.create_mutable(b"mutable" * 20, mdmf=False)
        await fs.attach("mutable", mutable.cap.to_bytes())
        await fs.drain()
    return root


async def test_a_read_only_subtree_refuses_every_change(
    nodes: NodeMaker, below: DirCap, tmp_path: Path
) -> None:
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "ours") as fs:
        await fs.attach("ro", below.read_cap().to_bytes())
        await fs.write("file", b"ours" * 20)
        await fs.mkdir("empty")
        before = await fs.everything()
        for name, change in _changes().items():
            with refused(errno.EROFS):
                await change(fs)
            assert (name, await fs.everything()) == (name, before)
        await fs.drain()
        assert left_in(fs.tree) == []


async def test_the_entry_of_a_read_only_directory_is_ours(
    nodes: NodeMaker, below: DirCap, tmp_path: Path
) -> None:
    """Its name and attributes stand in our directory; what is in it does not change by that."""
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "ours") as fs:
        await fs.attach("ro", below.read_cap().to_bytes())
        await fs.set("ro", mode=0o500)
        await fs.rename("ro", "renamed")
        await fs.drain()
    async with opened(nodes, root, tmp_path / "again") as fs:
        assert stat.S_IMODE((await fs.find("renamed")).attributes.mode) == 0o500
        assert await fs.read("renamed/dir/below") == b"deep"


async def test_hard_links_in_a_read_only_subtree(nodes: NodeMaker, tmp_path: Path) -> None:
    """Two of a file's names are where nothing can be changed: nothing waits for ever to be published there."""
    theirs = await new_root(nodes)
    async with opened(nodes, theirs, tmp_path / "theirs") as fs:
        await fs.mkdir("dir")
        await fs.write("dir/one", b"1" * 100)
        await fs.link("dir/one", "dir/two")
        await fs.drain()
    root = await new_root(nodes)
    async with opened(nodes, root, tmp_path / "ours") as fs:
        await fs.attach("ro", theirs.read_cap().to_bytes())
        await fs.attach("rw", theirs.to_bytes())
        assert await fs.read("ro/dir/one") == await fs.read("rw/dir/two") == b"1" * 100
        with refused(errno.EROFS):
            await fs.link("ro/dir/two", "ro/dir/three")
        await fs.drain()
        assert left_in(fs.tree) == []


def test_verify_caps_of_all_kinds_are_refused() -> None:
    verifier = ChkVerifyCap(b"s" * 16, b"u" * 32, 3, 10, 5000)
    for cap in (verifier, DirCap(verifier), WRITE.verify_cap(), DirCap(WRITE.verify_cap())):
        with pytest.raises(BadCapError, match="verify cap"):
            caps_to_attach(cap.to_bytes())
