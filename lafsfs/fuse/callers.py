"""Who sent a request, as far as the kernel leaves it to us to ask."""

from __future__ import annotations

import pyfuse3
from pyfuse3 import RequestContext

CAP_FSETID = 4
CAP_SYS_ADMIN = 21


def has_capability(ctx: RequestContext, number: int) -> bool:
    """Whether the caller has a capability (capabilities(7)); if that cannot be seen, whether it is root."""
    try:
        with open(f"/proc/{ctx.pid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> number & 1)
    except OSError:
        pass
    return ctx.uid == 0


def is_in_group(ctx: RequestContext, gid: int) -> bool:
    """Whether the caller belongs to a group."""
    if ctx.gid == gid:
        return True
    try:
        return gid in pyfuse3.get_sup_groups(ctx.pid)
    except (OSError, RuntimeError):
        return False
