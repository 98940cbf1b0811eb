"""The space that is kept back is there when it is given up, whoever else would like to have it again."""

from __future__ import annotations

import threading
from pathlib import Path

from lafsfs.tree.reserve import RESERVE_BYTES, Reserve
from tests.support.small_disk import only_root, small_disk
from tests.tree.test_full_disk import take_all

MEGABYTES = 6


@only_root
def test_nobody_takes_it_while_it_is_given_up(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        reserve = Reserve(disk / "reserve")
        assert reserve.take(0)
        take_all(disk)
        ended = threading.Event()

        def take_again_and_again() -> None:
            while not ended.is_set():
                reserve.take(0)

        taker = threading.Thread(target=take_again_and_again)
        taker.start()
        try:
            for _ in range(300):
                with reserve.given_up():
                    (disk / "needed").write_bytes(bytes(RESERVE_BYTES // 2))
                    (disk / "needed").unlink()
        finally:
            ended.set()
            taker.join()
        assert reserve.take(0)
        assert not reserve.gone


@only_root
def test_a_full_disk_has_none(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        ballast = take_all(disk)
        reserve = Reserve(disk / "reserve")
        assert not reserve.take(0)
        assert reserve.gone
        assert reserve.missing(0)
        ballast.unlink()
        assert not reserve.missing(0)
        assert not reserve.gone


@only_root
def test_what_cannot_grow_is_kept(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MEGABYTES) as disk:
        reserve = Reserve(disk / "reserve")
        assert reserve.take(0)
        take_all(disk)
        assert not reserve.take(1)
        assert reserve.gone
        with reserve.given_up():
            (disk / "needed").write_bytes(bytes(RESERVE_BYTES // 2))
