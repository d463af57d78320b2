"""Optimizer updates as compiled in-place kernels over flat arrays; one artifact serves all models and buckets.

An entry of its manifest lists the arrays of a kernel; after them the function takes float32 scalars, in the order of
:mod:`bucketmod.compiler.kernels.update` (that of ``bucketmod.optimizer.UpdateKernels``)::

    sgd_update(weight, grad, lr, wd, rescale_grad, clip_gradient)
    sgd_mom_update(weight, grad, mom, lr, momentum, wd, rescale_grad, clip_gradient)
    adam_update(weight, grad, mean, var, lr, beta1, beta2, epsilon, wd, rescale_grad, clip_gradient)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bucketmod.runtime.artifact import Artifact
from bucketmod.runtime.errors import ArtifactError
from bucketmod.runtime.memory import is_aligned
from bucketmod.runtime.tvm_runtime import tensor

_MOST_KEPT = 4096


class UpdateKernels:
    """Calls the kernels of an artifact of mode ``update``.

    Arrays are float32, C-contiguous, 64-byte aligned and of equal size, and do not overlap; they are updated in place.
    Tensors made of long-lived arrays are kept, so that binding them again costs microseconds.
    """

    def __init__(self, artifact: Artifact):
        if artifact.manifest.mode != "update":
            raise ArtifactError(f"{artifact.folder} has mode {artifact.manifest.mode!r}, expected 'update'")
        self.artifact = artifact
        self._functions = {name: artifact.function(name) for name in artifact.manifest.entries}
        self._flat: dict[int, tuple[np.ndarray, Any]] = {}

    @property
    def names(self) -> frozenset[str]:
        """Kernels that the artifact has."""
        return frozenset(self._functions)

    def bind(self, name: str, *arrays: np.ndarray) -> Any:
        """A function of the kernel's scalars alone, as in ``bind("sgd_update", weight, gradient)(lr, wd, ...)``.

        Raises KeyError for an unknown kernel, ValueError when an array is not as described above.
        """
        function, tensors = self._functions[name], [self._tensor(array) for array in arrays]
        if len({array.size for array in arrays}) != 1:
            raise ValueError(f"{name}: arrays of different sizes {[array.shape for array in arrays]}")
        return lambda *scalars: function(*tensors, *scalars)

    def _tensor(self, array: np.ndarray) -> Any:
        kept = self._flat.get(id(array))
        if kept is not None and kept[0] is array:
            return kept[1]
        if array.dtype != np.float32 or not is_aligned(array):
            raise ValueError(f"update kernels need aligned contiguous float32 arrays, got {array.dtype}{array.shape}")
        flat = tensor(array.reshape(-1))
        if len(self._flat) >= _MOST_KEPT:  # a caller with new arrays every step must not fill the memory
            self._flat.clear()
        self._flat[id(array)] = (array, flat)
        return flat
