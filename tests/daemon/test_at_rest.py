"""Nothing on the local disk tells a name, a cap or a byte of content to whoever does not have the cap."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lafsfs.formats import base32
from lafsfs.formats.caps import ChkCap, DirCap, MutableWriteCap, parse
from tests.support.mounts import LafsfsHome, MountedTree

pytestmark = pytest.mark.timeout(180)

NAME = "Marker-of-a-name-Zq7"
FOLDER = "Marker-of-a-folder-Zq7"
TARGET = "to/Marker-of-a-target-Zq7"
XATTR = "user.Marker-of-an-attribute-Zq7"
VALUE = b"Marker-of-a-value-Zq7"
SMALL = b"Marker-of-small-content-Zq7 "
LARGE = b"Marker-of-large-content-Zq7 "
RAW_NAME = b"Marker-of-a-raw-\xff-name-Zq7"


def plant(top: Path) -> None:
    """Markers in everything that a tree holds."""
    (top / FOLDER / "below").mkdir(parents=True)
    (top / FOLDER / NAME).write_bytes(SMALL)
    (top / FOLDER / "inline").write_bytes(SMALL * 100)
    (top / FOLDER / "staged").write_bytes(LARGE * 10_000)
    (top / FOLDER / "resumed").write_bytes(LARGE * 60_000)
    os.symlink(TARGET, top / FOLDER / "link")
    os.setxattr(top / FOLDER / NAME, XATTR, VALUE)
    os.setxattr(top / FOLDER, XATTR, VALUE)
    os.link(top / FOLDER / "staged", top / FOLDER / f"{NAME}-2")
    with open(os.fsencode(top) + b"/" + RAW_NAME, "wb") as file:
        file.write(SMALL)
    (top / "removed").write_bytes(LARGE * 1000)
    (top / "removed").unlink()


def secrets_of(cap: str) -> Iterator[bytes]:
    """The text of a cap, and its key as bytes."""
    yield cap.encode()
    parsed = parse(cap)
    if isinstance(parsed, DirCap):
        parsed = parsed.file
    if isinstance(parsed, MutableWriteCap):
        yield parsed.writekey
        yield from secrets_of(parsed.read_cap().to_string())
    elif isinstance(parsed, ChkCap):
        yield parsed.key
    yield cap.split(":")[2].encode()


def spellings(secret: bytes) -> Iterator[bytes]:
    """What a secret looks like raw, in hex, in base32 and in base64, wherever in a longer text it begins."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for skip in range(5):
        plain = secret[skip : skip + (len(secret) - skip) // 5 * 5]
        if len(plain) >= 10:
            text = base32.encode(plain).encode()
            yield text
            yield text.upper()
    for skip in range(3):
        plain = secret[skip : skip + (len(secret) - skip) // 3 * 3]
        yield base64.b64encode(plain)
        yield base64.urlsafe_b64encode(plain)


def check(home: LafsfsHome, secrets: set[bytes]) -> int:
    """Look for them in all of state and cache, names of files included; how many bytes were searched."""
    wanted = {spelling for secret in secrets for spelling in spellings(secret)}
    searched = 0
    for top in (home.path / "state", home.path / "cache"):
        for path in top.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            searched += len(content)
            for spelling in wanted:
                assert spelling not in content, f"{path.name} tells {spelling!r}"
                assert spelling not in os.fsencode(path.name), f"the name {path.name} tells {spelling!r}"
    return searched


def test_the_search_finds_what_is_there(fresh_home: LafsfsHome) -> None:
    """The test of the test."""
    place = fresh_home.path / "state" / "file"
    place.parent.mkdir(parents=True)
    for encoded in (VALUE, base64.b64encode(b"x" + VALUE), base32.encode(b"xy" + VALUE).encode()):
        place.write_bytes(b"before" + encoded)
        with pytest.raises(AssertionError, match="tells"):
            check(fresh_home, {VALUE})


def caps_of(tree: MountedTree) -> set[bytes]:
    """All secrets in the caps of the planted files."""
    paths = [tree.path, *(tree.path / FOLDER / name for name in (".", "below", NAME, "staged", "resumed"))]
    caps = [tree.home.lafsfs("cap", str(path)).stdout.strip() for path in paths]
    return {secret for cap in caps for secret in secrets_of(cap) if not secret.startswith(b"URI:LIT")}


def test_nothing_is_revealed_at_rest(home: LafsfsHome) -> None:
    markers = {s.encode() for s in (NAME, FOLDER, TARGET, XATTR)} | {VALUE, SMALL, LARGE, RAW_NAME}
    markers |= set(secrets_of(home.create()))
    tree = home.mount("home:", "-o", "publish_delay=0.1")
    home.lafsfs("grid", "server", "stop")
    plant(tree.path)
    home.lafsfs("flush", "--timeout", "1", str(tree.path), exit_code=13)
    assert check(home, markers) > len(LARGE) * 60_000  # pending, the mount runs
    tree.kill()
    check(home, markers)  # pending, nobody runs
    home.lafsfs("grid", "server", "start")
    home.lafsfs("mount", "home:", str(tree.path))
    tree.flush()
    markers |= caps_of(tree)
    assert (tree.path / FOLDER / "resumed").read_bytes() == LARGE * 60_000
    check(home, markers)  # published, the cache is filled
    tree.unmount()
    with home.mounted("home:", "-o", "ro") as again:
        assert (again.path / FOLDER / "staged").read_bytes() == LARGE * 10_000
        assert os.getxattr(again.path / FOLDER / NAME, XATTR) == VALUE
        check(home, markers)
    assert check(home, markers) > len(LARGE) * 60_000  # the segments are in the cache
