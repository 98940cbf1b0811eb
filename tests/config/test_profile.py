"""The grid file: ours, Tahoe's servers.yaml, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lafsfs.config import Encoding, GridProfile, ServerEntry, SignedCertificate
from lafsfs.config.server import default_seed, make_announcement, parse_announcement
from lafsfs.errors import ConfigError, FormatError
from lafsfs.formats import base32
from lafsfs.gbs.nurl import Furl, Nurl

PIN = "A" * 43
SECRET = "s" * 32
NURL = f"pb://{PIN}@example.org:1234/{SECRET}#v=1"
FURL = f"pb://{'a' * 32}@tcp:example.org:1234/{SECRET}"
KEY_ID = "v0-" + base32.encode(b"k" * 32)


def _entry(server_id: str = KEY_ID) -> ServerEntry:
    certificate = SignedCertificate('{"version": 1}', b"signature" * 7)
    furl = Furl.parse(FURL)
    return ServerEntry(server_id, (Nurl.parse(NURL),), furl, b"seed", "näme", (certificate,))


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    bare = ServerEntry("other", (Nurl.parse(f"pb://{PIN}@[::1]:1/x#v=1"), Nurl.parse(NURL)))
    profile = GridProfile((_entry(), bare), Encoding(2, 3, 5, 1 << 17), ("other",), (b"m" * 32,))
    path = tmp_path / "new" / "grid.yaml"
    profile.save(path)
    assert GridProfile.load(path) == profile
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["grid.yaml"]
    assert profile.without_server("other").preferred == ()
    assert profile.with_server(ServerEntry("other", bare.nurls)).servers == profile.servers


def test_repr_hides_secrets() -> None:
    assert SECRET not in repr(GridProfile((_entry(),)))


def test_servers_yaml_of_tahoe(tmp_path: Path) -> None:
    path = tmp_path / "servers.yaml"
    path.write_text(
        f"""
storage:
  {KEY_ID}:
    ann:
      nickname: one
      anonymous-storage-FURL: {FURL}
      anonymous-storage-NURLs: ["{NURL}"]
      permutation-seed-base32: {base32.encode(b"seed")}
    connections: {{tcp: tcp}}
  foolscap-only:
    ann: {{anonymous-storage-FURL: "{FURL}"}}
"""
    )
    profile = GridProfile.load(path)
    (entry,) = profile.servers
    assert (entry.server_id, entry.name, entry.permutation_seed) == (KEY_ID, "one", b"seed")
    assert entry.seed20 == base32.decode("a" * 32)
    assert profile.encoding == Encoding(3, 7, 10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "just text",
        "storage: [1, 2]",
        "storage: {x: {ann: {anonymous-storage-NURLs: [pb://nonsense]}}}",
        "storage: {x: {}}",
        "storage: {x: {ann: {anonymous-storage-NURLs: 7}}}",
        "storage: {}\nencoding: {needed: 4, happy: 1, total: 3}",
        "storage: {}\nencoding: {needed: 1, happy: 4, total: 3}",
        "storage: {}\nencoding: {needed: 1, total: 3}",
        "storage: {}\nencoding: {needed: '1', happy: 1, total: 3}",
        "storage: {}\nencoding: {needed: 1, happy: 1, total: 257}",
        "storage: {}\ngrid-managers: [pub-v0-x]",
        "storage: {}\npreferred: 7",
        "storage: {'a: pb://secret",
        "!!python/object/apply:os.system ['true']",
        "\x00",
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        GridProfile.load(path)
    assert "grid.yaml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        GridProfile.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"storage: {\xe4: 1}")
    with pytest.raises(ConfigError):
        GridProfile.load(tmp_path / "latin.yaml")
    with pytest.raises(ConfigError):
        GridProfile.load(tmp_path)


def test_default_permutation_seeds() -> None:
    assert default_seed(KEY_ID) == b"k" * 32
    assert len(default_seed("v0-short")) == 32
    assert default_seed("v0-" + "z" * 52) == default_seed("v0-" + "z" * 52) != default_seed("v0-" + "y" * 52)
    doubly = base32.encode(KEY_ID.removeprefix("v0-").encode())
    announcement = {"anonymous-storage-NURLs": [NURL], "permutation-seed-base32": doubly}
    entry = parse_announcement("any", announcement)
    assert entry is not None
    assert entry.permutation_seed == KEY_ID.removeprefix("v0-").encode()


def test_bad_certificates_are_like_none() -> None:
    good = {"certificate": "{}", "signature": base32.encode(b"x")}
    bad = [{"certificate": 1, "signature": "aa"}, {"certificate": "{}", "signature": "!"}, 7, {}]
    entry = parse_announcement(
        "x", {"anonymous-storage-NURLs": [NURL], "grid-manager-certificates": [*bad, good]}
    )
    assert entry is not None
    assert entry.grid_manager_certificates == (SignedCertificate("{}", b"x"),)


def test_an_entry_needs_a_nurl() -> None:
    with pytest.raises(FormatError):
        ServerEntry("x", ())


@given(st.text(), st.text(min_size=1), st.binary(min_size=1))
def test_announcements_round_trip(nickname: str, server_id: str, seed: bytes) -> None:
    entry = ServerEntry(server_id, (Nurl.parse(NURL),), Furl.parse(FURL), seed, nickname)
    assert parse_announcement(server_id, make_announcement(entry)) == entry
