"""Mutable containers against a bytearray: data, zero filling, truncation, leases, through real files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from storage_server import leases, mutable
from storage_server.apply import apply
from storage_server.changes import Create, Modify
from storage_server.layout import Layout
from storage_server.leases import LeaseSecrets
from storage_server.mutable import MutableContainer

SI = b"0123456789abcdef"
NODE = b"n" * 20

writes = st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=120)), max_size=4)
steps = st.lists(
    st.tuples(writes, st.none() | st.integers(1, 400), st.integers(0, 9)), min_size=1, max_size=6
)


def _model_step(model: bytearray, step_writes: list[tuple[int, bytes]], length: int | None) -> None:
    for offset, data in step_writes:
        model += bytes(max(0, offset - len(model)))
        model[offset : offset + len(data)] = data
    if length is not None:
        del model[length:]


@settings(deadline=None, max_examples=80)
@given(steps)
def test_against_a_bytearray(all_steps: list[tuple[list[tuple[int, bytes]], int | None, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        layout = Layout(Path(directory))
        layout.make()
        model, held = bytearray(), list[int]()
        for number, (step_writes, length, client) in enumerate(all_steps):
            kind = Create if number == 0 else Modify
            if number == 0:
                container = MutableContainer.new(NODE, b"w" * 32)
            else:
                fd = os.open(layout.share(SI, 0), os.O_RDONLY)
                container = MutableContainer.load(fd)
                os.close(fd)
            for offset, data in step_writes:
                container.write(offset, data)
            if length is not None:
                container.truncate(length)
            container.lease(LeaseSecrets(bytes([client]) * 32, b"c" * 32), 1000 + number, NODE)
            changes = [kind(SI, 0, container.edits())]
            apply(layout, changes)
            if number:
                apply(layout, changes)  # a replay: the same file
            _model_step(model, step_writes, length)
            held += [client] if client not in held else []
            _check(layout, model, held)


def _check(layout: Layout, model: bytearray, held: list[int]) -> None:
    path = layout.share(SI, 0)
    fd = os.open(path, os.O_RDONLY)
    try:
        container = MutableContainer.load(fd)
        assert os.pread(fd, container.data_length, mutable.DATA_OFFSET) == model
    finally:
        os.close(fd)
    stored = [leases.grant(LeaseSecrets(bytes([c]) * 32, b""), 1, 0, 2).renew for c in held]
    assert [lease.renew for lease in container.all_leases()] == stored
    assert container.extra_offset >= mutable.DATA_OFFSET + len(model)
    extra = max(0, len(held) - mutable.SLOTS)
    assert os.path.getsize(path) == container.extra_offset + 4 + leases.MUTABLE_SIZE * extra
