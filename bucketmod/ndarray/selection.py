"""Functions that choose elements by index or condition, and that order them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.base import MXNetError
from bucketmod.ndarray.ndarray import resolve_dtype
from bucketmod.ndarray.operation import operation


def _bounded(indices: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Integer indices in [0, size): clipped, wrapped, or checked (mode raise)."""
    found = indices.astype(np.int64)
    if mode == "wrap":
        return found % size
    if mode == "clip":
        return np.clip(found, 0, size - 1)
    if mode == "raise":
        if found.size and (found.min() < -size or found.max() >= size):
            raise MXNetError(f"index out of range: {found.min()} to {found.max()} for an axis of {size}")
        return found
    raise MXNetError(f"mode {mode!r} is none of clip, wrap, raise")


@operation(fluent=True)
def take(a: np.ndarray, indices: np.ndarray, axis: int = 0, mode: str = "clip") -> np.ndarray:
    """Slices of ``a`` along ``axis`` by number; numbers out of range are clipped, wrapped or refused."""
    return np.take(a, _bounded(np.asarray(indices), a.shape[axis], mode), axis)


@operation(fluent=True)
def pick(
    data: np.ndarray, index: np.ndarray, axis: int | None = -1, keepdims: bool = False, mode: str = "clip"
) -> np.ndarray:
    """One element along ``axis`` for every position of the other axes, by ``index`` (with or without that axis)."""
    if axis is None:
        return np.take(data.reshape(-1), _bounded(index, data.size, mode))
    full = index if index.ndim == data.ndim else np.expand_dims(index, axis)
    found = np.take_along_axis(data, _bounded(full, data.shape[axis], mode), axis)
    return found if keepdims else np.squeeze(found, axis)


@operation()
def batch_take(a: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Element ``indices[i]`` of row i."""
    return np.take_along_axis(a, _bounded(indices, a.shape[-1], "clip")[..., None], -1)[..., 0]


@operation(fluent=True)
def one_hot(
    indices: np.ndarray, depth: int, on_value: float = 1.0, off_value: float = 0.0, dtype: DTypeLike = "float32"
) -> np.ndarray:
    """A last axis of ``depth`` holding on_value at the index and off_value elsewhere (everywhere when out of range)."""
    hit = indices.astype(np.int64)[..., None] == np.arange(depth)
    return np.where(hit, on_value, off_value).astype(resolve_dtype(dtype))


@operation()
def where(condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Elements of x where the condition is not 0, of y elsewhere; a vector condition chooses whole rows."""
    chosen = condition != 0
    if condition.ndim == 1 and x.ndim > 1:
        chosen = chosen.reshape((-1,) + (1,) * (x.ndim - 1))
    return np.where(chosen, x, y)


@operation()
def gather_nd(data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """``data[indices[0], indices[1], ...]``."""
    return data[tuple(indices.astype(np.int64))]


@operation()
def Embedding(data: np.ndarray, weight: np.ndarray, input_dim: int = 0, output_dim: int = 0, **_: Any) -> np.ndarray:
    """Row ``data`` of ``weight``; numbers out of range are clipped."""
    return np.take(weight, _bounded(data, weight.shape[0], "clip"), 0)


def _order(data: np.ndarray, axis: int, ascending: bool) -> np.ndarray:
    return np.argsort(data if ascending else -data.astype(np.float64), axis=axis, kind="stable")


@operation(fluent=True)
def sort(data: np.ndarray, axis: int | None = -1, is_ascend: bool = True) -> np.ndarray:
    """Sorted along ``axis`` (None: the flat array)."""
    flat = data.reshape(-1) if axis is None else data
    along = -1 if axis is None else axis
    return np.take_along_axis(flat, _order(flat, along, is_ascend), along)


@operation(fluent=True)
def argsort(
    data: np.ndarray, axis: int | None = -1, is_ascend: bool = True, dtype: DTypeLike = "float32"
) -> np.ndarray:
    """The positions that sort ``data`` along ``axis`` (None: the flat array)."""
    flat = data.reshape(-1) if axis is None else data
    return _order(flat, -1 if axis is None else axis, is_ascend).astype(resolve_dtype(dtype))


@operation(fluent=True)
def topk(
    data: np.ndarray,
    axis: int | None = -1,
    k: int = 1,
    ret_typ: str = "indices",
    is_ascend: bool = False,
    dtype: DTypeLike = "float32",
) -> Any:
    """The k largest (``is_ascend``: smallest) elements along ``axis``: indices, value, both or mask."""
    flat, along = (data.reshape(-1), -1) if axis is None else (data, axis)
    order = np.take(_order(flat, along, is_ascend), np.arange(k or flat.shape[along]), along)
    if ret_typ == "mask":
        mask = np.zeros_like(flat)
        np.put_along_axis(mask, order, 1, along)
        return mask.reshape(data.shape)
    values, indices = np.take_along_axis(flat, order, along), order.astype(resolve_dtype(dtype))
    answers: dict[str, Any] = {"indices": indices, "value": values, "both": [values, indices]}
    if ret_typ not in answers:
        raise MXNetError(f"topk: ret_typ {ret_typ!r} is none of indices, value, both, mask")
    return answers[ret_typ]


@operation(name="SequenceMask")
def sequence_mask(
    data: np.ndarray,
    sequence_length: np.ndarray | None = None,
    use_sequence_length: bool = False,
    value: float = 0.0,
    axis: int = 0,
) -> np.ndarray:
    """Steps from a sequence's length on replaced by ``value``; ``axis`` is time (0 or 1), the other one the batch."""
    if not use_sequence_length or sequence_length is None:
        return data
    steps: Sequence[int] = (-1, 1) if axis == 0 else (1, -1)
    lengths: Sequence[int] = (1, -1) if axis == 0 else (-1, 1)
    keep = np.arange(data.shape[axis]).reshape(steps) < sequence_length.reshape(lengths)
    return np.where(keep.reshape(keep.shape + (1,) * (data.ndim - 2)), data, np.asarray(value, data.dtype))
