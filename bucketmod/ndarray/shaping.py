"""Functions that move, join, cut or repeat elements without looking at their values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.ndarray.operation import operation
from bucketmod.ndarray.shapes import resolve_reshape


@operation("Reshape")
def reshape(data: np.ndarray, shape: Sequence[int], reverse: bool = False) -> np.ndarray:
    """A copy with another shape; codes as in ``NDArray.reshape``."""
    return data.reshape(resolve_reshape(data.shape, shape, reverse))


@operation(fluent=True)
def reshape_like(
    lhs: np.ndarray,
    rhs: np.ndarray,
    lhs_begin: int | None = None,
    lhs_end: int | None = None,
    rhs_begin: int | None = None,
    rhs_end: int | None = None,
) -> np.ndarray:
    """A copy of ``lhs`` with the shape of ``rhs``, or with the named axes of ``rhs`` in place of its own."""
    if (lhs_begin, lhs_end, rhs_begin, rhs_end) == (None,) * 4:
        return lhs.reshape(rhs.shape)
    first = slice(lhs_begin, lhs_end).indices(lhs.ndim)
    return lhs.reshape((*lhs.shape[: first[0]], *rhs.shape[rhs_begin:rhs_end], *lhs.shape[first[1] :]))


@operation("Flatten")
def flatten(data: np.ndarray) -> np.ndarray:
    """(first axis, everything else)."""
    return data.reshape((data.shape[0], -1))


@operation()
def expand_dims(data: np.ndarray, axis: int) -> np.ndarray:
    """One more axis of size 1 at ``axis``."""
    return np.expand_dims(data, axis)


@operation()
def squeeze(data: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Without the axes of size 1 (all, or those named)."""
    return np.squeeze(data, axis)


@operation(fluent=True)
def transpose(data: np.ndarray, *axes: Any, **kwargs: Any) -> np.ndarray:
    """Axes in the order ``axes`` (a tuple, or numbers); none: reversed."""
    order = kwargs.get("axes", axes)
    if len(order) == 1 and isinstance(order[0], (tuple, list)):
        order = order[0]
    return np.transpose(data, order or None)


@operation("SwapAxis", fluent=True)
def swapaxes(data: np.ndarray, dim1: int = 0, dim2: int = 0) -> np.ndarray:
    """Two axes exchanged."""
    return np.swapaxes(data, dim1, dim2)


@operation()
def moveaxis(tensor: np.ndarray, source: int | Sequence[int], destination: int | Sequence[int]) -> np.ndarray:
    """Axes moved from ``source`` to ``destination``."""
    return np.moveaxis(tensor, source, destination)


@operation("reverse", fluent=True)
def flip(data: np.ndarray, axis: int | Sequence[int]) -> np.ndarray:
    """Elements in reverse order along ``axis``."""
    return np.flip(data, axis if isinstance(axis, int) else tuple(axis))


@operation(fluent=True)
def tile(data: np.ndarray, reps: int | Sequence[int]) -> np.ndarray:
    """``data`` repeated as a whole, ``reps`` times along each axis."""
    return np.tile(data, reps)


@operation(fluent=True)
def repeat(data: np.ndarray, repeats: int, axis: int | None = None) -> np.ndarray:
    """Every element (axis None: of the flat array) repeated."""
    return np.repeat(data, repeats, axis)


@operation(fluent=True)
def broadcast_to(data: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Axes of size 1 repeated up to ``shape``; a 0 there keeps the dimension."""
    if len(shape) == data.ndim:
        shape = [old if new == 0 else new for old, new in zip(data.shape, shape, strict=True)]
    return np.broadcast_to(data, tuple(shape))


@operation("broadcast_axes", fluent=True)
def broadcast_axis(data: np.ndarray, axis: int | Sequence[int] = (), size: int | Sequence[int] = ()) -> np.ndarray:
    """Axes of size 1 repeated to the given sizes."""
    axes = [axis] if isinstance(axis, int) else list(axis)
    sizes = [size] if isinstance(size, int) else list(size)
    shape = list(data.shape)
    for each, length in zip(axes, sizes, strict=True):
        shape[each] = length
    return np.broadcast_to(data, shape)


@operation(fluent=True)
def broadcast_like(
    lhs: np.ndarray, rhs: np.ndarray, lhs_axes: Sequence[int] | None = None, rhs_axes: Sequence[int] | None = None
) -> np.ndarray:
    """``lhs`` repeated to the shape of ``rhs``, or along ``lhs_axes`` to the lengths of ``rhs_axes``."""
    if lhs_axes is None or rhs_axes is None:
        return np.broadcast_to(lhs, rhs.shape)
    shape = list(lhs.shape)
    for left, right in zip(lhs_axes, rhs_axes, strict=True):
        shape[left] = rhs.shape[right]
    return np.broadcast_to(lhs, shape)


@operation("Concat")
def concat(*data: Any, dim: int = 1, num_args: int = 0) -> np.ndarray:
    """Arrays joined along axis ``dim``."""
    arrays = data[0] if len(data) == 1 and isinstance(data[0], list) else data
    if len({item.dtype for item in arrays}) > 1:
        raise MXNetError(f"concat: dtypes differ: {sorted({item.dtype.name for item in arrays})}")
    return np.concatenate(arrays, dim)


@operation()
def stack(*data: Any, axis: int = 0, num_args: int = 0) -> np.ndarray:
    """Arrays of one shape joined along a new axis."""
    return np.stack(data[0] if len(data) == 1 and isinstance(data[0], list) else data, axis)


@operation("SliceChannel", fluent=True)
def split(data: np.ndarray, num_outputs: int, axis: int = 1, squeeze_axis: bool = False) -> Any:
    """``num_outputs`` equal parts along ``axis`` (a list; one part alone is an array)."""
    parts = np.split(data, num_outputs, axis)
    if squeeze_axis:
        parts = [np.squeeze(part, axis) for part in parts]
    return parts if num_outputs > 1 else parts[0]


@operation("crop", fluent=True, name="slice")
def slice_(data: np.ndarray, begin: Any, end: Any, step: Any = ()) -> np.ndarray:
    """Elements begin to end (step) along the leading axes; None keeps a bound open."""
    bounds = [(each,) if not isinstance(each, (tuple, list)) else tuple(each) for each in (begin, end, step)]
    steps = bounds[2] or (None,) * len(bounds[0])
    return data[tuple(slice(*each) for each in zip(bounds[0], bounds[1], steps, strict=True))]


@operation(fluent=True)
def slice_axis(data: np.ndarray, axis: int, begin: int, end: int | None) -> np.ndarray:
    """Elements begin to end along one axis."""
    key: list[Any] = [slice(None)] * data.ndim
    key[axis] = slice(begin, end)
    return data[tuple(key)]


@operation(fluent=True)
def slice_like(data: np.ndarray, shape_like: np.ndarray, axes: Sequence[int] = ()) -> np.ndarray:
    """The leading part of ``data`` with the shape of ``shape_like`` (along ``axes`` only, when given)."""
    chosen = {a % data.ndim for a in axes} or set(range(shape_like.ndim))
    return data[tuple(slice(shape_like.shape[a]) if a in chosen else slice(None) for a in range(data.ndim))]


@operation(fluent=True)
def diag(data: np.ndarray, k: int = 0, axis1: int = 0, axis2: int = 1) -> np.ndarray:
    """The diagonal of a matrix, or a matrix with a vector on its diagonal."""
    return np.diag(data, k) if data.ndim == 1 else np.diagonal(data, k, axis1, axis2)


@operation("Pad", fluent=True)
def pad(data: np.ndarray, mode: str, pad_width: Sequence[int], constant_value: float = 0.0) -> np.ndarray:
    """Borders of (before, after) widths an axis; mode constant, edge or reflect."""
    widths = np.reshape(np.asarray(pad_width), (-1, 2)).tolist()
    if mode == "constant":
        return np.pad(data, widths, "constant", constant_values=constant_value)
    if mode not in ("edge", "reflect"):
        raise MXNetError(f"pad: mode {mode!r} is none of constant, edge, reflect")
    return np.pad(data, widths, mode)  # type: ignore[call-overload]


@operation()
def shape_array(data: np.ndarray) -> np.ndarray:
    """The shape, as int64."""
    return np.array(data.shape, np.int64)


@operation()
def size_array(data: np.ndarray) -> np.ndarray:
    """The number of elements, as int64."""
    return np.array([data.size], np.int64)
