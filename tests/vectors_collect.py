"""A pytest plugin that writes down which vector sections the collected checks declare."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write one [file, section...] list per mark to the file that LAFSFS_VECTORS_REPORT names."""
    marks = [list(mark.args) for item in session.items for mark in item.iter_markers("vectors") if mark.args]
    Path(os.environ["LAFSFS_VECTORS_REPORT"]).write_text(json.dumps(marks), "utf-8")
