"""Changes of attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lafsfs.errors import ReadOnlyError
from lafsfs.tree import acl
from lafsfs.tree.attributes import Attributes, bounded, now
from lafsfs.tree.change import Change
from lafsfs.tree.inodes import ROOT, Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree


class NewAttributes(NamedTuple):
    """What setattr asks for; None: leave it. Times in nanoseconds."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None
    ctime: int | None = None


class Changing:
    """chmod, chown, utimens and truncate. Permission was checked by the kernel."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    async def set_attributes(self, inode: Inode, new: NewAttributes) -> None:
        """Change what `new` names (chown may name nothing); ctime is now unless given.

        Times out of bounds become the bound. ReadOnlyError.
        """
        self.check(inode)
        values: dict[str, int] = {}
        for field, time in ("atime", new.atime), ("mtime", new.mtime), ("ctime", new.ctime):
            if time is not None:
                values[field] = bounded(time)
        if new.size is not None:
            t = now()
            times = {"mtime": values.get("mtime", t), "ctime": values.get("ctime", t)}
            await self._tree.files.truncate(inode, new.size, **times)
        if new.uid is not None:
            values["uid"] = new.uid
        if new.gid is not None:
            values["gid"] = new.gid
        if new.mode is not None:
            values["mode"] = _with_permissions(inode.attributes, new.mode)
        if not values and new.size is not None:
            return
        values.setdefault("ctime", now())
        change = Change(self._tree)
        change.touch(inode, **values)
        xattrs = acl.after_chmod(inode.xattrs, values["mode"]) if "mode" in values else inode.xattrs
        if xattrs is not inode.xattrs:
            change.xattrs(inode, xattrs)
        change.commit()

    def check(self, inode: Inode) -> None:
        """Whether attributes of `inode` can be changed at all. ReadOnlyError."""
        if self._tree.read_only:
            raise ReadOnlyError("read-only file system")
        if inode.ino == ROOT and inode.folder is not None:
            self._tree.check_changeable(inode.folder)
        self._tree.check_names_changeable(inode)


def _with_permissions(attributes: Attributes, mode: int) -> int:
    return attributes.mode & ~0o7777 | mode & 0o7777
