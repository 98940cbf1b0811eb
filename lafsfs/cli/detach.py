"""lafsfs detach"""

from __future__ import annotations

import os

import click

from lafsfs.config import Paths
from lafsfs.daemon import client


@click.command()
@click.argument("path")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="S",
    help="Give up when what was changed below PATH is not on the grid after S seconds. Default: no limit.",
)
def detach(path: str, timeout: float | None) -> None:
    """Take the name PATH out of a mounted tree, and leave what it leads to as it is.

    The opposite of 'lafsfs attach': unlike rm -r it deletes nothing in a directory, and it works on directories
    that cannot be written. What was changed in it is published first. Nobody finds the object by that name any
    more: unless it has another one, whoever wants it back needs its capability ('lafsfs cap PATH', before).

    \b
    Example:
        lafsfs detach ~/tahoe/from-ann
    """
    mount, below = client.find(Paths.discover(os.environ), path)
    with mount:
        mount.request("detach", path=os.fsdecode(below), timeout=timeout)
