"""Where lafsfs keeps its files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from lafsfs.config.files import make_private_directory, owned_private_directory
from lafsfs.errors import ConfigError

_NAME = "lafsfs"


@dataclass(frozen=True)
class Paths:
    """Directories by purpose. `config` is all that another machine needs to mount the same trees.

    `state` holds journals (losing it loses what was pending), `cache` may be lost, `data` is the bundled
    server's, `runtime` is a short private directory for sockets that does not outlive the login or the boot.
    """

    config: Path
    state: Path
    cache: Path
    data: Path
    runtime: Path

    @classmethod
    def discover(cls, env: Mapping[str, str] | None = None) -> Paths:
        """LAFSFS_HOME=DIR puts everything under DIR; else the platform's places. Creates only `runtime`."""
        env = os.environ if env is None else env
        runtime = _runtime(env)
        home = env.get("LAFSFS_HOME")
        if home:
            top = Path(home).expanduser().absolute()
            return cls(top / "config", top / "state", top / "cache", top / "data", runtime)
        return cls(
            Path(platformdirs.user_config_dir(_NAME)),
            Path(platformdirs.user_state_dir(_NAME)),
            Path(platformdirs.user_cache_dir(_NAME)),
            Path(platformdirs.user_data_dir(_NAME)),
            runtime,
        )

    def create(self) -> Paths:
        """Make sure that the directories exist, readable by their owner only."""
        for path in (self.config, self.state, self.cache, self.data):
            make_private_directory(path)
        return self

    @property
    def grid_file(self) -> Path:
        """The grid profile."""
        return self.config / "grid.yaml"

    @property
    def aliases_file(self) -> Path:
        """The aliases, as in a Tahoe node directory."""
        return self.config / "aliases"


def _runtime(env: Mapping[str, str]) -> Path:
    base = env.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK | os.X_OK):
        return owned_private_directory(Path(base) / _NAME)
    # Not TMPDIR: every process of the user must find the same place, and socket paths must stay short.
    fallback = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    try:
        return owned_private_directory(fallback / f"{_NAME}-{os.getuid()}")
    except OSError as error:
        raise ConfigError(f"no private directory for sockets: {error.strerror}") from error
