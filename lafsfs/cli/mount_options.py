"""`-o name=value,...` as in mount(8), into MountSettings."""

from __future__ import annotations

import dataclasses
import grp
import pwd
import re
from collections.abc import Callable
from typing import Any

from lafsfs.config import parse_duration, parse_size
from lafsfs.daemon.spec import MountSettings
from lafsfs.errors import UsageError

# Of mount(8): meant for the kernel, or for mount itself.
_FOR_THE_KERNEL = {"nodev", "dev", "nosuid", "suid", "noexec", "exec", "noatime", "atime", "sync", "dirsync"}
_IGNORED = {"rw", "defaults", "auto", "noauto", "user", "nouser", "users", "nofail", "_netdev"}
_MIN_CACHE = 16 << 20
_LONGEST = 86400.0
_INLINE_MOST = 16 << 10
_LONGEST_LEASES = 30 * 86400.0  # they last 31 days


def parse(options: tuple[str, ...]) -> MountSettings:
    """The settings that all `-o` together ask for. UsageError names the option it cannot use."""
    values: dict[str, Any] = {}
    kernel: list[str] = []
    for option in ",".join(options).split(","):
        name, equals, value = option.strip().partition("=")
        if name in _FOR_THE_KERNEL and not equals:
            kernel.append(name)
        elif name in _FLAGS and not equals:
            values[_FLAGS[name]] = True
        elif name in _VALUES and equals:
            key, convert = _VALUES[name]
            values[key] = _converted(name, value, convert)
        elif not (name in _IGNORED or name == "" or name.startswith("x-")):
            raise UsageError(f"unknown mount option {option.strip()!r} (see lafsfs mount --help)")
    return dataclasses.replace(MountSettings(kernel_options=tuple(kernel)), **values)


def _converted(name: str, value: str, convert: Callable[[str], object]) -> object:
    try:
        return convert(value)
    except KeyError as error:
        raise UsageError(f"mount option {name}={value}: there is none of that name") from error
    except UsageError as error:
        raise UsageError(f"mount option {name}={value}: {error}") from error


def _seconds(text: str) -> float:
    value = parse_duration(text)
    if value > _LONGEST:
        raise UsageError("at most a day")
    return value


def _cache_size(text: str) -> int:
    value = parse_size(text)
    if value < _MIN_CACHE:
        raise UsageError("at least 16M")
    return value


def _fsync(text: str) -> str:
    if text not in ("local", "grid"):
        raise UsageError("must be local or grid")
    return text


def _new_files(text: str) -> str:
    if text not in ("chk", "mdmf", "sdmf"):
        raise UsageError("must be chk, mdmf or sdmf")
    return text


def _inline_limit(text: str) -> int:
    value = parse_size(text)
    if value > _INLINE_MOST:
        raise UsageError("at most 16K")
    return value


def _leases(text: str) -> float | None:
    if text == "off":
        return None
    value = parse_duration(text)
    if not 1 <= value <= _LONGEST_LEASES:
        raise UsageError("must be off, or from a second to 30 days")
    return value


def _umask(text: str) -> int:
    if not re.fullmatch(r"[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise UsageError("must be octal, like 022")
    return int(text, 8)


def _user(text: str) -> int:
    return _identity(text) if text.isdigit() else pwd.getpwnam(text).pw_uid


def _group(text: str) -> int:
    return _identity(text) if text.isdigit() else grp.getgrnam(text).gr_gid


def _identity(text: str) -> int:
    value = int(text)
    if value >= 2**32 - 1:
        raise UsageError("too large")
    return value


_FLAGS = {"ro": "read_only", "allow_other": "allow_other", "acl": "acl"}
_VALUES: dict[str, tuple[str, Callable[[str], object]]] = {
    "fsync": ("fsync", _fsync),
    "leases": ("lease_interval", _leases),
    "new_files": ("new_files", _new_files),
    "inline_limit": ("inline_limit", _inline_limit),
    "publish_delay": ("publish_delay", _seconds),
    "refresh": ("refresh", _seconds),
    "cache_size": ("cache_bytes", _cache_size),
    "staging_size": ("staging_limit", parse_size),
    "staging_wait": ("staging_wait", _seconds),
    "uid": ("uid", _user),
    "gid": ("gid", _group),
    "umask": ("umask", _umask),
}
