"""-o as in mount(8)."""

from __future__ import annotations

from pathlib import Path

import pytest

from lafsfs.cli.mount_options import parse
from lafsfs.daemon.spec import MountRequest, MountSettings, from_pipe, into_pipe
from lafsfs.errors import UsageError


def test_no_options_are_the_defaults() -> None:
    assert parse(()) == MountSettings()


def test_all_options_together() -> None:
    settings = parse(
        (
            "ro,allow_other,acl,fsync=grid,publish_delay=0.5",
            "refresh=1m,cache_size=1G,staging_size=2G,inline_limit=2K,uid=root,gid=7,umask=027",
            "new_files=mdmf,leases=2d",
        )
    )
    assert settings == MountSettings(
        read_only=True,
        allow_other=True,
        acl=True,
        fsync="grid",
        publish_delay=0.5,
        refresh=60.0,
        cache_bytes=1 << 30,
        staging_limit=2 << 30,
        inline_limit=2048,
        uid=0,
        gid=7,
        umask=0o027,
        new_files="mdmf",
        lease_interval=2 * 86400.0,
    )
    assert parse(("leases=off",)).lease_interval is None


def test_what_fstab_adds_is_ignored_or_passed_to_the_kernel() -> None:
    settings = parse(("rw,defaults,noauto,user,_netdev,nofail,x-systemd.automount,nodev,nosuid",))
    assert settings == MountSettings(kernel_options=("nodev", "nosuid"))


@pytest.mark.parametrize(
    "option",
    [
        "frobnicate",
        "fsync",
        "fsync=never",
        "ro=1",
        "publish_delay=-1",
        "publish_delay=soon",
        "refresh=2d",
        "new_files=ssk",
        "leases=31d",
        "leases=0",
        "cache_size=1K",
        "cache_size=much",
        "umask=999",
        "umask=7777",
        "uid=no-such-user-here",
        "gid=no-such-group-here",
        "uid=4294967295",
    ],
)
def test_what_makes_no_sense_is_refused_by_name(option: str) -> None:
    with pytest.raises(UsageError, match=option.partition("=")[0]):
        parse((option,))


def test_a_request_survives_the_pipe_and_hides_its_cap() -> None:

    request = MountRequest("URI:DIR2:x", Path("/mnt/ä\udcff"), ("a", "b"), settings=parse(("ro,nodev",)))
    assert from_pipe(into_pipe(request)) == request
    assert "URI" not in repr(request)
    with pytest.raises(UsageError):
        into_pipe(MountRequest("x" * 70000, Path("/mnt")))
