"""Optimizer states in this package's own form: data that is read without running anything.

    "BMSTATES", version (u32), length of the description (u64), description, arrays, CRC-32 of all before it (u32)

The description is JSON: ``{"value": ..., "arrays": [bytes of each]}``. Numbers, texts, truth values and null stand for
themselves; everything else is an object with one key that says what it is: ``float`` (hexadecimal), ``bytes``
(base64), ``list``, ``tuple``, ``dict`` (pairs), ``array`` (its place among the arrays, each in the form of ``.params``
files), ``optimizer`` or ``scheduler`` (its name) with ``attributes``. Integers are little endian.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from bucketmod import lr_scheduler
from bucketmod.base import MXNetError
from bucketmod.ndarray import NDArray
from bucketmod.ndarray.serialization import read_array, write_array
from bucketmod.optimizer.optimizer import Optimizer
from bucketmod.optimizer.state_format import SCHEDULERS, with_attributes

MAGIC = b"BMSTATES"
_VERSION = 1
_HEAD = struct.Struct("<8sIQ")
_CHECK = struct.Struct("<I")


def dumps(value: Any) -> bytes:
    """``value`` as bytes. TypeError, naming the type, for anything but arrays, plain containers, numbers, text, bytes,
    registered optimizers and the schedulers of this package."""
    writer = _Writer()
    described = writer.describe(value)
    text = json.dumps({"value": described, "arrays": [len(array) for array in writer.arrays]}).encode()
    body = b"".join([_HEAD.pack(MAGIC, _VERSION, len(text)), text, *writer.arrays])
    return body + _CHECK.pack(zlib.crc32(body))


class _Writer:
    def __init__(self) -> None:
        self.arrays: list[bytes] = []

    def describe(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
            return self.describe(value.item())
        if isinstance(value, int):
            return value
        if isinstance(value, float):
            return {"float": value.hex()}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": base64.b64encode(value).decode()}
        if isinstance(value, (list, tuple)):
            return {"list" if isinstance(value, list) else "tuple": [self.describe(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[self.describe(key), self.describe(item)] for key, item in value.items()]}
        if isinstance(value, NDArray):
            stream = io.BytesIO()
            write_array(stream, value)
            self.arrays.append(stream.getvalue())
            return {"array": len(self.arrays) - 1}
        return self._describe_object(value)

    def _describe_object(self, value: Any) -> Any:
        name = type(value).__name__
        if isinstance(value, Optimizer) and Optimizer.opt_registry.get(name.lower()) is type(value):
            return {"optimizer": name.lower(), "attributes": self.describe(value.__getstate__())}
        if isinstance(value, lr_scheduler.LRScheduler) and getattr(lr_scheduler, name, None) is type(value):
            return {"scheduler": name, "attributes": self.describe(dict(value.__dict__))}
        raise TypeError(
            f"optimizer states: {type(value)} cannot be written; arrays, plain containers, registered optimizers and "
            "the schedulers of mx.lr_scheduler can"
        )


def loads(data: bytes) -> Any:
    """What ``dumps`` was given. MXNetError for data that is damaged or was not written by it, or that names an
    optimizer that is not registered."""
    try:
        return _read(bytes(data))
    except (LookupError, ValueError, TypeError, AttributeError, struct.error, RecursionError, OverflowError) as error:
        raise MXNetError(f"optimizer states: damaged data ({type(error).__name__}: {error})") from error


def _read(data: bytes) -> Any:
    magic, version, length = _HEAD.unpack_from(data)
    if magic != MAGIC or version != _VERSION:
        raise MXNetError(f"optimizer states: expected {MAGIC!r} version {_VERSION}, got {magic!r} version {version}")
    if zlib.crc32(data[: -_CHECK.size]) != _CHECK.unpack(data[-_CHECK.size :])[0]:
        raise ValueError("the check sum does not fit")
    start, end = _HEAD.size + length, len(data) - _CHECK.size
    if start > end:
        raise ValueError("the description ends behind the data")
    description = json.loads(data[_HEAD.size : start])
    arrays = []
    for size in description["arrays"]:
        if not isinstance(size, int) or not 0 <= size <= end - start:
            raise ValueError(f"an array of {size} bytes")
        arrays.append(read_array(data[start : start + size]))
        start += size
    return _Reader(arrays).value(description["value"])


class _Reader:
    def __init__(self, arrays: list[NDArray]) -> None:
        self.arrays = arrays
        self.kinds: dict[str, Callable[[Any], Any]] = {
            "float": float.fromhex,
            "bytes": lambda text: base64.b64decode(text, validate=True),
            "list": lambda items: [self.value(item) for item in items],
            "tuple": lambda items: tuple(self.value(item) for item in items),
            "dict": lambda items: {self.value(key): self.value(item) for key, item in items},
            "array": self._array,
        }

    def value(self, described: Any) -> Any:
        if described is None or isinstance(described, (bool, int, str)):
            return described
        if not isinstance(described, dict):
            raise TypeError(f"a bare {type(described).__name__}")
        if "attributes" in described:
            return self._object(described)
        ((kind, content),) = described.items()
        return self.kinds[kind](content)

    def _array(self, place: Any) -> NDArray:
        if not isinstance(place, int) or place < 0:
            raise ValueError(f"array {place!r}")
        return self.arrays[place]

    def _object(self, described: dict[str, Any]) -> Any:
        attributes = self.value(described["attributes"])
        if not isinstance(attributes, dict):
            raise TypeError("attributes that are no dict")
        if "scheduler" in described:
            name = described["scheduler"]
            if name not in SCHEDULERS:
                raise ValueError(f"unknown scheduler {name!r}")
            return with_attributes(getattr(lr_scheduler, name), attributes)
        klass = Optimizer.opt_registry.get(described["optimizer"])
        if klass is None:
            raise MXNetError(
                f"optimizer states: there is no optimizer {described['optimizer']!r}; register its class before loading"
            )
        return with_attributes(klass, attributes)
