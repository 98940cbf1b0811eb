"""What can be mounted, as people write it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from lafsfs.cli.what import check_alias, resolve
from lafsfs.config import Aliases
from lafsfs.daemon.capabilities import root_cap
from lafsfs.errors import BadCapError, LafsError, UnknownAliasError, UsageError
from lafsfs.formats.caps import ChkCap, DirCap, LiteralCap, MutableWriteCap

CAP = DirCap(MutableWriteCap(b"w" * 16, b"f" * 32, mdmf=False))


@pytest.fixture
def aliases(tmp_path: Path) -> Aliases:
    """One file of aliases."""
    found = Aliases(tmp_path / "aliases")
    found.set("home", CAP.to_string())
    return found


def test_an_alias_and_paths_below_it(aliases: Aliases) -> None:
    assert resolve("home:", aliases).cap == CAP.to_string()
    assert resolve("home:", aliases).subpath == ()
    assert resolve("home:/a//b c/./", aliases).subpath == ("a", "b c")


def test_the_first_file_of_aliases_wins(aliases: Aliases, tmp_path: Path) -> None:
    other = Aliases(tmp_path / "other", {"home": "URI:DIR2:other", "tahoe": "URI:DIR2:t"})
    assert resolve("home:", other, aliases).cap == "URI:DIR2:other"
    assert resolve("tahoe:", aliases, other).cap == "URI:DIR2:t"


def test_a_cap_from_a_file_and_from_stdin(
    aliases: Aliases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cap").write_text(f"\n  {CAP.to_string()}\n")
    assert resolve(f"@{tmp_path}/cap", aliases).cap == CAP.to_string()
    monkeypatch.setattr(sys, "stdin", io.StringIO(CAP.to_string() + "\n"))
    assert resolve("-", aliases).cap == CAP.to_string()


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("nobody:", UnknownAliasError),
        ("home:a/../b", UsageError),
        ("home", BadCapError),
        ("", BadCapError),
        (":", BadCapError),
        ("http://127.0.0.1:3456/uri/URI%3ADIR2", BadCapError),
        ("@/nonexistent/file", UsageError),
        ("@/dev/null", UsageError),
    ],
)
def test_what_means_nothing_is_refused(aliases: Aliases, what: str, kind: type[LafsError]) -> None:
    with pytest.raises(kind):
        resolve(what, aliases)


@pytest.mark.parametrize(
    "cap",
    [
        "URI:DIR2:short:short",
        "URI:FUTURE:abc",
        "x-tahoe-future:abc",
        CAP.to_string()[:-1],
        CAP.verify_cap().to_string(),  # type: ignore[union-attr]
        CAP.file.to_string(),
        ChkCap(b"k" * 16, b"u" * 32, 3, 10, 1000).to_string(),
        LiteralCap(b"hello").to_string(),
    ],
)
def test_caps_that_cannot_be_mounted_are_refused_without_being_repeated(cap: str) -> None:
    with pytest.raises(BadCapError) as refusal:
        root_cap(cap)
    assert cap not in str(refusal.value)


@pytest.mark.parametrize(
    "cap",
    [
        CAP,
        CAP.read_cap(),
        DirCap(LiteralCap(b"")),
        DirCap(ChkCap(b"k" * 16, b"u" * 32, 3, 10, 1000)),
        DirCap(MutableWriteCap(b"w" * 16, b"f" * 32, mdmf=True)),
    ],
)
def test_every_kind_of_directory_can_be_mounted(cap: DirCap) -> None:
    assert root_cap(cap.to_string() + "\n") == cap


def test_names_of_aliases() -> None:
    assert check_alias("photos") == "photos"
    assert check_alias("photos:") == "photos"
    for name in ("", "a b", "a/b", "a:b", "@x", "-x", "URI"):
        with pytest.raises(UsageError):
            check_alias(name)
