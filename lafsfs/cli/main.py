"""The `lafsfs` command: finds the verb, turns errors into one clear message and a stable exit code."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback

import click

from lafsfs.cli.output import complain
from lafsfs.cli.secrecy import hide_secret_arguments
from lafsfs.daemon.redaction import redact
from lafsfs.errors import LafsError

_COMMANDS = ("create", "mount", "unmount", "flush", "status", "cap", "attach", "detach", "seal", "grid")
_INTERRUPTED = 130
_DEFECT = 1


class _LazyGroup(click.Group):
    """A group that imports a command's module when it is needed: `lafsfs status` should not load
    everything.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"lafsfs.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="lafsfs")
def cli() -> None:
    """Mount Tahoe-LAFS directories as ordinary file trees.

    \b
    A first tree, on a storage server of its own on this machine:
        lafsfs create                 makes an empty directory and remembers it as "home"
        lafsfs mount home: ~/tahoe    mounts it; use it with any program
        lafsfs status                 what is not on the servers yet
        lafsfs unmount ~/tahoe        finishes uploading, then unmounts

    \b
    An existing Tahoe-LAFS grid:
        lafsfs mount --node-directory ~/.tahoe tahoe: ~/tahoe

    LAFSFS_HOME=DIR keeps everything below DIR (config, state, cache, data) instead of the usual places of
    your account. Exit codes are listed in contrib/doc/cli.md.
    """


def main() -> None:
    """The console script. Does not return."""
    hide_secret_arguments()
    logging.basicConfig(level=logging.CRITICAL)
    sys.exit(_run())


def _run() -> int:
    """Runs the command and gives its exit code."""
    try:
        result = cli.main(standalone_mode=False)
    except LafsError as error:
        complain(str(error) or type(error).__name__)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return _usage_error(error)
    except (click.Abort, KeyboardInterrupt):
        complain("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        return _DEFECT
    except Exception as error:
        complain(f"unexpected error: {type(error).__name__}: {error}")
        click.echo(redact(traceback.format_exc()), err=True)
        return _DEFECT
    return result if isinstance(result, int) else 0


def _usage_error(error: click.ClickException) -> int:
    """What click has to say about the arguments, without repeating secrets that were among them."""
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(context.get_usage(), err=True)
        click.echo(f"Try '{context.command_path} --help' for help.", err=True)
    complain(error.format_message())
    return error.exit_code


if __name__ == "__main__":
    main()
