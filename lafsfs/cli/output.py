"""What the commands write: messages on stderr, results on stdout."""

from __future__ import annotations

import click

from lafsfs.daemon.redaction import redact


def complain(message: str) -> None:
    """An error message on stderr, without secrets."""
    click.echo(printable(f"lafsfs: {redact(message)}"), err=True)


def note(message: str) -> None:
    """Something the user may want to know, on stderr."""
    click.echo(printable(f"lafsfs: {message}"), err=True)


def printable(text: str) -> str:
    """`text` as something any terminal encoding can take: undecodable bytes of file names become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def size_text(count: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 file`, `2 files`."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def pending_text(pending: dict[str, int]) -> str:
    """The three numbers of what is pending, as words."""
    return ", ".join(
        (
            plural(pending["files"], "file"),
            plural(pending["directories"], "directory", "directories"),
            size_text(pending["bytes"]),
        )
    )
