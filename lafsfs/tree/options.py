"""How a working tree behaves; all of it chosen at mount time."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Literal


def _host_label() -> str:
    return socket.gethostname().split(".")[0] or "host"


@dataclass(frozen=True)
class TreeOptions:
    """Settings of one mounted tree.

    `publish_delay` and `refresh` are seconds. `uid`, `gid` and `umask` give owners and modes to entries that
    other clients made without POSIX attributes. `acl`: POSIX ACLs count, not the mode alone. `staging_limit` bounds the
    bytes of unpublished content kept on the local disk (None: the disk is the limit). `label` names this mount in
    conflict copies. `new_files` is what files become that are new on the grid (new_files.py).
    New immutable files of up to `inline_limit` bytes are kept in their directory, as literal caps.
    Leases of everything are renewed every `lease_interval` seconds (None: never), at most `lease_rate` objects a
    second.
    `directory_wait` is how long a directory waits for children that are still uploading before it is published
    without them. `staging_wait` is how long a writer waits at the staging limit, or on a full disk, before it gets
    ENOSPC, `sync_wait` how long fsync=grid waits for the grid before it gets ETIMEDOUT.
    """

    read_only: bool = False
    acl: bool = False
    fsync: Literal["local", "grid"] = "local"
    publish_delay: float = 1.0
    refresh: float = 5.0
    staging_limit: int | None = None
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0o022
    new_files: Literal["chk", "sdmf", "mdmf"] = "chk"
    inline_limit: int = 55
    lease_interval: float | None = 7 * 86400.0
    lease_rate: float = 10.0
    label: str = field(default_factory=_host_label)
    directory_wait: float = 30.0
    staging_wait: float = 30.0
    sync_wait: float = 300.0
    upload_slots: int = 8
