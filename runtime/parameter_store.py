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

    ``private``: nobody but programs writes to gradients, unless :meth:`open_gradient` says so, and whoever writes to
    parameters and auxiliary states calls :meth:`parameters_changed`, unless :meth:`open_parameters` was called. Then
    what follows from parameters alone (packed weights), which all programs share, need not be computed in every step.
    """

    def __init__(self, private: bool = False) -> None:
        self.parameters: dict[str, np.ndarray] = {}
        self.gradients: dict[str, np.ndarray] = {}
        self.auxiliary: dict[str, np.ndarray] = {}
        self.gradient_rows: dict[str, np.ndarray] = {}
        self._private = private
        self._open: set[str] = set()
        self._prepared: dict[str, np.ndarray] = {}
        self._prepared_from: dict[str, int] = {}  # version of the parameters
        self._version = 0
        self._parameters_watched = private
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

    def parameters_changed(self) -> None:
        """Values of parameters or auxiliary states are not those of before."""
        self._version += 1

    def open_parameters(self) -> None:
        """Others may write to parameters and auxiliary states, at any time from now on."""
        self._parameters_watched = False

    @property
    def parameters_version(self) -> int | None:
        """Differs from every earlier one where values may have changed since; None: they may change at any time."""
        return self._version if self._parameters_watched else None

    def prepared(self, digest: str, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        """The place of what a computation with this digest makes of the parameters; ValueError as for
        :meth:`parameter`."""
        return _get(self._prepared, "value prepared by computation", digest, shape, dtype)

    def lacks(self, digests: Sequence[str]) -> bool:
        """Whether some of these have not been prepared from the parameters as they are now."""
        version = self.parameters_version
        return version is None or any(self._prepared_from.get(digest) != version for digest in digests)

    def has_prepared(self, digests: Sequence[str]) -> None:
        """These were prepared from the parameters as they are now."""
        self._prepared_from.update(dict.fromkeys(digests, self._version))

    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        groups = (self.parameters, self.gradients, self.auxiliary, self.gradient_rows, self._partial, self._prepared)
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
