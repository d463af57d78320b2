"""MXNet's iterators that do not exist here: each says so, and what to use instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


def _refused(name: str, reason: str) -> Callable[..., NoReturn]:
    def iterator(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"mx.io.{name}: {reason}")

    iterator.__name__ = name
    iterator.__doc__ = f"NotImplementedError: {reason}"
    return iterator


_RECORDS = "record files of images are not read; decode images to arrays and use NDArrayIter"

ImageRecordIter = _refused("ImageRecordIter", _RECORDS)
ImageRecordIter_v1 = _refused("ImageRecordIter_v1", _RECORDS)
ImageRecordInt8Iter = _refused("ImageRecordInt8Iter", _RECORDS)
ImageRecordUInt8Iter = _refused("ImageRecordUInt8Iter", _RECORDS)
ImageRecordUInt8Iter_v1 = _refused("ImageRecordUInt8Iter_v1", _RECORDS)
ImageDetRecordIter = _refused("ImageDetRecordIter", _RECORDS)
LibSVMIter = _refused("LibSVMIter", "its batches are sparse (csr) arrays, which do not exist here; use CSVIter")
MXDataIter = _refused("MXDataIter", "it wraps an iterator written in C++; derive from DataIter instead")
