"""The arrays of an executor: where a program reads them in place, and where copies stand in for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bucketmod.ndarray import NDArray
from bucketmod.runtime.memory import aligned_empty, is_aligned
from bucketmod.runtime.parameter_store import ParameterStore

Arrays = Mapping[str, NDArray]


class BoundArrays:
    """A store over the user's own arrays.

    Programs read and write 64-byte aligned memory. Arrays have that unless they are views that start somewhere inside
    another array; for those the store has a copy, which :meth:`load` fills before a program runs and :meth:`save`
    copies back after it. ``store``: what programs bind to.
    """

    def __init__(self, arguments: Arrays, gradients: Arrays, auxiliary: Arrays) -> None:
        self.store = ParameterStore()
        self._loads: list[tuple[np.ndarray, np.ndarray]] = []
        self._saves: list[tuple[np.ndarray, np.ndarray]] = []
        for name, array in arguments.items():
            self.store.parameters[name] = self._place(array, written=False)
        for name, array in gradients.items():
            self.store.gradients[name] = self._place(array, written=True)
        for name, array in auxiliary.items():
            self.store.auxiliary[name] = self._place(array, written=True)

    def _place(self, array: NDArray, written: bool) -> np.ndarray:
        own = array.numpy_view()
        if is_aligned(own):
            return own
        copy = aligned_empty(own.shape, own.dtype)
        self._loads.append((copy, own))
        if written:
            self._saves.append((own, copy))
        return copy

    def load(self) -> None:
        """Before a program: copies what it cannot read in place."""
        for copy, own in self._loads:
            np.copyto(copy, own)

    def save(self) -> None:
        """After a program: copies what it could not write in place."""
        for own, copy in self._saves:
            np.copyto(own, copy)


def as_dict(names: Sequence[str], arrays: Sequence[NDArray | None] | None) -> dict[str, NDArray | None]:
    """Arrays by name (None for all when there are no arrays). ValueError when a name comes twice."""
    if len(set(names)) != len(names):
        raise ValueError(f"Duplicate names detected, {list(names)}")
    return dict(zip(names, arrays if arrays is not None else [None] * len(names), strict=True))
