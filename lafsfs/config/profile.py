"""What a grid is: its servers and the encoding of new files.

The file `config/grid.yaml` has the form of Tahoe's `servers.yaml` (formats.md 10.2) with more keys beside
`storage`, so that one reader serves both and either can be given as `--grid FILE`:

    storage: {<server id>: {ann: {nickname, anonymous-storage-NURLs, anonymous-storage-FURL,
                                  permutation-seed-base32, grid-manager-certificates}}}
    encoding: {needed: 3, happy: 7, total: 10}
    preferred: [<server id>]
    grid-managers: [pub-v0-…]
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from lafsfs.config.files import read_text, write_private
from lafsfs.config.server import (
    ServerEntry,
    decode_public_key,
    encode_public_key,
    make_announcement,
    parse_announcement,
)
from lafsfs.errors import ConfigError, FormatError

log = logging.getLogger(__name__)

MAX_SHARES: Final = 256
_HEADER: Final = (
    "# A lafsfs grid; `storage` has the form of Tahoe-LAFS's servers.yaml. Holds secrets: keep private.\n"
)


@dataclass(frozen=True)
class Encoding:
    """k-of-n with servers-of-happiness for new files; segments of at most `max_segment_size` bytes."""

    k: int
    happy: int
    n: int
    max_segment_size: int = 1 << 20

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.n <= MAX_SHARES:
            raise ConfigError(f"an encoding needs 1 <= needed <= total <= 256, not {self.k}-of-{self.n}")
        if not 1 <= self.happy <= self.n:
            raise ConfigError(f"happy must be between 1 and total ({self.n}), not {self.happy}")
        if self.max_segment_size < 1:
            raise ConfigError("the segment size must be positive")


DEFAULT_ENCODING: Final = Encoding(3, 7, 10)


@dataclass(frozen=True)
class GridProfile:
    """Servers, their preference (server ids) and the encoding. `grid_manager_keys` are raw Ed25519 keys."""

    servers: tuple[ServerEntry, ...] = ()
    encoding: Encoding = DEFAULT_ENCODING
    preferred: tuple[str, ...] = ()
    grid_manager_keys: tuple[bytes, ...] = ()

    @classmethod
    def load(cls, path: Path) -> GridProfile:
        """From our own file or a Tahoe servers.yaml. ConfigError if there is none or it is malformed."""
        document = load_yaml(path)
        if not isinstance(document, Mapping) or not isinstance(document.get("storage", {}), Mapping | None):
            raise ConfigError(f"{path} is no grid file: it needs a map with the key `storage`")
        try:
            return cls(
                servers_of(document, lenient=False),
                _parse_encoding(document.get("encoding")),
                tuple(str(name) for name in document.get("preferred") or ()),
                tuple(decode_public_key(str(key)) for key in document.get("grid-managers") or ()),
            )
        except (FormatError, ConfigError, TypeError) as error:
            raise ConfigError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Replace `path`, privately and durably."""
        document: dict[str, Any] = {
            "storage": {entry.server_id: {"ann": make_announcement(entry)} for entry in self.servers},
            "encoding": {
                "needed": self.encoding.k,
                "happy": self.encoding.happy,
                "total": self.encoding.n,
                "segment-size": self.encoding.max_segment_size,
            },
        }
        if self.preferred:
            document["preferred"] = list(self.preferred)
        if self.grid_manager_keys:
            document["grid-managers"] = [encode_public_key(key) for key in self.grid_manager_keys]
        import yaml  # slow to load, and only needed where a grid is configured

        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=1000)
        write_private(path, (_HEADER + text).encode("utf-8"))

    def with_server(self, entry: ServerEntry) -> GridProfile:
        """Add a server, or replace the one with the same server id."""
        kept = tuple(old for old in self.servers if old.server_id != entry.server_id)
        return replace(self, servers=(*kept, entry))

    def without_server(self, server_id: str) -> GridProfile:
        """Remove a server."""
        return replace(
            self,
            servers=tuple(entry for entry in self.servers if entry.server_id != server_id),
            preferred=tuple(name for name in self.preferred if name != server_id),
        )


def load_yaml(path: Path) -> object:
    """A YAML (or JSON) document of plain values. ConfigError without any of its contents in the text."""
    import yaml  # slow to load, and only needed where a grid is configured

    try:
        return yaml.load(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise ConfigError(f"there is no {path}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        # Not chained: the parser's message quotes the file, and the file holds secrets.
        raise ConfigError(f"{path} is not YAML{where}") from None


def servers_of(document: object, *, lenient: bool) -> tuple[ServerEntry, ...]:
    """The usable servers of a servers.yaml document.

    Servers without NURLs are left out. Malformed entries are FormatErrors, or left out too if `lenient`.
    """
    storage = document.get("storage") if isinstance(document, Mapping) else None
    if not isinstance(storage, Mapping):
        return ()
    pairs = ((name, item.get("ann") if isinstance(item, Mapping) else None) for name, item in storage.items())
    return tuple(usable_servers(pairs, lenient=lenient))


def usable_servers(pairs: Iterable[tuple[object, object]], *, lenient: bool) -> Iterable[ServerEntry]:
    """Entries from (server id, announcement) pairs; see `servers_of`."""
    for name, announcement in pairs:
        try:
            entry = parse_announcement(str(name), announcement)
        except FormatError as error:
            if not lenient:
                raise FormatError(f"server {str(name)[:16]}: {error}") from error
            log.warning("server %.16s is left out: %s", name, error)
            continue
        if entry is None:
            log.warning("server %.16s is left out: it offers no GBS (no NURL)", name)
        else:
            yield entry


def _parse_encoding(value: object) -> Encoding:
    if value is None:
        return DEFAULT_ENCODING
    if not isinstance(value, Mapping) or not all(type(number) is int for number in value.values()):
        raise FormatError("`encoding` is a map of the numbers needed, happy and total")
    try:
        return Encoding(value["needed"], value["happy"], value["total"], value.get("segment-size", 1 << 20))
    except KeyError as error:
        raise FormatError(f"`encoding` lacks {error.args[0]}") from error
