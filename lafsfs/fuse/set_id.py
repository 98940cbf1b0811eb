"""Whoever changes a file takes its set-user-ID away, and set-group-ID if it is executable by its group.

The kernel leaves that to us (negotiation.py): a write by somebody without privilege is preceded by a setattr that names
nothing. Opening with O_TRUNC is left to the tree.
"""

from __future__ import annotations

from pyfuse3 import RequestContext, SetattrFields

from lafsfs.fuse.callers import CAP_FSETID, has_capability
from lafsfs.tree.attributes import Attributes, without_set_id

FILE_CAPABILITY = b"security.capability"  # lost in the same way; the kernel asks for it before a write

_TIMES = ("update_atime", "update_mtime", "update_ctime")


def mode_left(attributes: Attributes, fields: SetattrFields, ctx: RequestContext) -> int | None:
    """The mode after a setattr that does not give one; None if it stays as it is."""
    mode = without_set_id(attributes.mode)
    if mode == attributes.mode or attributes.is_dir:
        return None
    if fields.update_uid or fields.update_gid:
        return mode
    if fields.update_size:
        return None if has_capability(ctx, CAP_FSETID) else mode
    return None if any(getattr(fields, time) for time in _TIMES) else mode
