"""Updates as compiled in-place kernels over flat arrays; one artifact serves all models and buckets.

An entry of its manifest lists the arrays of a kernel, and then the sums (role output) that it makes over all elements;
the function takes them in this order, and after them float32 scalars. Which they are is told by
:mod:`bucketmod.compiler.update_formulas`. An entry ``..._by_rows`` does what the one without that ending does, with the
table of the gradient's rows (see :mod:`bucketmod.runtime.gradient_rows`) behind the arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.errors import ArtifactError
from bucketmod.runtime.memory import aligned_zeros, is_aligned
from bucketmod.runtime.tvm_runtime import tensor

CHUNK = 8192  # values that a task updates, and of which a part of a sum is made
BY_ROWS = "_by_rows"
_LEAST_BY_ROWS = 1 << 16  # values; fewer are updated by one thread, as a whole, before others would have started


class UpdateKernels:
    """Calls the kernels of an artifact of mode ``update``.

    Arrays are float32, C-contiguous, 64-byte aligned and of equal size, and do not overlap; they are updated in place.
    """

    def __init__(self, artifact: Artifact):
        if artifact.manifest.mode != "update":
            raise ArtifactError(f"{artifact.folder} has mode {artifact.manifest.mode!r}, expected 'update'")
        self.artifact = artifact
        self._functions = {name: artifact.function(name) for name in artifact.manifest.entries}
        outputs = {spec.name for spec in artifact.manifest.by_role("output")}
        self._sums = {name: len(outputs & {*entry}) for name, entry in artifact.manifest.entries.items()}

    @property
    def names(self) -> frozenset[str]:
        """Updates that the artifact has kernels for."""
        return frozenset(name for name in self._functions if not name.endswith(BY_ROWS))

    def bind(self, name: str, *arrays: np.ndarray, rows: np.ndarray | None = None) -> Callable[..., tuple[float, ...]]:
        """A function of the kernel's scalars alone, as in ``bind("sgd_update", weight, gradient)(lr, wd, ...)``.

        ``rows``: the table of the gradient's rows, for kernels that make use of one and arrays large enough. The
        function keeps the arrays alive, and returns the kernel's sums. Raises KeyError for an unknown kernel,
        ValueError when an array is not as described above.
        """
        if len({array.size for array in arrays}) != 1:
            raise ValueError(f"{name}: arrays of different sizes {[array.shape for array in arrays]}")
        tensors = [_tensor(array) for array in arrays]
        if rows is not None and arrays[0].size >= _LEAST_BY_ROWS and name + BY_ROWS in self._functions:
            name += BY_ROWS
            tensors.append(tensor(rows))
        function = self._functions[name]
        if not self._sums[name]:

            def update(*scalars: float) -> tuple[float, ...]:
                function(*tensors, *scalars)
                return ()

            return update
        chunks = -(-arrays[0].size // CHUNK)
        parts = [aligned_zeros(chunks) for _ in range(self._sums[name])]
        tensors += [tensor(part) for part in parts]

        def update_and_sum(*scalars: float) -> tuple[float, ...]:
            function(*tensors, *scalars)
            return tuple(float(part.sum(dtype=np.float64)) for part in parts)

        return update_and_sum


def _tensor(array: np.ndarray) -> Any:
    if array.dtype != np.float32 or not is_aligned(array):
        raise ValueError(f"update kernels need aligned contiguous float32 arrays, got {array.dtype}{array.shape}")
    return tensor(array.reshape(-1))
