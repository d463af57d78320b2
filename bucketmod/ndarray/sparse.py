"""``mx.nd.sparse``: arrays of which only some rows are stored, as stores and updates of embeddings use them.

These are containers: arithmetic needs ``tostype("default")``. csr arrays do not exist here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.base import MXNetError
from bucketmod.context import Context
from bucketmod.ndarray.ndarray import NDArray, resolve_context, resolve_dtype
from bucketmod.runtime.memory import aligned_copy, aligned_zeros


class RowSparseNDArray:
    """``shape`` (rows, ...), with ``data`` (stored rows, ...) at the row numbers ``indices`` (int64); other rows are 0.

    MXNetError when the parts do not fit together, or a row number lies outside of the shape.
    """

    stype = "row_sparse"
    __hash__ = object.__hash__

    def __init__(self, data: np.ndarray, indices: np.ndarray, shape: Sequence[int], ctx: Context | None = None) -> None:
        self.shape = tuple(shape)
        if indices.ndim != 1 or data.shape != (len(indices), *self.shape[1:]):
            raise MXNetError(
                f"row_sparse array of shape {self.shape}: {indices.shape} row numbers do not fit data {data.shape}"
            )
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.shape[0]:
            raise MXNetError(f"row_sparse array of shape {self.shape}: row numbers up to {indices.max()}")
        order = np.argsort(indices, kind="stable")
        self.context = self.ctx = resolve_context(ctx)
        self.indices = NDArray(aligned_copy(indices[order].astype(np.int64)), self.context)
        self.data = NDArray(aligned_copy(data[order]), self.context)

    @property
    def dtype(self) -> type[np.generic]:
        """As for NDArray."""
        return self.data.dtype

    @property
    def size(self) -> int:
        """Elements of the whole shape."""
        return int(np.prod(self.shape))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"\n<RowSparseNDArray {'x'.join(map(str, self.shape))} @{self.context}>"

    def asnumpy(self) -> np.ndarray:
        """The whole array, dense."""
        dense = np.zeros(self.shape, self.dtype)
        dense[self.indices.numpy_view()] = self.data.numpy_view()
        return dense

    def tostype(self, stype: str) -> RowSparseNDArray | NDArray:
        """The array itself for "row_sparse", a dense one for "default"; ValueError for other types."""
        if stype == "row_sparse":
            return self
        if stype != "default":
            raise ValueError(f"cast_storage from row_sparse to {stype} is not supported")
        dense = aligned_zeros(self.shape, self.dtype)
        dense[self.indices.numpy_view()] = self.data.numpy_view()
        return NDArray(dense, self.context)

    def copy(self) -> RowSparseNDArray:
        return self.copyto(self.context)

    def copyto(self, other: Any) -> Any:
        """Copies into a row_sparse or dense array of the same shape (returned), or to a new array on a Context."""
        if isinstance(other, Context):
            return RowSparseNDArray(self.data.numpy_view(), self.indices.numpy_view(), self.shape, other)
        if isinstance(other, RowSparseNDArray):
            self._check_shape(other.shape)
            other.indices, other.data = self.indices.copy(), self.data.astype(other.dtype)
            return other
        dense = self.tostype("default")
        assert isinstance(dense, NDArray)
        return dense.copyto(other)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Only ``array[:] = another array`` is supported (NotImplementedError otherwise)."""
        if key != slice(None) or not isinstance(value, (NDArray, RowSparseNDArray)):
            raise NotImplementedError("row_sparse arrays take whole arrays only: array[:] = another")
        row_sparse_array(value).copyto(self)

    def retain(self, indices: NDArray) -> RowSparseNDArray:
        """The stored rows among ``indices``."""
        rows = self.indices.numpy_view()
        kept = np.isin(rows, indices.numpy_view().astype(np.int64))
        return RowSparseNDArray(self.data.numpy_view()[kept], rows[kept], self.shape, self.context)

    def as_in_context(self, context: Context) -> RowSparseNDArray:
        """The array itself when it is on ``context`` already, else a copy there."""
        return self if context == self.context else self.copyto(context)

    def wait_to_read(self) -> None:
        """Returns at once: arrays are always ready."""

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape != self.shape:
            raise MXNetError(f"copyto(): cannot copy shape {self.shape} into shape {shape}")


def row_sparse_array(
    arg1: Any, shape: Sequence[int] | None = None, ctx: Context | None = None, dtype: DTypeLike | None = None
) -> RowSparseNDArray:
    """A row_sparse array from (data, row numbers), or from a dense (less its rows of zeros) or row_sparse array.

    ``shape``: inferred from the largest row number where it is None.
    """
    if isinstance(arg1, RowSparseNDArray):
        return arg1.copy()
    if isinstance(arg1, tuple) and len(arg1) == 2:
        data, indices = (np.asarray(each) for each in arg1)
        indices = indices.astype(np.int64)
        if shape is None:
            shape = (int(indices.max()) + 1 if len(indices) else 0, *data.shape[1:])
    else:
        dense = np.asarray(arg1)
        indices = np.flatnonzero(dense.reshape(len(dense), -1).any(axis=1))
        data, shape = dense[indices], dense.shape
        ctx = arg1.context if ctx is None and isinstance(arg1, NDArray) else ctx
    kind = resolve_dtype(dtype) if dtype is not None or not hasattr(arg1, "dtype") else data.dtype
    return RowSparseNDArray(data.astype(kind), indices, shape, ctx)


def zeros(stype: str, shape: Sequence[int], ctx: Context | None = None, dtype: DTypeLike | None = None) -> Any:
    """An array of zeros of storage type "row_sparse" (no row is stored) or "default". NotImplementedError for "csr"."""
    if stype == "default":
        return NDArray(aligned_zeros(shape, resolve_dtype(dtype)), ctx)
    if stype != "row_sparse":
        raise NotImplementedError(f"arrays of storage type {stype!r}: there are default and row_sparse ones")
    data = np.zeros((0, *tuple(shape)[1:]), resolve_dtype(dtype))
    return RowSparseNDArray(data, np.zeros(0, np.int64), shape, ctx)


def add_rows(arrays: Sequence[RowSparseNDArray]) -> RowSparseNDArray:
    """The sum of arrays of one shape. MXNetError when shapes or dtypes differ."""
    first = arrays[0]
    for array in arrays[1:]:
        if array.shape != first.shape or array.dtype != first.dtype:
            raise MXNetError(f"cannot add row_sparse arrays of {first.shape} and {array.shape} (or of other dtypes)")
    rows, places = np.unique(np.concatenate([a.indices.numpy_view() for a in arrays]), return_inverse=True)
    total = np.zeros((len(rows), *first.shape[1:]), first.dtype)
    np.add.at(total, places.reshape(-1), np.concatenate([a.data.numpy_view() for a in arrays]))
    return RowSparseNDArray(total, rows, first.shape, first.context)


def pull_rows(value: NDArray, row_ids: NDArray, out: RowSparseNDArray) -> None:
    """Makes ``out`` the rows of ``value`` that ``row_ids`` (any shape) name. MXNetError for rows that do not exist."""
    rows = np.unique(row_ids.numpy_view().astype(np.int64))
    if len(rows) and not 0 <= rows[0] <= rows[-1] < value.shape[0]:
        raise MXNetError(f"row_ids from {rows[0]} to {rows[-1]}: the array has {value.shape[0]} rows")
    RowSparseNDArray(value.numpy_view()[rows], rows, value.shape, value.context).copyto(out)
