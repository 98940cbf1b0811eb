"""Mutable files of the grid: only their servers know their size."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from lafsfs.errors import LafsError
from lafsfs.formats.caps import MutableReadCap, MutableWriteCap, parse
from lafsfs.transfer.servermap import Version
from lafsfs.tree.inodes import Inode
from lafsfs.tree.kernel import Kernel
from lafsfs.tree.options import TreeOptions
from lafsfs.tree.torn import readable

if TYPE_CHECKING:
    from lafsfs.nodes.maker import NodeMaker

log = logging.getLogger(__name__)


class Measuring:
    """The part of the tree that knows versions of mutable files."""

    nodes: NodeMaker
    options: TreeOptions
    kernel: Kernel
    troubles: dict[int, str]
    _measured: dict[int, tuple[float, Version | None]]

    def is_mutable(self, inode: Inode) -> bool:
        """Whether it is a mutable file on the grid: only its servers know its size."""
        if inode.caps is None or not inode.attributes.is_regular:
            return False
        start = inode.caps[1][:12]
        return b":SSK" in start or b":MDMF" in start

    async def measured(self, inode: Inode, *, needed: bool = False) -> Inode:
        """The same inode; the size of a mutable file, which only its servers know, is up to date.

        When they do not tell, it is as it was last seen. If it never was, that is an error for whoever `needed` it
        (LafsError): what is written on a size that is not known could replace everything.
        """
        if inode.content is not None or not self.is_mutable(inode):
            return inode
        assert inode.caps is not None
        cap = parse(inode.caps[0] or inode.caps[1])
        now = trio.current_time()
        when, known = self._measured.get(inode.ino, (float("-inf"), None))
        fresh = now - when < self.options.refresh and (known is not None or not needed)
        if fresh or not isinstance(cap, MutableWriteCap | MutableReadCap):
            if known is not None and inode.attributes.size != known.size:
                # The inode was made anew from its entry.
                inode.attributes = inode.attributes._replace(size=known.size)
            return inode
        if not needed:
            self._measured[inode.ino] = now, known
        try:
            version = await readable(self.nodes.mutable_file(cap))
        except LafsError as problem:
            log.warning("the size of a mutable file is not known: %s", problem)
            self.troubles[inode.ino] = f"shown as last seen: {problem}"
            if needed and known is None:
                raise
        else:
            self.troubles.pop(inode.ino, None)
            if inode.content is None:
                self.show_version(inode, version)
        return inode

    def show_version(self, inode: Inode, version: Version, *, quietly: bool = False) -> None:
        """`version` of a mutable file is the newest; `quietly`: whoever calls shows that by a change of his own."""
        known = self.measured_version(inode)
        self._measured[inode.ino] = trio.current_time(), version
        if not quietly and (version != known or inode.attributes.size != version.size):
            inode.attributes = inode.attributes._replace(size=version.size)
            inode.version += 1
            inode.followed = True
            self.kernel.inode_changed(inode.ino, content=True)

    def measured_version(self, inode: Inode) -> Version | None:
        """The newest version known of a mutable file."""
        return self._measured.get(inode.ino, (0.0, None))[1]
