"""Making changes in the storage directory. Every function here is idempotent and blocking."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from storage_server.changes import Buffer, Change, Create, Delete, Edit, Put
from storage_server.layout import Layout

_ZEROS: Final = bytes(1 << 20)


def write_all(fd: int, data: Buffer, offset: int) -> None:
    """pwrite all of `data`; raises OSError."""
    written = os.pwrite(fd, data, offset)
    if written < len(data):
        rest = memoryview(data)[written:]
        while rest:
            offset += written
            written = os.pwrite(fd, rest, offset)
            rest = rest[written:]


def rename_into_place(source: str, target: str) -> None:
    """Rename, making the target's directory, also when somebody removes it as empty in between."""
    bucket = os.path.dirname(target)
    while True:
        with suppress(FileExistsError):
            _make_bucket(bucket)
        with suppress(FileNotFoundError):
            os.rename(source, target)
            return
        os.stat(source)


def _make_bucket(bucket: str) -> None:
    try:
        os.mkdir(bucket, 0o700)
    except FileNotFoundError:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(bucket), 0o700)
        os.mkdir(bucket, 0o700)


def apply(layout: Layout, changes: Sequence[Change]) -> None:
    """Make the changes, in order. Nothing is synced. OSError leaves them half made; do them again."""
    for change in changes:
        if isinstance(change, Delete):
            _delete(layout, change)
        elif isinstance(change, Create):
            _create(layout, change)
        else:
            with suppress(FileNotFoundError):  # in a replay: a later change deletes it
                fd = os.open(layout.share(change.storage_index, change.shnum), os.O_RDWR | os.O_CLOEXEC)
                _edit_and_close(fd, change.edits)


def _create(layout: Layout, change: Create) -> None:
    # Made where it will stay: ext4 spreads directories over the disk, and one with all new files is a crowded place.
    scratch = layout.scratch(change.storage_index, change.shnum)
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        fd = os.open(scratch, flags, 0o600)
    except FileNotFoundError:
        with suppress(FileExistsError):
            _make_bucket(layout.bucket(change.storage_index))
        fd = os.open(scratch, flags, 0o600)
    _edit_and_close(fd, change.edits)
    os.rename(scratch, layout.share(change.storage_index, change.shnum))


def _delete(layout: Layout, change: Delete) -> None:
    with suppress(FileNotFoundError):
        os.unlink(layout.share(change.storage_index, change.shnum))
    with suppress(OSError):  # other shares are still there, or the bucket is gone already
        os.rmdir(layout.bucket(change.storage_index))


def _edit_and_close(fd: int, edits: Sequence[Edit]) -> None:
    try:
        for edit in edits:
            if isinstance(edit, Put):
                write_all(fd, edit.data, edit.offset)
            else:
                _zero(fd, edit.offset, edit.length)
    finally:
        os.close(fd)


def _zero(fd: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        size = min(len(_ZEROS), end - offset)
        write_all(fd, memoryview(_ZEROS)[:size], offset)
        offset += size


def fsync_path(path: str) -> None:
    """fsync a file or a directory by name."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
