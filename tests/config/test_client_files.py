"""Paths, secrets, aliases, option values and Tahoe node directories."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from lafsfs.config import (
    Aliases,
    ClientSecrets,
    Encoding,
    Paths,
    from_node_directory,
    parse_duration,
    parse_option_list,
    parse_size,
)
from lafsfs.config.files import write_private
from lafsfs.errors import ConfigError, UsageError
from lafsfs.formats import base32
from tests.config.test_profile import FURL, KEY_ID, NURL

CAP = "URI:DIR2:aaaa:bbbb"


# --- paths ----------------------------------------------------------------------------------------------


def test_everything_below_lafsfs_home(tmp_path: Path) -> None:
    env = {"LAFSFS_HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path)}
    paths = Paths.discover(env)
    assert paths.config == tmp_path / "home" / "config"
    assert paths.data == tmp_path / "home" / "data"
    assert not (tmp_path / "home").exists()
    paths.create()
    for directory in (paths.config, paths.state, paths.cache, paths.data, paths.runtime):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_the_runtime_directory_is_closed_to_others(tmp_path: Path) -> None:
    (tmp_path / "lafsfs").mkdir(mode=0o755)
    paths = Paths.discover({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert stat.S_IMODE(paths.runtime.stat().st_mode) == 0o700


def test_a_foreign_runtime_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "lafsfs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        Paths.discover({"XDG_RUNTIME_DIR": str(tmp_path)})


def test_a_failed_write_leaves_the_old_contents(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")
    with pytest.raises(TypeError):
        write_private(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ConfigError):
        write_private(path / "below", b"x")


# --- secrets --------------------------------------------------------------------------------------------


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "config"
    made: list[ClientSecrets] = []
    threads = [
        threading.Thread(target=lambda: made.append(ClientSecrets.load_or_create(directory)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert len(made[0].convergence) == len(made[0].lease) == 32
    assert made[0].convergence != made[0].lease
    assert stat.S_IMODE((directory / "secret").stat().st_mode) == 0o600
    assert base32.encode(made[0].lease) == (directory / "secret").read_text().strip()
    assert repr(made[0]) == "ClientSecrets()"


def test_malformed_secrets_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not base32!\n")
    with pytest.raises(ConfigError) as caught:
        ClientSecrets.load_or_create(tmp_path)
    assert "not base32!" not in str(caught.value)
    assert (tmp_path / "secret").read_text() == "not base32!\n"


# --- aliases --------------------------------------------------------------------------------------------


def test_aliases(tmp_path: Path) -> None:
    path = tmp_path / "aliases"
    aliases = Aliases(path)
    assert aliases.names() == []
    assert aliases.get("home") is None
    aliases.set("home", CAP)
    path.write_text(f"# mine: not an alias\n\nwork : URI:X:1 \n{path.read_text()}work: {CAP}:2\n")
    assert Aliases(path).names() == ["home", "work"]
    assert aliases.get("work") == f"{CAP}:2"
    aliases.set("work", "URI:Y")
    aliases.set("ärger", CAP)
    assert path.read_text() == f"# mine: not an alias\n\nhome: {CAP}\nwork: URI:Y\närger: {CAP}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert CAP not in repr(aliases)
    for name in ("", "a b", "a:b", "a/b", "-a", "#a", "@a"):
        with pytest.raises(UsageError):
            aliases.set(name, CAP)


# --- option values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4096", 4096), ("64K", 65536), ("1.5g", 3 << 29), ("10GiB", 10 << 30), ("2 MB", 2 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "10X", "1e3", "ten", "1 000", "1.G"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("5", "0.5s", "200ms", "10m", "1h")] == [5, 0.5, 0.2, 600, 3600]
    for text in ("", "s", "-1", "1 week"):
        with pytest.raises(UsageError):
            parse_duration(text)


def test_option_lists() -> None:
    assert parse_option_list("ro,fsync=grid,,x=,x=a=b") == {"ro": None, "fsync": "grid", "x": "a=b"}
    with pytest.raises(UsageError):
        parse_option_list("=3")


# --- node directories -----------------------------------------------------------------------------------


def _node(directory: Path, cfg: str = "[client]\n") -> Path:
    private = directory / "private"
    private.mkdir(parents=True)
    (directory / "tahoe.cfg").write_text(cfg)
    (private / "convergence").write_text(base32.encode(b"c" * 32) + "\n")
    (private / "secret").write_text(base32.encode(b"l" * 32) + "\n")
    return directory


def test_a_node_directory(tmp_path: Path) -> None:
    node = _node(
        tmp_path / "node",
        "\ufeff[node]\nnickname = 100%\n[client]\nshares.needed = 2\nshares.happy=3\nshares.total = 4\n"
        f"peers.preferred = {KEY_ID}, other\n[grid_managers]\nBoss = pub-{KEY_ID}\n[client]\n# again\n",
    )
    private = node / "private"
    (private / "introducer_a_cache.yaml").write_text(
        f"""
- ann: {{service-name: storage, nickname: old, anonymous-storage-NURLs: ["{NURL}"]}}
  key_s: {KEY_ID}
- ann: {{service-name: storage, anonymous-storage-NURLs: ["{NURL}"], nickname: cached}}
  key_s: v0-cached
- ann: {{service-name: other, anonymous-storage-NURLs: ["{NURL}"]}}
  key_s: v0-wrong-service
- ann: {{service-name: storage, anonymous-storage-FURL: "{FURL}"}}
  key_s: v0-foolscap
- ann: {{service-name: storage, anonymous-storage-NURLs: ["pb://broken"]}}
  key_s: v0-broken
- 7
"""
    )
    (private / "servers.yaml").write_text(
        f"storage: {{{KEY_ID}: {{ann: {{nickname: new, anonymous-storage-NURLs: ['{NURL}'], "
        f"anonymous-storage-FURL: '{FURL}'}}}}, bad: {{ann: 7}}}}"
    )
    (private / "root_dir.cap").write_text(f"{CAP}\n")
    (private / "aliases").write_text(f"music: {CAP}:m\n")
    profile, secrets, aliases = from_node_directory(node)
    assert profile.encoding == Encoding(2, 3, 4)
    assert profile.preferred == (KEY_ID, "other")
    assert profile.grid_manager_keys == (b"k" * 32,)
    assert {entry.server_id: entry.nickname for entry in profile.servers} == {
        KEY_ID: "new",
        "v0-cached": "cached",
    }
    assert secrets == ClientSecrets(b"c" * 32, b"l" * 32)
    assert aliases.names() == ["music", "tahoe"]
    assert aliases.get("tahoe") == CAP


def test_an_empty_node_directory_has_tahoes_defaults(tmp_path: Path) -> None:
    profile, _, aliases = from_node_directory(_node(tmp_path / "node"))
    assert profile.encoding == Encoding(3, 7, 10)
    assert profile.servers == ()
    assert aliases.names() == []


@pytest.mark.parametrize(
    "cfg",
    [
        "no section",
        "[client]\nshares.needed = many\n",
        "[client]\nshares.needed = 11\n",
        "[grid_managers]\na=b\n",
    ],
)
def test_broken_node_configuration(tmp_path: Path, cfg: str) -> None:
    with pytest.raises(ConfigError):
        from_node_directory(_node(tmp_path / "node", cfg))


def test_not_a_node_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        from_node_directory(tmp_path)
    node = _node(tmp_path / "node")
    os.unlink(node / "private" / "secret")
    with pytest.raises(ConfigError):
        from_node_directory(node)
