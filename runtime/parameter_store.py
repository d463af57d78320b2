"""Parameters, gradients and auxiliary states of a model: one array each, whatever the number of buckets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.runtime.gradient_rows import distrust, make_table
from bucketmod.runtime.memory import aligned_zeros


class ParameterStore:
    """Arrays by name. An array is made (zero-filled) when the first bucket asks for it; the others get the same one.

    ``parameters``, ``gradients``, ``auxiliary``: name -> 64-byte aligned array; the arrays never move, so programs
    and optimizer kernels bind to them once. ``gradient_rows``: tables of :mod:`bucketmod.runtime.gradient_rows`.

    ``private_gradients``: nobody but programs writes to gradients, unless :meth:`open_gradient` says so.
    """

    def __init__(self, private_gradients: bool = False) -> None:
        self.parameters: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}
        self.auxiliary: dict[str, np.ndarray] = {}
        self.gradient_rows: dict[str, np.ndarray] = {}
        self._private = private_gradients
        self._open: set[str] = set()
        self._partial: dict[str, np.ndarray] = {}

    def parameter(self, name: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """Raises ValueError when the name exists with another shape or dtype."""
        return _get(self.parameters, "parameter", name, shape, dtype)

    def gradient(self, name: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """The gradient of the parameter ``name``; ValueError as for :meth:`parameter`."""
        return _get(self.gradients, "gradient of", name, shape, dtype)

    def auxiliary_state(self, name: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """ValueError as for :meth:`parameter`."""
        return _get(self.auxiliary, "auxiliary state", name, shape, dtype)

    def partial_gradient(self, name: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """Where a backward pass leaves its own share of a gradient that adds up over passes (``grad_req="add"``)."""
        return _get(self._partial, "gradient of", name, shape, dtype)

    def row_table(self, name: str, rows: int) -> np.ndarray:
        """The table of the gradient of ``name``, which has this number of rows."""
        if name not in self.gradient_rows:
            self.gradient_rows[name] = make_table(rows, self._private and name not in self._open)
        return self.gradient_rows[name]

    def open_gradient(self, name: str) -> None:
        """Others than programs that keep its table may write to the gradient of ``name``, from now on."""
        self._open.add(name)
        if name in self.gradient_rows:
            distrust(self.gradient_rows[name])

    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        groups = (self.parameters, self.gradients, self.auxiliary, self.gradient_rows, self._partial)
        return sum(array.nbytes for group in groups for array in group.values())


def _get(group: dict[str, np.ndarray], kind: str, name: str, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
    array = group.get(name)
    if array is None:
        array = group[name] = aligned_zeros(shape, dtype)
    elif array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
        raise ValueError(
            f"{kind} {name!r} would be {np.dtype(dtype).name}{tuple(shape)} for these inputs, but was bound as "
            f"{array.dtype.name}{array.shape} before: parameters are shared, so their shapes must not depend on the "
            "bucket key or on the shapes of a batch"
        )
    return array
