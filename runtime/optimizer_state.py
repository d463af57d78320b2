"""What an optimizer remembers of each parameter (momentum, moments): one set for all buckets."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.runtime.memory import aligned_zeros


class OptimizerState:
    """Zero-initialised aligned arrays by (key of the parameter, kind), made when first asked for; they never move."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[Hashable, str], np.ndarray] = {}

    def array(self, key: Hashable, kind: str, shape: Sequence[int], dtype: DTypeLike = np.float32) -> np.ndarray:
        """``kind``: e.g. ``momentum``, ``mean``, ``variance``. ValueError when it exists with another shape."""
        array = self._arrays.get((key, kind))
        if array is None:
            array = self._arrays[key, kind] = aligned_zeros(shape, dtype)
        elif array.shape != tuple(shape) or array.dtype != np.dtype(dtype):
            raise ValueError(f"optimizer state {kind!r} of {key!r} has shape {array.shape}, not {tuple(shape)}")
        return array

    def clear(self) -> None:
        """Forgets everything."""
        self._arrays.clear()

    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self._arrays.values())
