"""What a mount process is asked to do, and how the request travels to it.

The request holds a capability, so it goes through a pipe: never through arguments or the environment,
which other programs can see.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lafsfs.errors import UsageError

DEFAULT_CACHE_BYTES = 2 << 30
# What fits into a pipe before anybody reads from it; pathological caps aside, a request is far smaller.
_PIPE_BYTES = 65536


@dataclass(frozen=True)
class GridSource:
    """Where the servers come from: a profile, a Tahoe node directory, or (both None) lafsfs's own
    configuration.
    """

    grid_file: Path | None = None
    node_directory: Path | None = None


@dataclass(frozen=True)
class MountSettings:
    """The options of one mount. Sizes in bytes, times in seconds; `uid` and `gid` None: those of the
    process.
    """

    read_only: bool = False
    allow_other: bool = False
    acl: bool = False
    fsync: Literal["local", "grid"] = "local"
    new_files: Literal["chk", "sdmf", "mdmf"] = "chk"
    inline_limit: int = 55
    publish_delay: float = 1.0
    refresh: float = 5.0
    cache_bytes: int = DEFAULT_CACHE_BYTES
    staging_limit: int | None = None
    staging_wait: float = 30.0
    uid: int | None = None
    gid: int | None = None
    umask: int = 0o022
    lease_interval: float | None = 7 * 86400.0
    kernel_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class MountRequest:
    """Mount `subpath` below the directory of capability `cap` at `mountpoint` (a real path)."""

    cap: str = field(repr=False)
    mountpoint: Path
    subpath: tuple[str, ...] = ()
    grid: GridSource = GridSource()
    settings: MountSettings = MountSettings()

    def to_json(self) -> bytes:
        """The request as one JSON object."""
        return json.dumps(dataclasses.asdict(self), default=str).encode()

    @classmethod
    def from_json(cls, data: bytes) -> MountRequest:
        """The request that to_json wrote."""
        raw = json.loads(data)
        settings = raw["settings"]
        settings["kernel_options"] = tuple(settings["kernel_options"])
        grid = {name: None if value is None else Path(value) for name, value in raw["grid"].items()}
        return cls(
            cap=raw["cap"],
            mountpoint=Path(raw["mountpoint"]),
            subpath=tuple(raw["subpath"]),
            grid=GridSource(**grid),
            settings=MountSettings(**settings),
        )


def into_pipe(request: MountRequest) -> int:
    """The read end of a new pipe that holds the whole request; inheritable. The caller closes it."""
    data = request.to_json()
    if len(data) > _PIPE_BYTES:
        raise UsageError("the capability is too long to be a directory")
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
    finally:
        os.close(writer)
    os.set_inheritable(reader, True)
    return reader


def from_pipe(descriptor: int) -> MountRequest:
    """Reads what into_pipe wrote and closes the descriptor."""
    with os.fdopen(descriptor, "rb") as pipe:
        return MountRequest.from_json(pipe.read())
