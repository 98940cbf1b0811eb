"""Nothing in the vector files is left unread: checks declare every section, entries name every share file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import vectors_support as vectors
from tests.vectors_support import reads

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


@reads("meta.json")
def test_every_section_is_read_by_some_check(tmp_path: Path) -> None:
    declared = _declared(tmp_path / "report.json")
    files = sorted(path.name for path in vectors.directory().glob("*.json"))
    sections = [(name, section) for name in files for section in vectors.load(name)]
    unread = [s for s in sections if s not in declared and s[:1] not in declared]
    assert not unread


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
