"""contrib/doc/cli.md says what the commands are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lafsfs import errors
from lafsfs.cli.main import cli
from lafsfs.errors import LafsError

PAGE = (Path(__file__).resolve().parents[2] / "contrib/doc/cli.md").read_text()
ERROR_KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LafsError)
]


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands of a group, those of groups inside it as well."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def documented_exit_codes() -> dict[str, int]:
    """Error kind -> exit code, from the table."""
    rows = re.findall(r"^\| (\d+) \| ([A-Za-z, ]*) \|", PAGE, re.MULTILINE)
    return {kind.strip(): int(code) for code, kinds in rows for kind in kinds.split(",") if kind.strip()}


@pytest.mark.parametrize("kind", ERROR_KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_documented_exit_code(kind: type[LafsError]) -> None:
    assert documented_exit_codes().get(kind.__name__) == kind.exit_code


def test_no_documented_error_is_missing() -> None:
    assert set(documented_exit_codes()) == {kind.__name__ for kind in ERROR_KINDS}


@pytest.mark.parametrize(("path", "command"), list(commands(cli)), ids=str)
def test_every_command_is_documented_and_explains_itself(
    path: tuple[str, ...], command: click.Command
) -> None:
    assert re.search(rf"^### {path[0]}\b", PAGE, re.MULTILINE)
    assert command.help
    if len(path) == 1 and not isinstance(command, click.Group):
        section = re.split(r"^##+ ", PAGE.split(f"### {path[0]}", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
        assert "Example" in command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert any(f"`{name}" in section for name in parameter.opts), parameter.name
