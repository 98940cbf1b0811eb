"""What to mount, as people write it: a cap, ALIAS:, ALIAS:sub/path, - or @FILE."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from lafsfs.config import Aliases
from lafsfs.errors import BadCapError, UnknownAliasError, UsageError

_CAPABILITY = re.compile(r"(?:ro\.|imm\.)?URI:")
_ALIAS = re.compile(r"[^\s:/#@-][^\s:/]{0,99}")
_MAX_CAP = 16 << 10


@dataclass(frozen=True)
class What:
    """A capability string and a path below it."""

    cap: str = field(repr=False)
    subpath: tuple[str, ...] = ()


def resolve(what: str, *alias_files: Aliases) -> What:
    """What `what` stands for; the first of the alias files that knows an alias decides.

    Messages do not repeat `what`: it may be a mistyped secret.

    UnknownAliasError; BadCapError when it is nothing of the known forms; UsageError when a file or stdin
    gives nothing.
    """
    if what == "-":
        return What(_one_line(sys.stdin.read(_MAX_CAP), "standard input"))
    if what.startswith("@"):
        return What(_one_line(_read(Path(what[1:])), "that file"))
    if _CAPABILITY.match(what):
        return What(what)
    name, colon, path = what.partition(":")
    if what.startswith(("ro.", "imm.")) and _lookup(name, alias_files) is None:
        return What(what)  # of some future kind
    if not colon or path.startswith("//") or not _ALIAS.fullmatch(name):
        hint = f" (did you mean {name}: with a colon?)" if not colon and _lookup(name, alias_files) else ""
        raise BadCapError(f"neither a capability (URI:...) nor ALIAS:, ALIAS:path, - or @FILE{hint}")
    cap = _lookup(name, alias_files)
    if cap is None:
        names = sorted({known for aliases in alias_files for known in aliases.names()})
        known = ", ".join(f"{alias}:" for alias in names) or "none yet; lafsfs create makes one"
        raise UnknownAliasError(f"there is no alias {name}: (known: {known})")
    return What(cap, _components(path))


def check_alias(name: str) -> str:
    """`name` without a closing colon if it can be an alias, else UsageError."""
    alias = name.removesuffix(":")
    if not _ALIAS.fullmatch(alias) or _CAPABILITY.match(alias + ":"):
        raise UsageError("an alias is a short word without colons, slashes and blanks")
    return alias


def _lookup(name: str, alias_files: tuple[Aliases, ...]) -> str | None:
    return next((cap for aliases in alias_files if (cap := aliases.get(name)) is not None), None)


def _components(path: str) -> tuple[str, ...]:
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise UsageError("a path below an alias cannot hold '..'")
    return parts


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_MAX_CAP)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise UsageError(f"cannot read a capability from {path}: {reason}") from error


def _one_line(text: str, source: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1:
        raise UsageError(f"{source} must hold one line with a capability, not {len(lines)}")
    return lines[0]
