"""Parameters, gradients and auxiliary states of a model: one array each, whatever the number of buckets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.runtime.memory import aligned_zeros


class ParameterStore:
    """Arrays by name. An array is made (zero-filled) when the first bucket asks for it; the others get the same one.

    ``parameters``, ``gradients``, ``auxiliary``: name -> 64-byte aligned array; the arrays never move, so programs
    and optimizer kernels bind to them once.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}
        self.auxiliary: dict[str, np.ndarray] = {}
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

    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        groups = (self.parameters, self.gradients, self.auxiliary, self._partial)
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
