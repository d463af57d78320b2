"""Functions that make arrays. Shapes: ints or tuples; ``dtype`` defaults to float32, ``ctx`` to the current context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.base import MXNetError
from bucketmod.context import Context
from bucketmod.ndarray.ndarray import NDArray, resolve_dtype
from bucketmod.runtime.memory import aligned_empty, aligned_zeros
from bucketmod.runtime.worker import wait_all


def empty(shape: int | Sequence[int], ctx: Context | None = None, dtype: DTypeLike | None = None) -> NDArray:
    """An array with undefined contents."""
    return NDArray(aligned_empty(_sizes(shape), resolve_dtype(dtype)), ctx)


def _sizes(shape: int | Sequence[int]) -> tuple[int, ...]:
    return (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)


def full(
    shape: int | Sequence[int],
    val: float,
    ctx: Context | None = None,
    dtype: DTypeLike | None = None,
    out: NDArray | None = None,
) -> NDArray:
    """An array filled with ``val``; ``out`` is filled and returned instead when given."""
    array_ = empty(shape, ctx, dtype) if out is None else out
    array_.numpy_view().fill(val)
    return array_


def zeros(
    shape: int | Sequence[int],
    ctx: Context | None = None,
    dtype: DTypeLike | None = None,
    stype: str | None = None,
    **kwargs: Any,
) -> NDArray:
    """An array of zeros. NotImplementedError for a sparse ``stype``."""
    if stype not in (None, "default"):
        raise NotImplementedError(f"zeros: storage type {stype!r} is not supported, only dense (default) arrays are")
    if (out := kwargs.get("out")) is not None:
        return full(shape, 0, ctx, dtype, out)
    return NDArray(aligned_zeros(_sizes(shape), resolve_dtype(dtype)), ctx)


def ones(
    shape: int | Sequence[int], ctx: Context | None = None, dtype: DTypeLike | None = None, **kwargs: Any
) -> NDArray:
    """An array of ones."""
    return full(shape, 1, ctx, dtype, kwargs.get("out"))


def array(source_array: Any, ctx: Context | None = None, dtype: DTypeLike | None = None) -> NDArray:
    """A copy of ``source_array`` (NDArray, numpy array, number, nested list).

    Without ``dtype`` the result is float32, except for an NDArray source, whose dtype is kept. TypeError for data that
    is not a rectangular array of real numbers.
    """
    if isinstance(source_array, NDArray):
        source = source_array.numpy_view()
        kind = source.dtype if dtype is None else resolve_dtype(dtype)
    else:
        try:
            source = np.asarray(source_array)
        except (TypeError, ValueError) as error:
            raise TypeError(f"nd.array() needs numbers in a rectangular array: {error}") from error
        kind = resolve_dtype(dtype)
    if source.dtype.kind not in "biuf":
        raise TypeError(f"nd.array() needs real numbers, got {type(source_array)} with numpy dtype {source.dtype}")
    target = aligned_empty(source.shape, kind)
    with np.errstate(invalid="ignore", over="ignore"):
        np.copyto(target, source, casting="unsafe")
    return NDArray(target, ctx)


def from_numpy(ndarray: np.ndarray, zero_copy: bool = True) -> NDArray:
    """An NDArray over the memory of ``ndarray`` (C-contiguous; ValueError otherwise), or a copy of it."""
    return NDArray(ndarray if zero_copy else ndarray.copy())


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1.0,
    repeat: int = 1,
    infer_range: bool | None = None,
    ctx: Context | None = None,
    dtype: DTypeLike | None = None,
) -> NDArray:
    """start, start+step, ... below ``stop`` (``arange(n)``: 0 to n-1), every number ``repeat`` times."""
    if infer_range:
        raise NotImplementedError("arange: infer_range needs a graph that gives the length; pass stop")
    first, last = (0, start) if stop is None else (start, stop)
    return array(np.repeat(np.arange(first, last, step), repeat), ctx, resolve_dtype(dtype))


def linspace(
    start: float,
    stop: float,
    num: int,
    endpoint: bool = True,
    ctx: Context | None = None,
    dtype: DTypeLike | None = None,
) -> NDArray:
    """``num`` evenly spaced numbers from ``start`` to ``stop``."""
    return array(np.linspace(start, stop, num, endpoint), ctx, resolve_dtype(dtype))


def eye(N: int, M: int = 0, k: int = 0, ctx: Context | None = None, dtype: DTypeLike | None = None) -> NDArray:
    """Ones on diagonal ``k`` of an N x M matrix (M = 0: square)."""
    return array(np.eye(N, M or N, k), ctx, resolve_dtype(dtype))


def concatenate(arrays: Sequence[NDArray], axis: int = 0, always_copy: bool = True) -> NDArray:
    """The arrays joined along ``axis``; one array alone is returned as it is with ``always_copy=False``.

    MXNetError when dtypes or the other dimensions differ.
    """
    if not arrays:
        raise MXNetError("concatenate: there are no arrays to join")
    if len(arrays) == 1 and not always_copy:
        return arrays[0]
    views = [item.numpy_view() for item in arrays]
    if len({view.dtype for view in views}) > 1:
        raise MXNetError(f"concatenate: dtypes differ: {sorted({view.dtype.name for view in views})}")
    try:
        axis = axis % views[0].ndim
        shape = list(views[0].shape)
        shape[axis] = sum(view.shape[axis] for view in views)
        joined = aligned_empty(shape, views[0].dtype)
        np.concatenate(views, axis, out=joined)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise MXNetError(f"concatenate: shapes {[view.shape for view in views]} on axis {axis}: {error}") from None
    return NDArray(joined, arrays[0].context)


def waitall() -> None:
    """Returns when modules on several contexts, which run in the background, are done. Raises what went wrong there."""
    wait_all()
