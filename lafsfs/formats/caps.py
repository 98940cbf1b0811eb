"""Capability strings <-> values (formats.md section 3).

`parse` never raises: what it cannot use becomes an UnknownCap that keeps the text. The values never show a
key in their repr.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from lafsfs.errors import FormatError
from lafsfs.formats import base32, keys


class BadCapStringError(FormatError):
    """A string that begins like a known kind of cap but is not one."""


class MustBeReadonlyError(FormatError):
    """A write cap where the prefix `ro.` promises that there is none."""


class MustBeDeepImmutableError(FormatError):
    """A mutable cap where only deeply immutable ones are allowed."""


class _KnownCap:
    """What all known caps share."""

    is_mutable: ClassVar[bool] = False
    is_writable: ClassVar[bool] = False
    is_verifier: ClassVar[bool] = False

    def to_bytes(self) -> bytes:
        """The cap string, as it stands in directories."""
        raise NotImplementedError

    def to_string(self) -> str:
        """The cap string."""
        return self.to_bytes().decode("ascii")


@dataclass(frozen=True)
class LiteralCap(_KnownCap):
    """The data itself."""

    data: bytes = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def storage_index(self) -> None:
        return None

    def to_bytes(self) -> bytes:
        return b"URI:LIT:" + base32.encode(self.data).encode()

    def read_cap(self) -> LiteralCap:
        return self

    def verify_cap(self) -> None:
        return None


@dataclass(frozen=True)
class ChkCap(_KnownCap):
    """An immutable file. k, n and size are as parsed; `chk.Params` checks them."""

    key: bytes = field(repr=False)
    ueb_hash: bytes = field(repr=False)
    k: int = field(repr=False)
    n: int = field(repr=False)
    size: int = field(repr=False)

    @property
    def storage_index(self) -> bytes:
        return keys.storage_index_of_key(self.key)

    def to_bytes(self) -> bytes:
        return b"URI:CHK:" + _chk_fields(self.key, self.ueb_hash, self.k, self.n, self.size)

    def read_cap(self) -> ChkCap:
        return self

    def verify_cap(self) -> ChkVerifyCap:
        return ChkVerifyCap(self.storage_index, self.ueb_hash, self.k, self.n, self.size)


@dataclass(frozen=True)
class ChkVerifyCap(_KnownCap):
    """The right to check an immutable file, not to read it."""

    is_verifier: ClassVar[bool] = True
    storage_index: bytes = field(repr=False)
    ueb_hash: bytes = field(repr=False)
    k: int = field(repr=False)
    n: int = field(repr=False)
    size: int = field(repr=False)

    def to_bytes(self) -> bytes:
        fields = _chk_fields(self.storage_index, self.ueb_hash, self.k, self.n, self.size)
        return b"URI:CHK-Verifier:" + fields

    def read_cap(self) -> ChkVerifyCap:
        return self

    def verify_cap(self) -> ChkVerifyCap:
        return self


@dataclass(frozen=True)
class MutableWriteCap(_KnownCap):
    """The right to write a mutable file."""

    is_mutable: ClassVar[bool] = True
    is_writable: ClassVar[bool] = True
    writekey: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    mdmf: bool = field(repr=False)

    @property
    def readkey(self) -> bytes:
        return keys.readkey_of(self.writekey)

    @property
    def storage_index(self) -> bytes:
        return keys.mutable_storage_index_of(self.readkey)

    def to_bytes(self) -> bytes:
        return (b"URI:MDMF:" if self.mdmf else b"URI:SSK:") + _pair(self.writekey, self.fingerprint)

    def read_cap(self) -> MutableReadCap:
        return MutableReadCap(self.readkey, self.fingerprint, self.mdmf)

    def verify_cap(self) -> MutableVerifyCap:
        return self.read_cap().verify_cap()


@dataclass(frozen=True)
class MutableReadCap(_KnownCap):
    """The right to read a mutable file."""

    is_mutable: ClassVar[bool] = True
    readkey: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    mdmf: bool = field(repr=False)

    @property
    def storage_index(self) -> bytes:
        return keys.mutable_storage_index_of(self.readkey)

    def to_bytes(self) -> bytes:
        return (b"URI:MDMF-RO:" if self.mdmf else b"URI:SSK-RO:") + _pair(self.readkey, self.fingerprint)

    def read_cap(self) -> MutableReadCap:
        return self

    def verify_cap(self) -> MutableVerifyCap:
        return MutableVerifyCap(self.storage_index, self.fingerprint, self.mdmf)


@dataclass(frozen=True)
class MutableVerifyCap(_KnownCap):
    """The right to check a mutable file, not to read it."""

    is_verifier: ClassVar[bool] = True
    storage_index: bytes = field(repr=False)
    fingerprint: bytes = field(repr=False)
    mdmf: bool = field(repr=False)

    def to_bytes(self) -> bytes:
        prefix = b"URI:MDMF-Verifier:" if self.mdmf else b"URI:SSK-Verifier:"
        return prefix + _pair(self.storage_index, self.fingerprint)

    def read_cap(self) -> MutableVerifyCap:
        return self

    def verify_cap(self) -> MutableVerifyCap:
        return self


FileCap = LiteralCap | ChkCap | ChkVerifyCap | MutableWriteCap | MutableReadCap | MutableVerifyCap


@dataclass(frozen=True)
class DirCap:
    """A directory: the file that holds its bytes, under a prefix of its own."""

    file: FileCap

    @property
    def is_mutable(self) -> bool:
        return self.file.is_mutable

    @property
    def is_writable(self) -> bool:
        return self.file.is_writable

    @property
    def is_verifier(self) -> bool:
        return self.file.is_verifier

    @property
    def storage_index(self) -> bytes | None:
        return self.file.storage_index

    def to_bytes(self) -> bytes:
        """The cap string, as it stands in directories."""
        text = self.file.to_bytes()
        if text.startswith(b"URI:SSK"):
            return b"URI:DIR2" + text[len(b"URI:SSK") :]
        return b"URI:DIR2-" + text[len(b"URI:") :]

    def to_string(self) -> str:
        """The cap string."""
        return self.to_bytes().decode("ascii")

    def read_cap(self) -> DirCap:
        return DirCap(self.file.read_cap())

    def verify_cap(self) -> DirCap | None:
        verifier = self.file.verify_cap()
        return None if verifier is None else DirCap(verifier)


@dataclass(frozen=True)
class UnknownCap:
    """A string that is no usable cap here. `error` is None when it may be a cap of some future kind."""

    text: bytes = field(repr=False)
    error: FormatError | None = field(repr=False, compare=False)


Cap = FileCap | DirCap | UnknownCap


def parse(text: str | bytes, *, deep_immutable: bool = False) -> Cap:
    """The cap that `text` is. Never raises.

    What is malformed, of no known kind, or forbidden by a prefix `ro.` or `imm.` (or by
    `deep_immutable`: a place where only deeply immutable caps may be) is an UnknownCap.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)
    body, read_only, immutable = raw, False, deep_immutable
    if raw.startswith(b"ro."):
        body, read_only = raw[3:], True
    elif raw.startswith(b"imm."):
        body, immutable = raw[4:], True
    match = _PREFIX.match(body)
    kind = None if match is None else _KINDS.get(match[0])
    if match is None or kind is None:
        return UnknownCap(raw, None)
    if immutable and kind.mutable:
        return UnknownCap(raw, MustBeDeepImmutableError("a mutable cap where only immutable ones may be"))
    if read_only and kind.writable:
        return UnknownCap(raw, MustBeReadonlyError("a write cap behind the prefix ro."))
    try:
        cap = kind.read(body[match.end() :])
    except FormatError as error:
        return UnknownCap(raw, BadCapStringError(f"malformed cap: {error}"))
    return DirCap(cap) if kind.directory else cap


@dataclass(frozen=True)
class _Kind:
    """How to read the fields behind one prefix."""

    read: Callable[[bytes], FileCap]
    mutable: bool = False
    writable: bool = False
    directory: bool = False


# A single newline at the end slips through Tahoe's own check; it is stripped.
_PREFIX = re.compile(rb"URI:[A-Z0-9]+(?:-[A-Za-z]+)*:")
_NUMBERS = rb":([0-9]+):([0-9]+):([0-9]+)"
_CHK = re.compile(rb"([a-z2-7]{26}):([a-z2-7]{52})" + _NUMBERS + rb"\n?")
_CHK_VERIFIER = re.compile(rb"([a-z2-7]{26}):([a-z2-7]{52})" + _NUMBERS)
_SSK = re.compile(rb"([a-z2-7]{26}):([a-z2-7]{52})\n?")
_MDMF = re.compile(rb"([a-z2-7]{26}):([a-z2-7]{52})(?::.*|\n?)", re.DOTALL)
_MAX_DIGITS = 4000  # Python converts no longer ones


def _read_literal(fields: bytes) -> LiteralCap:
    return LiteralCap(_decode(fields.removesuffix(b"\n")))


def _read_chk(fields: bytes) -> ChkCap:
    match = _CHK.fullmatch(fields)
    return ChkCap(*_chk_values(match))


def _read_chk_verifier(fields: bytes) -> ChkVerifyCap:
    match = _CHK_VERIFIER.match(fields)
    return ChkVerifyCap(*_chk_values(match))


def _chk_values(match: re.Match[bytes] | None) -> tuple[bytes, bytes, int, int, int]:
    if match is None or max(len(match[i]) for i in (3, 4, 5)) > _MAX_DIGITS:
        raise FormatError("fields missing or malformed")
    return _decode(match[1]), _decode(match[2]), int(match[3]), int(match[4]), int(match[5])


def _mutable_values(fields: bytes, mdmf: bool) -> tuple[bytes, bytes, bool]:
    match = (_MDMF if mdmf else _SSK).fullmatch(fields)
    if match is None:
        raise FormatError("fields missing or malformed")
    return _decode(match[1]), _decode(match[2]), mdmf


def _decode(text: bytes) -> bytes:
    return base32.decode(text.decode("latin-1"))


def _pair(key: bytes, fingerprint: bytes) -> bytes:
    return f"{base32.encode(key)}:{base32.encode(fingerprint)}".encode()


def _chk_fields(key: bytes, ueb_hash: bytes, k: int, n: int, size: int) -> bytes:
    return _pair(key, ueb_hash) + b":%d:%d:%d" % (k, n, size)


def _kinds() -> dict[bytes, _Kind]:
    """Every known prefix."""
    kinds: dict[bytes, _Kind] = {}
    for directory in (False, True):
        dash = b"DIR2-" if directory else b""
        kinds[b"URI:%bLIT:" % dash] = _Kind(_read_literal, directory=directory)
        kinds[b"URI:%bCHK:" % dash] = _Kind(_read_chk, directory=directory)
        kinds[b"URI:%bCHK-Verifier:" % dash] = _Kind(_read_chk_verifier, directory=directory)
        for mdmf in (False, True):
            stem = dash + b"MDMF" if mdmf else (b"DIR2" if directory else b"SSK")
            kinds.update(_mutable_kinds(b"URI:" + stem, mdmf, directory))
    return kinds


def _mutable_kinds(stem: bytes, mdmf: bool, directory: bool) -> dict[bytes, _Kind]:
    def write(fields: bytes) -> FileCap:
        return MutableWriteCap(*_mutable_values(fields, mdmf))

    def read(fields: bytes) -> FileCap:
        return MutableReadCap(*_mutable_values(fields, mdmf))

    def verify(fields: bytes) -> FileCap:
        return MutableVerifyCap(*_mutable_values(fields, mdmf))

    return {
        stem + b":": _Kind(write, mutable=True, writable=True, directory=directory),
        stem + b"-RO:": _Kind(read, mutable=True, directory=directory),
        stem + b"-Verifier:": _Kind(verify, directory=directory),
    }


_KINDS = _kinds()
