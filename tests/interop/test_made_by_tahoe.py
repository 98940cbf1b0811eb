"""lafsfs mounts directories that Tahoe made, with every kind of child, and changes them: nothing is lost."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lafsfs.formats.caps import parse
from tests.interop.conftest import SharedGrid
from tests.support.mounts import LafsfsHome
from tests.support.tahoe import TahoeClient
from tests.support.tahoe_trees import Child, delete, listing, make_directory, put, raw_entries, set_children

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(300)]

FOREIGN = {
    "classification": ["ü", 1, 2.5, None, {"deep": True}],
    "mtime": 1_000_000_000.25,
    "ctime": 1_100_000_000.0,
}
SMALL, LARGE = b"small", hashlib.shake_128(b"large").digest(300_000)
UNKNOWN: dict[str, dict[str, str]] = {
    "unknown both": {"rw_uri": "lafs://future/write", "ro_uri": "lafs://future/read"},
    "unknown ro": {"ro_uri": "ro.lafs://future/read"},
    "unknown imm": {"ro_uri": "imm.lafs://future/immutable"},
}

REFUSALS = "Read-only file system|Permission denied"

Details = dict[str, Any]


def _read_cap(cap: str) -> str:
    known = parse(cap)
    assert not hasattr(known, "error")
    return known.read_cap().to_string()  # type: ignore[union-attr]


@dataclass
class Zoo:
    """A directory with one child of every kind."""

    cap: str
    children: dict[str, tuple[str, Details]]

    def entry(self, name: str) -> Details:
        """What the child was made with."""
        return self.children[name][1]


def _file(cap: str, metadata: Mapping[str, object] | None = None) -> tuple[str, Details]:
    parsed = parse(cap)
    writable = ":SSK:" in cap or ":MDMF:" in cap or ":DIR2:" in cap or ":DIR2-MDMF:" in cap
    details: Details = {"ro_uri": _read_cap(cap), "metadata": dict(metadata or {})}
    if writable:
        details["rw_uri"] = cap
    return ("dirnode" if type(parsed).__name__ == "DirCap" else "filenode"), details


def _zoo(client: TahoeClient) -> Zoo:
    literal, chk = client.put(SMALL), client.put(LARGE)
    sdmf, mdmf = client.put(LARGE, "SDMF"), client.put(LARGE, "MDMF")
    inner = {"inner": _file(chk)}
    # The bytes of a directory of a single empty file without metadata are few enough for a literal.
    tiny = make_directory(client, {"e": _file("URI:LIT:")}, "immutable")
    large = make_directory(client, {f"{n}": _file(chk, FOREIGN) for n in range(3)}, "immutable")
    assert tiny.startswith("URI:DIR2-LIT:")
    assert large.startswith("URI:DIR2-CHK:")
    read_only = make_directory(client, inner)
    children = {
        "lit": _file(literal, FOREIGN),
        "chk": _file(chk, FOREIGN),
        "ssk": _file(sdmf, FOREIGN),
        "ssk-ro": _file(_read_cap(client.put(LARGE, "SDMF")), FOREIGN),
        "mdmf": _file(mdmf),
        "mdmf-ro": _file(_read_cap(client.put(LARGE, "MDMF"))),
        "dir2": _file(make_directory(client, inner), FOREIGN),
        "dir2-ro": _file(_read_cap(read_only)),
        "dir2-mdmf": _file(make_directory(client, inner, "mdmf")),
        "dir2-chk": _file(large),
        "dir2-lit": _file(tiny),
        "no metadata": _file(chk),
        "to be renamed": _file(chk, FOREIGN),
        "to be deleted": _file(sdmf, FOREIGN),
        **{name: ("unknown", {**caps, "metadata": FOREIGN}) for name, caps in UNKNOWN.items()},
    }
    zoo = Zoo(make_directory(client, children), children)
    put(client, zoo.cap, "put", LARGE)  # an entry with the metadata Tahoe itself writes
    return zoo


@contextmanager
def _unchanged_but(client: TahoeClient, cap: str, *changed: str) -> Iterator[None]:
    """All entries but those named are byte for byte the same after the block."""
    before = raw_entries(client, cap)
    yield
    after = raw_entries(client, cap)
    for name in changed:
        before.pop(name, None)
        after.pop(name, None)
    assert after == before


def _same_caps(child: Child, made: Details) -> None:
    assert child.details.get("rw_uri") == made.get("rw_uri")
    expected = made["ro_uri"]
    if child.kind == "unknown" and not expected.startswith(("ro.", "imm.")):
        expected = "ro." + expected
    assert child.details.get("ro_uri") == expected


def _reading(top: Path) -> None:
    """Every kind of child can be listed, and read where it can be."""
    for name in ("chk", "ssk", "ssk-ro", "mdmf", "mdmf-ro", "no metadata", "put", "to be renamed"):
        assert (top / name).stat().st_size == len(LARGE), name
        assert (top / name).read_bytes() == LARGE, name
    assert (top / "lit").read_bytes() == SMALL
    assert (top / "chk").stat().st_mtime_ns == 1_000_000_000_250_000_000
    for name in ("dir2", "dir2-ro", "dir2-mdmf"):
        assert os.listdir(top / name) == ["inner"]
        assert (top / name / "inner").read_bytes() == LARGE
    assert sorted(os.listdir(top / "dir2-chk")) == ["0", "1", "2"]
    assert (top / "dir2-chk" / "1").read_bytes() == LARGE
    assert (top / "dir2-lit" / "e").read_bytes() == b""
    for name in UNKNOWN:
        status = (top / name).stat()
        assert stat.S_ISREG(status.st_mode)
        assert status.st_size == 0


def _refusing(top: Path) -> None:
    """What a read-only or unknown cap stands for cannot be changed."""
    for name in ("ssk-ro", "mdmf-ro", *UNKNOWN):
        with pytest.raises(OSError, match=REFUSALS), (top / name).open("r+b") as file:
            file.write(b"x")
    for name in ("dir2-ro", "dir2-chk", "dir2-lit"):
        with pytest.raises(OSError, match=REFUSALS):
            (top / name / "new").write_bytes(b"x")


def _changing(top: Path) -> None:
    """One change of every kind, of children of every kind."""
    (top / "added").write_bytes(LARGE[::-1])
    (top / "added directory").mkdir()
    (top / "to be renamed").rename(top / "renamed")
    (top / "to be deleted").unlink()
    (top / "lit").chmod(0o600)
    (top / "chk").write_bytes(b"overwritten" * 10)
    for name in ("ssk", "mdmf"):
        with (top / name).open("r+b") as file:
            file.seek(200_000)
            file.write(b"patched")
    (top / "dir2" / "new").write_bytes(b"in dir2")
    (top / "dir2-mdmf" / "new").write_bytes(b"in dir2-mdmf")
    (top / "dir2-mdmf" / "inner").rename(top / "dir2-mdmf" / "moved")


def test_every_kind_of_child_is_read_changed_and_kept(
    shared_grid: SharedGrid, fresh_home: LafsfsHome
) -> None:
    client = shared_grid.client
    zoo = _zoo(client)
    changed = (
        "added",
        "added directory",
        "to be renamed",
        "renamed",
        "to be deleted",
        "lit",
        "chk",
        "ssk",
        "mdmf",
        "dir2",  # their own times changed
        "dir2-mdmf",
    )
    with _unchanged_but(client, zoo.cap, *changed):
        cap_file = fresh_home.directory / "cap"
        cap_file.write_text(zoo.cap)
        with fresh_home.mounted(f"@{cap_file}", *shared_grid.options) as tree:
            _reading(tree.path)
            _refusing(tree.path)
            _changing(tree.path)
    now = listing(client, zoo.cap)
    expected = set(zoo.children) | {"put", "added", "added directory", "renamed"}
    assert set(now) == expected - {"to be renamed", "to be deleted"}
    for name, (_, made) in zoo.children.items():
        if name in now and name != "chk":
            _same_caps(now[name], made)
    _same_caps(now["renamed"], zoo.entry("to be renamed"))
    for name in ("lit", "chk", "renamed"):
        assert now[name].metadata["classification"] == FOREIGN["classification"]
    assert now["lit"].metadata["lafsfs"]["mode"] == stat.S_IFREG | 0o600
    assert client.get(now["added"].cap) == LARGE[::-1]
    assert client.get(now["chk"].cap) == b"overwritten" * 10
    patched = LARGE[:200_000] + b"patched" + LARGE[200_007:]
    assert client.get(now["ssk"].cap) == client.get(now["mdmf"].cap) == patched
    inside = listing(client, now["dir2"].cap)
    assert client.get(inside["new"].cap) == b"in dir2"
    assert set(inside) == {"inner", "new"}
    assert set(listing(client, now["dir2-mdmf"].cap)) == {"moved", "new"}


def test_unknown_children_survive_what_is_done_to_them(
    shared_grid: SharedGrid, fresh_home: LafsfsHome
) -> None:
    """Renamed, moved and given attributes, an unknown child keeps its caps and foreign metadata."""
    client = shared_grid.client
    cap = shared_grid.create(fresh_home)
    set_children(
        client, cap, {name: ("unknown", {**caps, "metadata": FOREIGN}) for name, caps in UNKNOWN.items()}
    )
    with fresh_home.mounted("home:", *shared_grid.options) as tree:
        (tree.path / "below").mkdir()
        (tree.path / "unknown ro").rename(tree.path / "below" / "unknown ro")
        (tree.path / "unknown both").rename(tree.path / "another name")
        (tree.path / "unknown imm").chmod(0o400)
        with pytest.raises(OSError, match="Input/output error"):
            (tree.path / "another name").read_bytes()
    now = listing(client, cap)
    now |= listing(client, now["below"].cap)
    assert set(now) == {"below", "unknown ro", "another name", "unknown imm"}
    for name, old in (("unknown ro",) * 2, ("unknown imm",) * 2, ("another name", "unknown both")):
        assert now[name].kind == "unknown"
        _same_caps(now[name], UNKNOWN[old])
        assert now[name].metadata["classification"] == FOREIGN["classification"]


def test_twenty_turns(shared_grid: SharedGrid, fresh_home: LafsfsHome) -> None:
    """Tahoe and a mount change one directory by turns; each sees all that the other did before."""
    client = shared_grid.client
    cap = shared_grid.create(fresh_home)
    expected: dict[str, bytes] = {}
    with fresh_home.mounted("home:", "-o", "refresh=0,publish_delay=0", *shared_grid.options) as tree:
        for turn in range(20):
            name, data = f"turn {turn}", b"%d" % turn * (30 if turn % 3 else 3000)
            gone = f"turn {turn - 5}" if turn >= 5 else None
            if turn % 2:
                put(client, cap, name, data)
                put(client, cap, "both", data)
                if gone:
                    delete(client, cap, gone)
            else:
                (tree.path / name).write_bytes(data)
                (tree.path / "both").write_bytes(data)
                if gone:
                    (tree.path / gone).unlink()
                fresh_home.lafsfs("flush", str(tree.path))
            expected |= {name: data, "both": data}
            if gone:
                del expected[gone]
            if turn % 2:
                assert {path.name: path.read_bytes() for path in tree.path.iterdir()} == expected
            else:
                seen = listing(client, cap)
                assert set(seen) == set(expected)
                assert client.get(seen["both"].cap) == data
        assert tree.status()["conflicts"] == []
    assert {name: client.get(child.cap) for name, child in listing(client, cap).items()} == expected
