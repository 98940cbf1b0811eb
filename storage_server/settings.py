"""Settings of one server directory, kept in `server.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lafsfs.errors import ConfigError

FILE_NAME: Final = "server.toml"


@dataclass(frozen=True)
class Settings:
    """What `lafs-storage create` decides and its owner may edit afterwards. Sizes in bytes."""

    host: str
    port: int
    advertised_host: str
    storage_dir: Path
    reserved_space: int = 0
    read_only: bool = False
    expire: bool = False

    def save(self, directory: Path) -> None:
        """Write `server.toml`."""
        text = (
            "# Settings of this lafs-storage server; read when it starts.\n"
            f'host = "{self.host}"\n'
            f"port = {self.port}\n"
            f'advertised_host = "{self.advertised_host}"\n'
            f"storage_dir = '{self.storage_dir}'\n"
            "# Bytes to leave free on the disk.\n"
            f"reserved_space = {self.reserved_space}\n"
            "# Take no new shares; existing ones are read, and mutable ones changed.\n"
            f"read_only = {str(self.read_only).lower()}\n"
            "# Delete shares when all their leases have expired.\n"
            f"expire = {str(self.expire).lower()}\n"
        )
        (directory / FILE_NAME).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, directory: Path) -> Settings:
        """Read `server.toml`. ConfigError if it is missing or wrong."""
        try:
            raw = tomllib.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"{directory} is no server directory; make one with lafs-storage create"
            ) from None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{directory / FILE_NAME}: {error}") from None
        settings = cls(
            host=_take(raw, "host", str),
            port=_take(raw, "port", int),
            advertised_host=_take(raw, "advertised_host", str),
            storage_dir=directory / _take(raw, "storage_dir", str),
            reserved_space=_take(raw, "reserved_space", int, 0),
            read_only=_take(raw, "read_only", bool, False),
            expire=_take(raw, "expire", bool, False),
        )
        if raw:
            raise ConfigError(f"{directory / FILE_NAME}: unknown setting {min(raw)!r}")
        return settings


def _take(raw: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value: Any = raw.pop(name, default)
    if type(value) is kind and not (isinstance(value, int) and value < 0):
        return value
    raise ConfigError(f"{FILE_NAME}: {name} is missing or wrong")
