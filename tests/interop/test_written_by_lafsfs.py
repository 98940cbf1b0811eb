"""What lafsfs wrote: Tahoe lists it, reads it, and finds it healthy."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, parse
from tests.interop.conftest import SharedGrid
from tests.support.mounts import LafsfsHome
from tests.support.tahoe_trees import Child, deep_check, listing, put, walk

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300)]

SIZES = (0, 1, 55, 56, 4096, 131_073, 1 << 20, (1 << 20) + 1, 5_000_000)
"""On both sides of the limits: empty, literal, one segment, several."""

NAMES = [
    b"plain",
    b" leading and trailing ",
    b"100% & more?x=1#frag",
    b'quo"te\\back',
    b"new\nline\ttab",
    b"...",
    b"-rf",
    "größe 日本 🦀".encode(),
    unicodedata.normalize("NFD", "décomposé").encode(),
    unicodedata.normalize("NFC", "décomposé").encode(),
    b"latin-1 \xe9\xff",
    b"n" * 255,
    "ü".encode() * 127,
]


NANOSECONDS = 1_234_567_890_123_456_789


def _data(label: str, size: int) -> bytes:
    return hashlib.shake_128(label.encode()).digest(size)


def _write(top: Path) -> None:
    """Files of all sizes, empty and deep directories, links, special files, and names of every sort."""
    (top / "sizes").mkdir()
    for size in SIZES:
        (top / "sizes" / str(size)).write_bytes(_data("file", size))
    (top / "a" / "b" / "c" / "d").mkdir(parents=True)
    (top / "a" / "empty").mkdir(mode=0o700)
    (top / "a" / "b" / "c" / "file").write_bytes(b"deep")
    (top / "links").mkdir()
    (top / "links" / "relative").symlink_to("../sizes/56")
    (top / "links" / "nowhere").symlink_to("/" + "long/" * 200)
    os.link(top / "sizes" / "4096", top / "links" / "hard")
    with (top / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    os.mkfifo(top / "fifo")
    (top / "sparse").chmod(0o640)
    os.utime(top / "sparse", ns=(NANOSECONDS, NANOSECONDS))
    names = os.fsencode(top / "names")
    os.mkdir(names)
    for name in NAMES:
        with open(os.path.join(names, name), "wb") as file:
            file.write(b"named " + name)


def _expected(top: Path) -> dict[bytes, bytes | None]:
    """Path -> content, a link's target, None for a directory; as the mount shows it."""
    found: dict[bytes, bytes | None] = {}
    root = os.fsencode(top)
    for directory, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            relative = os.path.relpath(path, root)
            if stat.S_ISDIR(mode):
                found[relative] = None
            elif stat.S_ISLNK(mode):
                found[relative] = os.readlink(path)
            elif stat.S_ISREG(mode):
                found[relative] = Path(os.fsdecode(path)).read_bytes()
            else:
                found[relative] = b""
    return found


def _posix_name(name: str, child: Child) -> bytes:
    """The raw name, which is beside the stored one where the two differ (design.md section 4)."""
    raw = child.metadata["lafsfs"].get("name")
    return base64.b64decode(raw) if raw is not None else name.encode()


def _check_attributes(metadata: dict[str, Any]) -> None:
    """Ours, and the classic times beside them for other programs."""
    assert metadata["lafsfs"]["mode"] == stat.S_IFREG | 0o640
    assert metadata["lafsfs"]["mtime"] == NANOSECONDS
    assert metadata["mtime"] == pytest.approx(NANOSECONDS / 1e9)
    assert metadata["tahoe"]["linkmotime"] == pytest.approx(metadata["ctime"], abs=3600)


def test_tahoe_reads_and_verifies_what_lafsfs_wrote(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    cap = shared_grid.create(fresh_home)
    with fresh_home.mounted("home:", *shared_grid.options) as tree:
        _write(tree.path)
        expected = _expected(tree.path)
    client = shared_grid.client
    seen: dict[bytes, bytes | None] = {}
    raw_paths: dict[tuple[str, ...], bytes] = {(): b""}
    checked = 1
    for path, child in walk(client, cap):
        raw = os.path.join(raw_paths[path[:-1]], _posix_name(path[-1], child))
        raw_paths[path] = raw
        parsed = parse(child.cap)
        checked += not isinstance(parsed, LiteralCap)
        if child.kind == "dirnode":
            assert isinstance(parsed, DirCap)
            assert parsed.is_writable
            seen[raw] = None
        else:
            assert isinstance(parsed, ChkCap | LiteralCap)
            seen[raw] = client.get(child.cap)
    # The anchor of the hard link, which mounts do not show (contrib/doc/adr/hard-links.md).
    del seen[b".lafsfs-links"]
    (anchor,) = (raw for raw in seen if raw.startswith(b".lafsfs-links/"))
    assert seen.pop(anchor) == expected[b"sizes/4096"]
    assert seen == expected
    _check_attributes(listing(client, cap)["sparse"].metadata)
    results = deep_check(client, cap)
    assert results["list-unhealthy-files"] == []
    assert results["count-corrupt-shares"] == 0
    # The hard link is one object under two names and its anchor.
    assert results["count-objects-checked"] == results["count-objects-healthy"] == checked - 2


def test_content_of_an_older_state_does_not_come_back(
    shared_grid: SharedGrid, fresh_home: LafsfsHome
) -> None:
    """Overwritten, appended, cut, renamed over and removed between two unmounts: Tahoe sees the last state."""
    cap = shared_grid.create(fresh_home)
    with fresh_home.mounted("home:", *shared_grid.options) as tree:
        for name in ("overwritten", "appended", "cut", "renamed", "target", "removed"):
            (tree.path / name).write_bytes(_data(name, 300_000))
    with fresh_home.mounted("home:", *shared_grid.options) as tree:
        (tree.path / "overwritten").write_bytes(b"new")
        with (tree.path / "appended").open("ab") as file:
            file.write(b"tail")
        os.truncate(tree.path / "cut", 131_072)
        (tree.path / "renamed").rename(tree.path / "target")
        (tree.path / "removed").unlink()
    seen = {path[0]: shared_grid.client.get(child.cap) for path, child in walk(shared_grid.client, cap)}
    assert seen == {
        "overwritten": b"new",
        "appended": _data("appended", 300_000) + b"tail",
        "cut": _data("cut", 300_000)[:131_072],
        "target": _data("renamed", 300_000),
    }
    assert deep_check(shared_grid.client, cap)["count-objects-unhealthy"] == 0


def test_files_kept_in_their_directory(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    """inline_limit: Tahoe reads literals of all sizes, and keeps them when it changes the directory."""
    cap = shared_grid.create(fresh_home)
    contents = {str(size): _data("inline", size) for size in (0, 55, 56, 1000, 4096, 16_384, 16_385)}
    with fresh_home.mounted("home:", "-o", "inline_limit=16K", *shared_grid.options) as tree:
        for name, data in contents.items():
            (tree.path / name).write_bytes(data)
    children = listing(shared_grid.client, cap)
    kinds = {name: isinstance(parse(child.cap), LiteralCap) for name, child in children.items()}
    assert kinds == {name: len(data) <= 16_384 for name, data in contents.items()}
    assert {name: shared_grid.client.request("GET", f"/uri/{cap}/{name}") for name in contents} == contents
    put(shared_grid.client, cap, "another", b"x" * 100)
    fresh_home.forget()
    with fresh_home.mounted("home:", *shared_grid.options) as tree:
        found = {path.name: path.read_bytes() for path in tree.path.iterdir()}
        (tree.path / "4096").write_bytes(b"y" * 4096)
    assert found == {**contents, "another": b"x" * 100}
    assert isinstance(parse(listing(shared_grid.client, cap)["4096"].cap), ChkCap)
