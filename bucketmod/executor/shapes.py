"""A symbol with the shapes of arrays, and arrays of other shapes over the memory of present ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.binding import Bucket, make_bucket, place
from bucketmod.context import Context
from bucketmod.io import DataDesc
from bucketmod.ndarray import NDArray, zeros


def bucket_for(
    symbol: Any, ctx: Context, arguments: Sequence[Any], group2ctx: Mapping[str, Context] | None = None
) -> Bucket:
    """The symbol with the shapes and types of these arrays. ShapeError (an MXNetError) where they do not fit."""
    names = symbol.list_arguments()
    described = [DataDesc(name, array.shape, array.dtype) for name, array in zip(names, arguments, strict=True)]
    return place(make_bucket(symbol, described, data_names=(), label_names=()), ctx, group2ctx)


def reshaped(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    """The array in another shape: itself, a view of its beginning, or new memory where it is too small."""
    size = int(np.prod(shape))
    if array.shape == tuple(shape):
        return array
    if size > array.size:
        return zeros(shape, array.context, dtype=array.dtype)
    return NDArray(array.numpy_view().reshape(-1)[:size].reshape(shape), array.context)
