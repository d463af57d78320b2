"""Functions that fold axes away. ``axis`` None or () means all, and then the result has shape (1,)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bucketmod.ndarray.operation import operation


def _axes(ndim: int, axis: int | Sequence[int] | None, exclude: bool) -> tuple[int, ...]:
    if axis is None or (not isinstance(axis, int) and len(axis) == 0):
        return tuple(range(ndim))
    named = {a % ndim for a in ([axis] if isinstance(axis, int) else axis)}
    return tuple(a for a in range(ndim) if (a in named) != exclude)


def _same_dtype(result: Any, data: np.ndarray) -> np.ndarray:
    return np.asarray(result).astype(data.dtype, copy=False)


def _reduction(name: str, fold: Callable[..., Any], *aliases: str) -> None:
    def function(
        data: np.ndarray, axis: int | Sequence[int] | None = None, keepdims: bool = False, exclude: bool = False
    ) -> np.ndarray:
        return _same_dtype(fold(data, axis=_axes(data.ndim, axis, exclude), keepdims=keepdims), data)

    function.__doc__ = f"{name} over ``axis`` (over all other axes with ``exclude``), in the dtype of ``data``."
    operation(*aliases, fluent=True, name=name)(function)


_reduction("sum", np.sum, "sum_axis")
_reduction("mean", np.mean)
_reduction("prod", np.prod)
_reduction("max", np.max, "max_axis")
_reduction("min", np.min, "min_axis")
_reduction("nansum", np.nansum)
_reduction("nanprod", np.nanprod)


@operation(fluent=True)
def norm(
    data: np.ndarray, ord: int = 2, axis: int | Sequence[int] | None = None, keepdims: bool = False, **_: Any
) -> np.ndarray:
    """Sum of absolute values (ord 1) or root of the sum of squares (ord 2). ValueError for another ``ord``."""
    if ord not in (1, 2):
        raise ValueError(f"ord must be 1 or 2, got {ord}")
    axes = _axes(data.ndim, axis, False)
    if ord == 1:
        return _same_dtype(np.sum(np.abs(data), axis=axes, keepdims=keepdims), data)
    return _same_dtype(np.sqrt(np.sum(np.square(data), axis=axes, keepdims=keepdims)), data)


def _arg(fold: Callable[..., Any], data: np.ndarray, axis: int | None, keepdims: bool) -> np.ndarray:
    found = np.asarray(fold(data, axis=axis)).astype(np.float32)
    if keepdims:
        found = found.reshape((1,) * data.ndim) if axis is None else np.expand_dims(found, axis)
    return found


@operation(fluent=True)
def argmax(data: np.ndarray, axis: int | None = None, keepdims: bool = False) -> np.ndarray:
    """Position of the first largest element, as float32 (axis None: in the flat array)."""
    return _arg(np.argmax, data, axis, keepdims)


@operation(fluent=True)
def argmin(data: np.ndarray, axis: int | None = None, keepdims: bool = False) -> np.ndarray:
    """Position of the first smallest element, as float32 (axis None: in the flat array)."""
    return _arg(np.argmin, data, axis, keepdims)


@operation(fluent=True)
def argmax_channel(data: np.ndarray) -> np.ndarray:
    """Position of the largest element along axis 1, as float32."""
    return _arg(np.argmax, data, 1, False)


@operation()
def cumsum(data: np.ndarray, axis: int | None = None, dtype: Any = None) -> np.ndarray:
    """Running sum along ``axis`` (None: over the flat array)."""
    return np.cumsum(data, axis=axis, dtype=dtype or data.dtype)
