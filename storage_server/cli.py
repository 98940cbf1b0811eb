"""`lafs-storage`: create, run and describe a storage server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final, NoReturn

import click

from lafsfs.errors import LafsError, UsageError
from lafsfs.formats import base32
from storage_server import identity as identities
from storage_server import sockets
from storage_server.identity import Identity
from storage_server.settings import Settings

_WILDCARDS: Final = ("", "0.0.0.0", "::")
_DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError("the address is HOST:PORT; port 0 chooses a free one")
    return host.strip("[]"), int(port)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A storage server for lafsfs and Tahoe-LAFS clients.

    It keeps encrypted shares in a directory, in the formats of Tahoe-LAFS 1.20, and speaks its HTTP storage
    protocol over TLS. Clients need its NURL (and its FURL), which `lafs-storage info` prints.
    """


@cli.command()
@_DIRECTORY
@click.option(
    "--listen", default="127.0.0.1:0", metavar="HOST:PORT", show_default=True, help="Where to listen."
)
@click.option("--advertise", metavar="HOST", help="Host name or address that clients shall use.")
@click.option(
    "--storage-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the shares are; may be the storage directory of a Tahoe node. Default: DIR/storage.",
)
@click.option("--reserved-space", type=click.IntRange(0), default=0, help="Bytes to leave free on the disk.")
def create(
    directory: Path, listen: str, advertise: str | None, storage_dir: Path | None, reserved_space: int
) -> None:
    """Make a new server in DIR: its keys, its secret and its settings."""
    host, port = _host_and_port(listen)
    port = sockets.usable_port(host, port)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    identities.create(directory)
    if advertise is None:
        advertise = socket.gethostname() if host in _WILDCARDS else host
    place = Path("storage") if storage_dir is None else storage_dir.absolute()
    settings = Settings(host, port, advertise, place, reserved_space)
    settings.save(directory)
    (directory / place).mkdir(mode=0o700, parents=True, exist_ok=True)
    click.echo(f"created a storage server in {directory}; start it with: lafs-storage run {directory}")


@cli.command()
@_DIRECTORY
@click.option("--ready-fd", type=int, help="Write a line to this file descriptor when ready, and close it.")
@click.option("--read-only", is_flag=True, help="Take no new shares.")
@click.option("--expire", is_flag=True, help="Delete shares whose leases have all expired.")
def run(directory: Path, ready_fd: int | None, read_only: bool, expire: bool) -> None:
    """Serve DIR until SIGTERM or Ctrl-C."""
    from storage_server import serving  # slow to load, and only needed here

    settings = Settings.load(directory)
    settings = replace(settings, read_only=settings.read_only or read_only, expire=settings.expire or expire)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)

    def ready(host: str, port: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads it: not a reason to stop serving
            print(f"listening on {host}:{port}", flush=True)
        if ready_fd is not None:
            with contextlib.suppress(BrokenPipeError):
                os.write(ready_fd, b"ready\n")
            os.close(ready_fd)

    serving.run(directory, settings, ready)


def _description(identity: Identity, settings: Settings) -> dict[str, str | int]:
    host, port = settings.advertised_host, settings.port
    return {
        "nurl": identity.nurl(host, port).to_string(),
        "furl": identity.furl(host, port).to_string(),
        "server_id": identity.server_id,
        "tubid": base32.encode(identity.tubid),
        "spki": identity.spki,
        "permutation_seed": base32.encode(identity.permutation_seed),
        "port": port,
        "storage_dir": str(settings.storage_dir),
    }


@cli.command()
@_DIRECTORY
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def info(directory: Path, as_json: bool) -> None:
    """Print what clients need to know about the server in DIR. The NURL is a secret: it grants access."""
    description = _description(identities.load(directory), Settings.load(directory))
    if as_json:
        click.echo(json.dumps(description, indent=1))
    else:
        for name, value in description.items():
            click.echo(f"{name + ':':18}{value}")


def main() -> NoReturn:
    """Entry point: errors become one line on stderr and the exit code of their kind."""
    try:
        cli(prog_name="lafs-storage")
    except LafsError as error:
        click.echo(f"lafs-storage: {error}", err=True)
        sys.exit(error.exit_code)
    sys.exit(0)
