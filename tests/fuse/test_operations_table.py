"""The table of operations in contrib/doc/conformance.md and the code say the same."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pyfuse3

from lafsfs.fuse.operations import Operations

DOCUMENT = Path(__file__).parents[2] / "contrib" / "doc" / "conformance.md"
_ROW = re.compile(r"^\| `(\w+)` \| (yes|no)\b", re.MULTILINE)


def handlers(of: type) -> set[str]:
    """The request handlers that a class itself defines."""
    return {name for name, value in vars(of).items() if inspect.iscoroutinefunction(value)}


def test_the_table_lists_what_is_implemented() -> None:
    table = dict(_ROW.findall(DOCUMENT.read_text()))
    assert {name for name, answer in table.items() if answer == "yes"} == handlers(Operations)


def test_the_table_lists_all_that_pyfuse3_offers() -> None:
    table = dict(_ROW.findall(DOCUMENT.read_text()))
    assert table.keys() == handlers(pyfuse3.Operations)
