"""Too few servers, damaged shares, a newest version that is lost: the errno, the message, and nothing changed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from lafsfs.formats import base32
from lafsfs.formats.caps import ChkCap, DirCap, parse
from lafsfs.formats.mutable_share import parse_header
from tests.faults.conftest import FaultyGrid
from tests.support.grids import MUTABLE_DATA, flip, share_files
from tests.support.many import start_all
from tests.support.mounts import MountedTree, mounts_below, wait_until
from tests.support.storage import StorageServer

pytestmark = pytest.mark.timeout(180)

DATA = os.urandom(200_000)


def _shares_of(servers: list[StorageServer], cap: str) -> dict[int, Path]:
    """Share number -> container; every number is on one server only."""
    parsed = parse(cap)
    assert isinstance(parsed, ChkCap | DirCap)
    index = parsed.storage_index
    assert index is not None
    return {number: path for server in servers for number, path in share_files(server, index).items()}


def _damage(path: Path) -> None:
    """Flip a bit in the middle, where the data is."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))


def _cap_of(tree: MountedTree, name: str) -> str:
    return tree.home.lafsfs("cap", str(tree.path / name)).stdout.strip()


def test_too_few_servers(faulty: FaultyGrid) -> None:
    """Commands say so and end with 9; reads with ETIMEDOUT; writes wait in the journal until servers are back."""
    home, down = faulty.home, faulty.servers[1:]
    faulty.create()
    with home.mounted("home:", *faulty.options) as tree:
        (tree.path / "file").write_bytes(DATA)
    home.forget()
    for server in down:
        server.stop()
    before = faulty.shares()
    refused = home.lafsfs("mount", *faulty.options, "home:", str(home.mountpoint()), exit_code=9)
    assert "server" in refused.stderr
    assert "pb://" not in refused.stderr
    assert mounts_below(home.directory) == []
    assert faulty.shares() == before
    start_all(down)
    with home.mounted("home:", *faulty.options) as tree:
        assert os.listdir(tree.path) == ["file"]
        for server in down:
            server.stop()
        with pytest.raises(OSError, match=os.strerror(errno.ETIMEDOUT)):
            (tree.path / "file").read_bytes()
        (tree.path / "late").write_bytes(DATA[::-1])
        assert (tree.path / "late").read_bytes() == DATA[::-1]
        left = home.lafsfs("flush", "--timeout", "2", str(tree.path), exit_code=13)
        assert "late" in left.stderr
        item = next(item for item in tree.status()["items"] if item["path"] == "late")
        assert "server" in item["reason"]
        start_all(down)
        tree.flush()
        assert (tree.path / "file").read_bytes() == DATA
    home.forget()
    with home.mounted("home:", *faulty.options) as tree:
        assert (tree.path / "late").read_bytes() == DATA[::-1]


def test_no_server_at_all(faulty: FaultyGrid) -> None:
    for server in faulty.servers:
        server.stop()
    before = faulty.shares()
    done = faulty.home.lafsfs("create", *faulty.options, exit_code=9)
    assert "Traceback" not in done.stderr
    assert "shares needed could be written" in done.stderr
    assert "no connection" in done.stderr
    assert not (faulty.home.path / "config" / "aliases").exists()
    assert faulty.shares() == before


def test_flipped_bits(faulty: FaultyGrid) -> None:
    """Read through while k good shares remain; EIO and an advisory to the server if not."""
    names = [f"share {number}" for number in range(3)]
    faulty.create()
    with faulty.home.mounted("home:", *faulty.options) as tree:
        for number, name in enumerate([*names, "too many"]):
            (tree.path / name).write_bytes(DATA[number:])
        caps = [_cap_of(tree, name) for name in [*names, "too many"]]
    for number, cap in enumerate(caps[:3]):
        _damage(_shares_of(faulty.servers, cap)[number])
    shares = _shares_of(faulty.servers, caps[3])
    _damage(shares[0])
    _damage(shares[1])
    before = faulty.shares()
    faulty.home.forget()
    with faulty.home.mounted("home:", *faulty.options) as tree:
        for number, name in enumerate(names):
            assert (tree.path / name).read_bytes() == DATA[number:]
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            (tree.path / "too many").read_bytes()
        lost = parse(caps[3])
        assert isinstance(lost, ChkCap)
        index = base32.encode(lost.storage_index)
        told = wait_until(lambda: [text for text in faulty.advisories() if index in text], what="an advisory")
        assert all("Share Corruption" in text and "type: immutable" in text for text in told)
        assert (tree.path / names[0]).read_bytes() == DATA
    assert faulty.shares() == before


def test_a_directory_that_cannot_be_recovered(faulty: FaultyGrid) -> None:
    """The newest version is damaged, and of the older one a single share is left: EIO there, the rest goes on."""
    faulty.create()
    with faulty.home.mounted("home:", *faulty.options) as tree:
        (tree.path / "beside").mkdir()
        (tree.path / "beside" / "file").write_bytes(DATA)
        (tree.path / "lost").mkdir()
        (tree.path / "lost" / "first").write_text("1")
        tree.flush()
        faulty.servers[0].stop()
        (tree.path / "lost" / "second").write_text("2")
        lost = _cap_of(tree, "lost")
    faulty.servers[0].start()
    for path in _shares_of(faulty.servers[1:], lost).values():
        _damage_contents(path)
    before = _contents_of(faulty, lost)
    faulty.home.forget()
    with faulty.home.mounted("home:", *faulty.options) as tree:
        assert (tree.path / "beside" / "file").read_bytes() == DATA
        for attempt in (lambda: os.listdir(tree.path / "lost"), (tree.path / "lost" / "new").touch):
            with pytest.raises(OSError, match=os.strerror(errno.EIO)):
                attempt()
    assert _contents_of(faulty, lost) == before
    faulty.home.forget()
    done = faulty.home.lafsfs(
        "mount", *faulty.options, "home:lost", str(faulty.home.mountpoint()), exit_code=11
    )
    assert "shares needed" in done.stderr
    assert "URI:" not in done.stderr
    assert mounts_below(faulty.home.directory) == []
    assert _contents_of(faulty, lost) == before


def _contents_of(faulty: FaultyGrid, cap: str) -> dict[Path, bytes]:
    """The shares of one directory. (That above it is made whole.)"""
    paths = [path for server in faulty.servers for path in _shares_of([server], cap).values()]
    return {path: path.read_bytes() for path in paths}


def _damage_contents(path: Path) -> None:
    """Flip a bit of the contents of a mutable share; its header and signature stay good."""
    share = path.read_bytes()[MUTABLE_DATA:]
    flip(path, parse_header(share).sections.data.start + 20)
