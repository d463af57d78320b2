"""``mx.nd.save`` and ``mx.nd.load``: MXNet's binary ``.params`` format, little endian throughout.

    file    0x112 (u64), 0 (u64), count (u64), arrays, count of names (u64; 0 for a list), names (u64 length + UTF-8)
    array   0xF993FAC9 (u32), storage type (i32, 0 = dense), ndim (u32), dimensions (i64 each), device type (i32),
            device id (i32), dtype code (i32), the elements

Older files differ in the array's head: 0xF993FAC8 has no storage type, and before that there was no magic number but
ndim itself with 32-bit dimensions. All three are read; the newest is written.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from bucketmod.atomic_file import replacing
from bucketmod.base import DTYPE_CODES, DTYPE_NAMES, MXNetError
from bucketmod.context import cpu
from bucketmod.ndarray.ndarray import NDArray
from bucketmod.runtime.memory import aligned_empty

LIST_MAGIC = 0x112
ARRAY_MAGIC = 0xF993FAC9  # with storage type
ARRAY_MAGIC_V1 = 0xF993FAC8  # 64-bit dimensions, dense only
ARRAY_MAGIC_NUMPY = 0xF993FACA  # written under MXNet's numpy semantics; the same layout
MAX_NDIM = 32


class _Reader:
    """Reads numbers and elements from ``stream``; every demand is checked against what the file still holds."""

    def __init__(self, stream: BinaryIO, size: int, name: str) -> None:
        self.stream = stream
        self.left = size
        self.name = name

    def fail(self, problem: str) -> MXNetError:
        return MXNetError(f"{self.name}: {problem}; expected a file written by nd.save() of this package or of MXNet")

    def claim(self, count: int, what: str) -> None:
        if count > self.left:
            raise self.fail(f"truncated or damaged: {what} needs {count} bytes, {self.left} are left")
        self.left -= count

    def numbers(self, layout: str, what: str) -> tuple[int, ...]:
        size = struct.calcsize("<" + layout)
        self.claim(size, what)
        return struct.unpack("<" + layout, self.stream.read(size))

    def number(self, layout: str, what: str) -> int:
        return self.numbers(layout, what)[0]

    def text(self, what: str) -> str:
        length = self.number("Q", what)
        self.claim(length, what)
        try:
            return self.stream.read(length).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"damaged: {what} is not UTF-8 ({error})") from None

    def elements(self, shape: Sequence[int], dtype: np.dtype, what: str) -> np.ndarray:
        self.claim(math.prod(shape) * dtype.itemsize, what)  # before any memory is taken
        data = aligned_empty(shape, dtype)
        if data.size and self.stream.readinto(data.reshape(-1).view(np.uint8).data) != data.nbytes:  # type: ignore[attr-defined]
            raise self.fail(f"truncated while reading {what}")
        return data


def _read_array(reader: _Reader, what: str) -> NDArray:
    magic = reader.number("I", what)
    if magic in (ARRAY_MAGIC, ARRAY_MAGIC_NUMPY):
        storage = reader.number("i", what)
        if storage != 0:
            raise reader.fail(f"{what} has storage type {storage}; sparse arrays are not supported")
        ndim, layout = reader.number("I", what), "q"
    elif magic == ARRAY_MAGIC_V1:
        ndim, layout = reader.number("I", what), "q"
    else:
        ndim, layout = magic, "I"
    if ndim > MAX_NDIM:
        raise reader.fail(f"damaged: {what} starts with {ndim:#x}, neither a known magic number nor a number of axes")
    shape = reader.numbers(f"{ndim}{layout}", what)
    if any(n < 0 for n in shape) or math.prod(n for n in shape if n) >= 2**60:  # numpy's limit, 0 among them or not
        raise reader.fail(f"damaged: {what} has shape {shape}")
    if ndim == 0 and magic != ARRAY_MAGIC_NUMPY:  # an array that was never given memory: nothing follows
        return NDArray(aligned_empty((0,), np.float32), cpu())
    _, _, code = reader.numbers("iii", what)
    if code not in DTYPE_NAMES:
        raise reader.fail(f"{what} has dtype code {code}; known are {DTYPE_NAMES}")
    return NDArray(reader.elements(shape, np.dtype(DTYPE_NAMES[code]), what), cpu())


def _read_file(reader: _Reader) -> list[NDArray] | dict[str, NDArray]:
    magic, _, count = reader.numbers("QQQ", "the header")
    if magic != LIST_MAGIC:
        raise reader.fail(f"not an array file: it starts with {magic:#x} instead of {LIST_MAGIC:#x}")
    if count * 4 > reader.left:
        raise reader.fail(f"truncated or damaged: {count} arrays are announced, {reader.left} bytes are left")
    arrays = [_read_array(reader, f"array {i}") for i in range(count)]
    named = reader.number("Q", "the number of names")
    if named == 0:
        return arrays
    if named != count:
        raise reader.fail(f"damaged: {count} arrays but {named} names")
    names = [reader.text(f"name {i}") for i in range(named)]
    return dict(zip(names, arrays, strict=True))


def load(fname: str) -> list[NDArray] | dict[str, NDArray]:
    """The arrays of a file, on cpu(0): a list or a dict, as they were saved.

    Raises MXNetError when the file cannot be read or is not a whole array file.
    """
    if not isinstance(fname, (str, os.PathLike)):
        raise TypeError(f"fname must be text, got {type(fname)}")
    try:
        with open(fname, "rb") as stream:
            return _read_file(_Reader(stream, os.fstat(stream.fileno()).st_size, str(fname)))
    except OSError as error:
        raise MXNetError(f"nd.load cannot read {fname}: {error.strerror}") from error


def load_frombuffer(buf: bytes) -> list[NDArray] | dict[str, NDArray]:
    """As ``load``, from bytes in memory."""
    return _read_file(_Reader(io.BytesIO(buf), len(buf), "buffer"))


def write_array(stream: BinaryIO, array: NDArray) -> None:
    """Writes one array (magic number, shape, elements)."""
    view = array.numpy_view()
    context = array.context
    stream.write(struct.pack(f"<IiI{view.ndim}q", ARRAY_MAGIC, 0, view.ndim, *view.shape))
    stream.write(struct.pack("<iii", context.device_typeid, context.device_id, DTYPE_CODES[view.dtype.name]))
    stream.write(view.reshape(-1).view(np.uint8).data if view.size else b"")


def write_list(stream: Any, arrays: Sequence[NDArray]) -> None:
    """Writes arrays without names to a stream, as they are in a file of their own."""
    _write_file(stream, (), arrays)


def read_list(stream: BinaryIO, size: int, name: str) -> list[NDArray]:
    """The arrays that ``write_list`` put into the next ``size`` bytes. MXNetError, with ``name``, when damaged."""
    arrays = _read_file(_Reader(stream, size, name))
    if isinstance(arrays, dict):
        raise MXNetError(f"{name}: a list of arrays was expected, these have names")
    return arrays


def read_array(data: bytes) -> NDArray:
    """The array that ``write_array`` (or MXNet) put into ``data``. MXNetError when damaged."""
    return _read_array(_Reader(io.BytesIO(data), len(data), "array"), "array")


def save(fname: str, data: NDArray | Sequence[NDArray] | Mapping[str, NDArray]) -> None:
    """Writes an array, a list, or a dict of arrays; MXNet reads the file.

    The file appears under its name only when it is whole: it is written beside it and renamed. ValueError or TypeError
    for other data, MXNetError when it cannot be written.
    """
    names, arrays = _names_and_arrays(data)
    try:
        with replacing(fname) as stream:
            _write_file(stream, names, arrays)
    except OSError as error:
        raise MXNetError(f"nd.save cannot write {fname}: {error.strerror}") from error


def _names_and_arrays(data: Any) -> tuple[list[str], list[NDArray]]:
    if isinstance(data, NDArray):
        data = [data]
    if isinstance(data, Mapping):
        names, arrays = list(data.keys()), list(data.values())
        if not all(isinstance(name, str) for name in names):
            raise TypeError("nd.save() needs names that are text")
    elif isinstance(data, (list, tuple)):
        names, arrays = [], list(data)
    else:
        raise ValueError(f"nd.save() needs an NDArray, a list or a dict of them, got {type(data)}")
    for item in arrays:
        if not isinstance(item, NDArray):
            raise TypeError(f"nd.save() needs NDArrays, got {type(item)}")
    return names, arrays


def _write_file(stream: BinaryIO, names: Sequence[str], arrays: Sequence[NDArray]) -> None:
    stream.write(struct.pack("<QQQ", LIST_MAGIC, 0, len(arrays)))
    for item in arrays:
        write_array(stream, item if item.ndim else item.reshape(1))
    stream.write(struct.pack("<Q", len(names)))
    for name in names:
        encoded = name.encode("utf-8")
        stream.write(struct.pack("<Q", len(encoded)) + encoded)
