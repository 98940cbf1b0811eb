"""Who sent a request, as far as the kernel leaves it to us to ask."""

from __future__ import annotations

import pyfuse3
from pyfuse3 import RequestContext

CAP_FSETID = 4
CAP_SYS_ADMIN = 21


def has_capability(ctx: RequestContext, number: int) -> bool:
    """Whether the caller has a capability (capabilities(7)); if that cannot be seen, whether it is root."""
    return process_has_capability(ctx.pid, number, otherwise=ctx.uid == 0)


def process_has_capability(pid: int, number: int, *, otherwise: bool = False) -> bool:
    """Whether a process has a capability; `otherwise` if that cannot be seen."""
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> number & 1)
    except OSError:
        pass
    return otherwise


def is_in_group(ctx: RequestContext, gid: int) -> bool:
    """Whether the caller belongs to a group."""
    if ctx.gid == gid:
        return True
    try:
        return gid in pyfuse3.get_sup_groups(ctx.pid)
    except (OSError, RuntimeError):
        return False
