"""A Tahoe client node's directory as configuration (formats.md 10.1 to 10.3). Read only, but for aliases."""

from __future__ import annotations

import configparser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from lafsfs.config.files import read_text
from lafsfs.config.profile import Encoding, GridProfile, load_yaml, servers_of, usable_servers
from lafsfs.config.secrets import Aliases, ClientSecrets
from lafsfs.config.server import ServerEntry, decode_public_key
from lafsfs.errors import ConfigError, FormatError

_DEFAULTS: Final = {"shares.needed": 3, "shares.happy": 7, "shares.total": 10}


def from_node_directory(directory: Path) -> tuple[GridProfile, ClientSecrets, Aliases]:
    """Servers, encoding, secrets and aliases of a client node. ConfigError.

    Servers come from the introducer caches and `servers.yaml`, whose entries win; unusable ones are left out
    with a line in the log, as Tahoe does.
    """
    config = _read_config(directory / "tahoe.cfg")
    private = directory / "private"
    servers: dict[str, ServerEntry] = {}
    for cache in sorted(private.glob("introducer*_cache.yaml")):
        servers.update((e.server_id, e) for e in usable_servers(_cached(load_yaml(cache)), lenient=True))
    static = private / "servers.yaml"
    if static.exists():
        servers.update((e.server_id, e) for e in servers_of(load_yaml(static), lenient=True))
    preferred = config.get("client", "peers.preferred", fallback="")
    profile = GridProfile(
        tuple(servers.values()),
        _encoding(config),
        tuple(name.strip() for name in preferred.split(",") if name.strip()),
        _grid_managers(config),
    )
    return profile, ClientSecrets.load(private), _aliases(private)


def _read_config(path: Path) -> configparser.RawConfigParser:
    config = configparser.RawConfigParser(strict=False)
    try:
        config.read_string(read_text(path).removeprefix("\ufeff"))
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} is no Tahoe node directory: it has no tahoe.cfg") from None
    except configparser.Error:
        raise ConfigError(f"{path} is malformed") from None
    return config


def _encoding(config: configparser.RawConfigParser) -> Encoding:
    values = []
    for name, default in _DEFAULTS.items():
        text = config.get("client", name, fallback="").strip()
        if text and not text.isdecimal():
            raise ConfigError(f"tahoe.cfg: {name} is no number")
        values.append(int(text) if text else default)
    return Encoding(*values)


def _grid_managers(config: configparser.RawConfigParser) -> tuple[bytes, ...]:
    if not config.has_section("grid_managers"):
        return ()
    try:
        return tuple(decode_public_key(value) for _, value in config.items("grid_managers"))
    except FormatError as error:
        raise ConfigError(f"tahoe.cfg, grid_managers: {error}") from error


def _cached(document: object) -> Iterator[tuple[object, object]]:
    """(server id, announcement) of the storage servers in an introducer cache."""
    for item in document if isinstance(document, list) else ():
        announcement = item.get("ann") if isinstance(item, Mapping) else None
        if isinstance(announcement, Mapping) and announcement.get("service-name") == "storage":
            yield item.get("key_s"), announcement


def _aliases(private: Path) -> Aliases:
    try:
        root = {"tahoe": read_text(private / "root_dir.cap").strip()}
    except FileNotFoundError:
        root = {}
    return Aliases(private / "aliases", root)
