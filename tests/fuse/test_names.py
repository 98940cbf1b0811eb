"""Names of any bytes up to 255, never folded."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support.errnos import refused

NFC, NFD = "é".encode(), "e\u0301".encode()
NAMES = [
    NFC,
    NFD,
    "Å".encode(),
    "\u212b".encode(),  # the Angstrom sign, which normalises to the letter
    b"A",
    b"a",
    b"\xff\xfe",
    b"%FF%FE",  # what the name before might be kept as
    b"\xff",
    b"\xe9.txt",
    b"caf\xe9~2",
    b" leading and trailing ",
    b"new\nline\ttab\x01\x7f",
    b"...",
    b"-rf",
    b"*?[]\\'\"$`;&|<>(){}!#~",
    b"a:b",
    b'{"name": "x"}',
    "名前".encode(),
    "\U0001f600".encode(),
    b"~",
    b"CON",
    b"x" * 255,
    b"\xff" * 255,
    "é".encode() * 127,
    "e\u0301".encode() * 85,
]


def at(place: Path, name: bytes) -> bytes:
    return os.fsencode(place) + b"/" + name


def fill(place: Path) -> None:
    for number, name in enumerate(NAMES):
        with open(at(place, name), "xb") as file:
            file.write(b"%d" % number)


def test_each_name_is_its_own_file(place: Path) -> None:
    fill(place)
    assert sorted(os.listdir(os.fsencode(place))) == sorted(NAMES)
    for number, name in enumerate(NAMES):
        with open(at(place, name), "rb") as file:
            assert file.read() == b"%d" % number


def test_removing_one_name_leaves_those_that_look_alike(place: Path) -> None:
    fill(place)
    for number, name in enumerate(NAMES):
        if number % 2:
            os.unlink(at(place, name))
    assert sorted(os.listdir(os.fsencode(place))) == sorted(NAMES[::2])
    for number, name in enumerate(NAMES[::2]):
        with open(at(place, name), "rb") as file:
            assert file.read() == b"%d" % (2 * number)


def test_renaming_between_normal_forms(place: Path) -> None:
    with open(at(place, NFC), "wb") as file:
        file.write(b"one")
    os.rename(at(place, NFC), at(place, NFD))
    assert os.listdir(os.fsencode(place)) == [NFD]
    with open(at(place, NFC), "xb") as file:
        file.write(b"two")
    with open(at(place, NFD), "rb") as file:
        assert file.read() == b"one"


def test_directories_of_any_name(place: Path) -> None:
    for name in NAMES:
        os.mkdir(at(place, name))
        os.mkdir(at(place, name) + b"/" + name)
    assert all(os.listdir(at(place, name)) == [name] for name in NAMES)


@pytest.mark.parametrize("name", [b"x" * 256, b"\xff" * 256, "é".encode() * 128])
def test_longer_names_are_refused(place: Path, name: bytes) -> None:
    path = at(place, name)
    here = at(place, b"here")
    with open(here, "wb"):
        pass
    calls = [
        lambda: os.lstat(path),
        lambda: os.open(path, os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(path),
        lambda: os.mkfifo(path),
        lambda: os.symlink(b"x", path),
        lambda: os.link(here, path),
        lambda: os.rename(here, path),
        lambda: os.unlink(path),
        lambda: os.rmdir(path),
    ]
    for call in calls:
        with refused(errno.ENAMETOOLONG):
            call()
    assert os.listdir(place) == ["here"]


def test_name_max_is_announced(place: Path) -> None:
    assert os.pathconf(place, "PC_NAME_MAX") == 255
