"""Corruption advisories: what clients report of damaged shares (formats.md section 9.6)."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from lafsfs.formats import base32
from storage_server.layout import Kind, Layout


def store(layout: Layout, kind: Kind, storage_index: bytes, shnum: int, reason: str) -> None:
    """Write one advisory file."""
    stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    name = base32.encode(storage_index)
    text = (
        "report: Share Corruption\n"
        f"type: {kind.value}\n"
        f"storage_index: {name}\n"
        f"share_number: {shnum}\n"
        "\n"
        f"{reason}\n"
        "\n"
    )
    path = f"{layout.advisories}/{stamp.replace(':', '')}--{name}-{shnum}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)
