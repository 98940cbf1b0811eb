"""What new files and directories become on the grid: immutable files as in Tahoe, unless the mount or the directory
says otherwise; directories in the format of the one above.

The choice counts when a file is published for the first time; a file that is on the grid keeps its kind from then on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lafsfs.tree.inodes import Inode

if TYPE_CHECKING:
    from lafsfs.tree.tree import Tree

Format = Literal["chk", "sdmf", "mdmf"]
ATTRIBUTE = b"user.lafs.new_files"
"""Of a directory: what new files in it become. New directories inherit it. An ordinary attribute, listed and copied."""
FORMATS: dict[bytes, Format] = {b"chk": "chk", b"sdmf": "sdmf", b"mdmf": "mdmf"}


def format_of_new_file(tree: Tree, inode: Inode) -> Format:
    """What a file that is not on the grid yet becomes: what its directory says, else the mount."""
    if inode.attributes.is_regular:
        for directory, _ in tree.hard_links.names(inode):
            above = tree.inodes.get(directory)
            wanted = FORMATS.get((above.xattrs or {}).get(ATTRIBUTE, b"")) if above is not None else None
            if wanted is not None:
                return wanted
        return tree.options.new_files
    return "chk"


def new_directory_is_mdmf(tree: Tree, inode: Inode) -> bool:
    """Whether a new directory is kept in an MDMF file: as the nearest one above it that is on the grid."""
    above = next((directory for directory in tree.ancestors(inode) if directory.caps is not None), None)
    return above is not None and above.caps is not None and above.caps[1].startswith(b"URI:DIR2-MDMF")


def inherited(above: Inode, xattrs: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """The extended attributes of a new directory in `above`, of which the others are `xattrs`."""
    wanted = (above.xattrs or {}).get(ATTRIBUTE)
    return xattrs if wanted is None else {**(xattrs or {}), ATTRIBUTE: wanted}
