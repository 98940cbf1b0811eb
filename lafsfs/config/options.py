"""Values as people write them on a command line: sizes, durations, -o lists."""

from __future__ import annotations

import re

from lafsfs.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """Bytes: `4096`, `64K`, `1.5G`, `10GiB`. Units are powers of 1024. UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"not a size: {text!r} (examples: 4096, 512M, 10G)")
    return int(float(match[1]) * 1024 ** " KMGTP".index(match[2].upper() or " "))


def parse_duration(text: str) -> float:
    """Seconds: `5`, `0.5s`, `200ms`, `10m`, `1h`. UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"not a duration: {text!r} (examples: 5, 0.5s, 200ms, 10m)")
    return float(match[1]) * _SECONDS[(match[2] or "s").lower()]


def parse_option_list(text: str) -> dict[str, str | None]:
    """`ro,fsync=grid` -> {"ro": None, "fsync": "grid"}. Empty items are skipped; the last of equals wins."""
    options: dict[str, str | None] = {}
    for item in text.split(","):
        name, equals, value = item.strip().partition("=")
        if name:
            options[name] = value if equals else None
        elif equals:
            raise UsageError(f"an option without a name: {item!r}")
    return options
