"""Nothing in the vector files is left unread: checks declare every section, entries name every share file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lafsfs.formats import base32
from lafsfs.gbs.nurl import Furl, Nurl
from tests import vectors_support as vectors
from tests.vectors_support import every_leaf_of, reads

_ROOT = Path(__file__).parent.parent


def _declared(report: Path) -> set[tuple[str, ...]]:
    """(file,) and (file, section) pairs that checks of the whole test suite declare."""
    environment = {**os.environ, "LAFSFS_VECTORS_REPORT": str(report)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--collect-only",
        "-m",
        "vectors",
        "-p",
        "tests.vectors_collect",
    ]
    done = subprocess.run(
        [*command, "tests"],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found: set[tuple[str, ...]] = set()
    for name, *sections in json.loads(report.read_text("utf-8")):
        found |= {(name, section) for section in sections} or {(name,)}
    return found


@reads()
def test_every_section_is_read_by_some_check(tmp_path: Path) -> None:
    declared = _declared(tmp_path / "report.json")
    files = sorted(path.name for path in vectors.directory().glob("*.json"))
    sections = [(name, section) for name in files for section in vectors.load(name)]
    unread = [s for s in sections if s not in declared and s[:1] not in declared]
    assert not unread


@reads("meta.json")
def test_the_server_that_made_the_set() -> None:
    with every_leaf_of(vectors.load("meta.json")) as meta:
        assert meta["generator"]
        assert meta["set"]
        assert (
            meta["recipe"] == "concatenate sha256(seed + ':' + decimal(i)) for i=0,1,2...; truncate to size"
        )
        server = meta["server"]
        nurl, furl = Nurl.parse(server["nurl"]), Furl.parse(server["furl"])
        assert nurl.to_string() == server["nurl"]
        assert furl.to_string() == server["furl"]
        assert nurl.spki == server["spki"]
        assert base32.encode(furl.tubid) == server["tubid"]
        # Nodes of today announce the text of their server id, which is base32 itself, in base32.
        assert b"v0-" + base32.decode(server["permutation_seed_base32"]) == server["server_id"].encode()


def _files_named_in(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["file"]} if isinstance(value.get("file"), str) else set()
        return own.union(*(_files_named_in(child) for child in value.values()))
    if isinstance(value, list):
        return set().union(*(_files_named_in(child) for child in value))
    return set()


@reads()
def test_every_file_belongs_to_an_entry() -> None:
    top = vectors.directory()
    named = set().union(*(_files_named_in(vectors.load(path.name)) for path in top.glob("*.json")))
    present = {str(p.relative_to(top)) for p in top.rglob("*") if p.is_file() and p.parent != top}
    assert present == named
