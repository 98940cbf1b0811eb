"""The client's own secrets and the aliases of its trees, in Tahoe's file formats (formats.md 10.1)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from lafsfs.config.files import locked, read_text, write_private
from lafsfs.errors import ConfigError, FormatError, UsageError
from lafsfs.formats import base32

_ALIAS_NAME = re.compile(r"[^\s:/#@-][^\s:/]*")


@dataclass(frozen=True)
class ClientSecrets:
    """`convergence` salts the keys of immutable files, `lease` is the master secret of leases."""

    convergence: bytes = field(repr=False)
    lease: bytes = field(repr=False)

    @classmethod
    def load(cls, directory: Path) -> ClientSecrets:
        """From the files `convergence` and `secret`. ConfigError if one is missing or malformed."""
        return cls(_read_secret(directory / "convergence"), _read_secret(directory / "secret"))

    @classmethod
    def load_or_create(cls, directory: Path) -> ClientSecrets:
        """Like `load`; what is missing is created first, at random, and durable on return."""
        names = ("convergence", "secret")
        if not all((directory / name).exists() for name in names):
            with locked(directory / ".secrets.lock"):
                for name in names:
                    if not (directory / name).exists():
                        write_private(directory / name, base32.encode(os.urandom(32)).encode() + b"\n")
        return cls.load(directory)


def _read_secret(path: Path) -> bytes:
    try:
        return base32.decode(read_text(path).strip())
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}") from None
    except FormatError:
        raise ConfigError(f"{path} holds no base32 secret") from None


class Aliases:
    """Names of capabilities, in a file of lines `name: cap`. `repr` shows names only."""

    def __init__(self, path: Path, preset: dict[str, str] | None = None) -> None:
        """`preset` are aliases that exist without a line in the file; lines win over them."""
        self._path = path
        self._preset = dict(preset or {})

    def __repr__(self) -> str:
        return f"Aliases({', '.join(self.names())})"

    def _read(self) -> dict[str, str]:
        found = dict(self._preset)
        try:
            text = read_text(self._path)
        except FileNotFoundError:
            return found
        for line in text.splitlines():
            if _is_entry(line):
                name, _, cap = line.partition(":")
                found[name.strip()] = cap.strip()
        return found

    def names(self) -> list[str]:
        """All aliases in alphabetical order."""
        return sorted(self._read())

    def get(self, name: str) -> str | None:
        """The cap string under an alias."""
        return self._read().get(name)

    def set(self, name: str, cap: str) -> None:
        """Give `name` to a cap, replacing an older meaning. UsageError for a name that cannot be one."""
        if not _ALIAS_NAME.fullmatch(name):
            raise UsageError("an alias has no spaces, colons or slashes and does not begin with -, # or @")
        with locked(self._path.with_name(f".{self._path.name}.lock")):
            try:
                lines = read_text(self._path).splitlines()
            except FileNotFoundError:
                lines = []
            kept = [x for x in lines if not (_is_entry(x) and x.partition(":")[0].strip() == name)]
            write_private(self._path, "".join(f"{x}\n" for x in [*kept, f"{name}: {cap}"]).encode())


def _is_entry(line: str) -> bool:
    return ":" in line and not line.lstrip().startswith("#")
