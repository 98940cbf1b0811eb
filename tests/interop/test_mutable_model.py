"""Random changes of an MDMF file through mounts, against a bytearray; Tahoe reads every few steps, and changes some.

MUTABLE_STEPS and MUTABLE_SIZE make it longer.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop.conftest import SharedGrid
from tests.support.mounts import LafsfsHome, lafsfs_home
from tests.support.tahoe_trees import deep_check, listing

pytestmark = [pytest.mark.tahoe, pytest.mark.timeout(900)]

STEPS = int(os.environ.get("MUTABLE_STEPS", "20"))
SIZE = int(os.environ.get("MUTABLE_SIZE", str(1 << 20)))
SEGMENT = 128 << 10
SAMPLE = 4


def change(model: bytearray, rnd: random.Random) -> Callable[[Path], None]:
    """Changes the model; what does the same to a file."""
    kind = rnd.choice(("write", "write", "append", "truncate", "beyond"))
    if kind == "truncate":
        size = rnd.randrange(min(SIZE, len(model) + SEGMENT) + 1)
        model[:] = model[:size].ljust(size, b"\0")
        return lambda path: os.truncate(path, size)
    data = rnd.randbytes(rnd.choice((1, 100, 4096, SEGMENT, SEGMENT + 1, 300_000)))
    start = {"write": rnd.randrange(len(model) + 1), "append": len(model)}.get(
        kind, len(model) + rnd.randrange(2 * SEGMENT)
    )
    model.extend(bytes(max(0, start - len(model))))
    model[start : start + len(data)] = data

    def write(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(start)
            file.write(data)

    return write


def test_two_mounts_and_tahoe_agree_on_a_mutable_file(
    shared_grid: SharedGrid, fresh_home: LafsfsHome
) -> None:
    rnd, client = random.Random(7), shared_grid.client
    options = ("-o", "new_files=mdmf,refresh=0", *shared_grid.options)
    cap = fresh_home.lafsfs("create", "--show-cap", "--format", "mdmf", *shared_grid.options).stdout.strip()
    with lafsfs_home() as other_home, fresh_home.mounted("home:", *options) as one:
        other_home.path.mkdir(parents=True, exist_ok=True)
        cap_file = other_home.path / "cap"
        cap_file.write_text(cap)
        with other_home.mounted(f"@{cap_file}", *options) as two:
            model = bytearray(rnd.randbytes(SIZE // 2))
            (one.path / "m").write_bytes(model)
            fresh_home.lafsfs("flush", str(one.path))
            inside = listing(client, cap)["m"].cap
            for step in range(STEPS):
                tree, home = rnd.choice(((one, fresh_home), (two, other_home)))
                for _ in range(rnd.choice((1, 1, 2, 4))):
                    change(model, rnd)(tree.path / "m")
                home.lafsfs("flush", str(tree.path))
                if step % SAMPLE == 0:
                    assert client.get(inside) == model, f"step {step}: Tahoe"
                    if model:
                        offset = rnd.randrange(len(model))
                        client.request("PUT", f"/uri/{inside}?offset={offset}", b"T")
                        model[offset : offset + 1] = b"T"
                for each in (one, two):
                    assert (each.path / "m").read_bytes() == model, f"step {step}"
                    assert os.stat(each.path / "m").st_size == len(model)
            assert os.listdir(one.path) == os.listdir(two.path) == ["m"]
    assert deep_check(client, cap)["count-objects-unhealthy"] == 0
