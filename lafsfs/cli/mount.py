"""lafsfs mount"""

from __future__ import annotations

import os
from pathlib import Path

import click

from lafsfs.cli import mount_options
from lafsfs.cli.output import note
from lafsfs.cli.source import alias_files, grid_options, grid_source
from lafsfs.cli.what import resolve
from lafsfs.config import Paths
from lafsfs.daemon import launch
from lafsfs.daemon.capabilities import root_cap
from lafsfs.daemon.mountpoint import real_path
from lafsfs.daemon.spec import MountRequest


@click.command()
@click.argument("what")
@click.argument("mountpoint")
@click.option(
    "-f", "--foreground", is_flag=True, help="Stay in the foreground and log to stderr; Ctrl-C unmounts."
)
@click.option("-o", "options", multiple=True, metavar="OPT,...", help="Mount options, see above.")
@grid_options
def mount(
    what: str,
    mountpoint: str,
    foreground: bool,
    options: tuple[str, ...],
    grid_file: Path | None,
    node_directory: Path | None,
) -> None:
    """Mount a Tahoe-LAFS directory at MOUNTPOINT, an empty directory. Returns when the tree is usable.

    \b
    WHAT is one of
        home:              an alias (lafsfs create makes them)
        home:photos/2026   a directory below an alias
        URI:DIR2:...       a capability; one that cannot write mounts read-only
        @FILE              a capability in a file
        -                  a capability on standard input

    \b
    Options for -o, with commas between them:
        ro                 read-only
        allow_other        let other users in (needs user_allow_other in /etc/fuse.conf)
        acl                POSIX access control lists (setfacl, getfacl)
        fsync=local        fsync waits for this machine's disk (the default)
        fsync=grid         fsync waits for the storage servers
        new_files=mdmf     new files can be changed in place on the grid (see cli.md; default chk)
        inline_limit=SIZE  smaller new files are kept in their directory (default 55, at most 16K)
        publish_delay=S    changes go to the grid after S seconds (default 1)
        refresh=S          others' changes are seen after S seconds at most (default 5)
        cache_size=SIZE    disk space for the cache of what was read (default 2G)
        staging_size=SIZE  limit for content that is not on the grid yet (default: none)
        staging_wait=S     at that limit, or on a full disk, writers wait S seconds (default 30)
        leases=TIME        leases of everything are renewed every so often (default 7d; or off)
        uid=, gid=, umask= owner and permissions of entries that other programs made

    \b
    Examples:
        lafsfs mount home: ~/tahoe
        lafsfs mount -o ro,cache_size=10G @photos.cap ~/photos
        lafsfs mount --node-directory ~/.tahoe tahoe: ~/tahoe

    Changes are in a local journal when a program's call returns, and go to the grid in the background:
    'lafsfs status' shows what is still to go, 'lafsfs unmount' finishes it.
    """
    paths = Paths.discover(os.environ)
    source = grid_source(grid_file, node_directory)
    settings = mount_options.parse(options)
    wanted = resolve(what, *alias_files(paths, source))
    cap = root_cap(wanted.cap).to_string()
    request = MountRequest(cap, real_path(mountpoint), wanted.subpath, source, settings)
    if foreground:
        launch.in_foreground(request)
    for line in launch.in_background(request):
        note(line)
