"""System calls that Python's standard library does not offer. All raise OSError."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4
FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

_AT_FDCWD = -100
_AT_SYMLINK_FOLLOW = 0x400
_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir64.restype = ctypes.c_void_p
_libc.telldir.restype = ctypes.c_long


def _checked(result: int, name: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def rename2(old: os.PathLike[str] | bytes, new: os.PathLike[str] | bytes, flags: int) -> None:
    """renameat2(2) of two paths."""
    result = _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags))
    _checked(result, "renameat2")


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """fallocate(2): the system call, without glibc's way around it."""
    _checked(_libc.fallocate64(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(size)), "fallocate")


def link_descriptor(fd: int, new: os.PathLike[str] | bytes) -> None:
    """linkat(2) of an open file, by the name it has in /proc."""
    old = f"/proc/self/fd/{fd}".encode()
    _checked(_libc.linkat(_AT_FDCWD, old, _AT_FDCWD, os.fsencode(new), _AT_SYMLINK_FOLLOW), "linkat")


def mknod(path: os.PathLike[str] | bytes, mode: int, device: int = 0) -> None:
    """mknod(2) with the device number exactly as given."""
    os.mknod(path, mode, device)


class _FileHandle(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]


def file_handle(path: os.PathLike[str] | bytes) -> object:
    """name_to_handle_at(2): what an NFS server remembers of a file. Symlinks are not followed."""
    handle = _FileHandle(size=128)
    mount = ctypes.c_int()
    arguments = (_AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0)
    _checked(_libc.name_to_handle_at(*arguments), "name_to_handle_at")
    return handle


def open_handle(mount: os.PathLike[str], handle: object, flags: int) -> int:
    """open_by_handle_at(2): a descriptor of what `file_handle` was made of, anywhere in the file system of `mount`."""
    assert isinstance(handle, _FileHandle)
    fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _checked(_libc.open_by_handle_at(fd, ctypes.byref(handle), flags), "open_by_handle_at")
    finally:
        os.close(fd)


class DirectoryStream:
    """opendir(3) with readdir, seekdir and telldir. Offsets are the file system's own."""

    def __init__(self, path: os.PathLike[str] | bytes) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        if not self._stream:
            _checked(-1, "opendir")

    def read(self) -> bytes | None:
        """The next name, None at the end."""
        ctypes.set_errno(0)
        entry = _libc.readdir64(ctypes.c_void_p(self._stream))
        if not entry:
            if ctypes.get_errno():
                _checked(-1, "readdir")
            return None
        return ctypes.string_at(entry + 19)  # d_ino 8, d_off 8, d_reclen 2, d_type 1, then the name

    def tell(self) -> int:
        """Where the stream is."""
        return int(_libc.telldir(ctypes.c_void_p(self._stream)))

    def seek(self, where: int) -> None:
        """Go on from what `tell` gave."""
        _libc.seekdir(ctypes.c_void_p(self._stream), ctypes.c_long(where))

    def rewind(self) -> None:
        """Start again, with what is there now."""
        _libc.rewinddir(ctypes.c_void_p(self._stream))

    def __iter__(self) -> Iterator[bytes]:
        while (name := self.read()) is not None:
            yield name

    def close(self) -> None:
        _libc.closedir(ctypes.c_void_p(self._stream))

    def __enter__(self) -> DirectoryStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def pages_in_memory(path: Path) -> int:
    """How many pages of a file, which must not be empty, the kernel has: mincore(2)."""
    size = path.stat().st_size
    seen = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
        start = ctypes.c_char.from_buffer(mapped)
        _checked(_libc.mincore(ctypes.byref(start), ctypes.c_size_t(size), seen), "mincore")
        del start  # a mapping with references cannot be closed
    return sum(page & 1 for page in seen)
