"""Intel ISA-L's GF(256) arithmetic through ctypes. Calls release the GIL."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lafsfs.formats.hashing import Buffer

_SONAME = "libisal.so.2"
_TABLE_BYTES = 32  # per coefficient


@dataclass(frozen=True)
class Tables:
    """Expanded coefficients of `rows` linear combinations of `k` buffers."""

    k: int
    rows: int
    expanded: ctypes.Array[ctypes.c_char]


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer, part of its stable ABI since 3.11."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


@contextmanager
def _address(data: Buffer) -> Iterator[int]:
    """The address of contiguous memory, read-only or not, held in place while the context lasts."""
    view = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(data), ctypes.byref(view), 0)
    try:
        yield view.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))


class Library:
    """The three functions of libisal that erasure coding needs."""

    def __init__(self, handle: ctypes.CDLL) -> None:
        self._init: Any = handle.ec_init_tables
        self._encode: Any = handle.ec_encode_data
        self._invert: Any = handle.gf_invert_matrix
        self._init.restype = None
        self._encode.restype = None
        self._invert.restype = ctypes.c_int

    def tables(self, k: int, rows: Sequence[bytes]) -> Tables:
        """Prepare linear combinations: each row holds the k coefficients of one output."""
        expanded = ctypes.create_string_buffer(_TABLE_BYTES * k * len(rows))
        self._init(k, len(rows), b"".join(rows), expanded)
        return Tables(k, len(rows), expanded)

    def invert(self, k: int, rows: Sequence[bytes]) -> list[bytes]:
        """The inverse of a k x k matrix. ValueError if there is none."""
        matrix = ctypes.create_string_buffer(b"".join(rows), k * k)
        inverse = ctypes.create_string_buffer(k * k)
        if self._invert(matrix, inverse, k) != 0:
            raise ValueError("singular matrix: share numbers must be distinct")
        return [inverse.raw[i * k : (i + 1) * k] for i in range(k)]

    def apply(self, tables: Tables, sources: Sequence[Buffer]) -> list[memoryview]:
        """The linear combinations of k buffers of one length, in new memory."""
        length = len(sources[0])
        if len(sources) != tables.k or any(len(source) != length for source in sources):
            raise ValueError("erasure coding wants k buffers of one length")
        output = memoryview(bytearray(tables.rows * length))
        results = [output[i * length : (i + 1) * length] for i in range(tables.rows)]
        if length:
            with ExitStack() as held:
                inputs = (ctypes.c_void_p * tables.k)(*[held.enter_context(_address(s)) for s in sources])
                base = held.enter_context(_address(output))
                outputs = (ctypes.c_void_p * tables.rows)(*[base + i * length for i in range(tables.rows)])
                self._encode(length, tables.k, tables.rows, tables.expanded, inputs, outputs)
        return results


@lru_cache(maxsize=1)
def library() -> Library | None:
    """ISA-L, or None where it is not installed."""
    try:
        return Library(ctypes.CDLL(_SONAME))
    except (OSError, AttributeError):
        return None
