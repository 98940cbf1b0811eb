"""lafsfs cap"""

from __future__ import annotations

import os

import click

from lafsfs.config import Paths
from lafsfs.daemon import client
from lafsfs.errors import UsageError


@click.command()
@click.argument("path")
@click.option("--read-only", is_flag=True, help="The capability that can read but not write.")
@click.option("--verify", is_flag=True, help="The capability that can check the shares but read nothing.")
def cap(path: str, read_only: bool, verify: bool) -> None:
    """Print the capability of a file or directory in a mounted tree.

    Whoever has it has the file: from any machine, for ever. Without an option it is the strongest one
    there is. What is not on the grid yet is published first.

    \b
    Examples:
        lafsfs cap --read-only ~/tahoe/photos      to show somebody your photos
        lafsfs cap ~/tahoe                         the write capability of the whole tree
    """
    if read_only and verify:
        raise UsageError("--read-only and --verify exclude each other")
    kind = "read" if read_only else "verify" if verify else "write"
    mount, below = client.find(Paths.discover(os.environ), path)
    with mount:
        click.echo(mount.request("cap", path=os.fsdecode(below), kind=kind)["cap"])
