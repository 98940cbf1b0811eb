"""Where a mount's control socket is, and who is at the other end of one. Shared by both ends."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
from pathlib import Path
from typing import Any


def socket_name(mountpoint: Path) -> str:
    """The file name of the control socket for the mount at `mountpoint` (a real path)."""
    return hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:32] + ".sock"


def peer_of(connection: Any) -> tuple[int, int]:
    """(pid, uid) of the process at the other end of a Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return pid, uid
