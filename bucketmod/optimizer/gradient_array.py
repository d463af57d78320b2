"""The gradient of a parameter, with what is known of its rows."""

from __future__ import annotations

import numpy as np

from bucketmod.compiler.update_formulas import OF_TWO
from bucketmod.context import Context
from bucketmod.ndarray import NDArray
from bucketmod.ndarray.ndarray import resolve_context
from bucketmod.runtime.parameter_store import ParameterStore


class GradientArray(NDArray):
    """The gradient of the parameter ``name`` in ``store``.

    Compiled updates take ``gradient`` and ``rows``, the table of the rows that are not zero (None: there is none).
    Whoever gets at the memory in another way may write to it: from then on, programs and updates count on nothing.
    """

    __slots__ = ("_name", "_store", "gradient")

    def __init__(self, store: ParameterStore, name: str, context: Context) -> None:
        self._store, self._name = store, name
        self.gradient = store.gradients[name]
        self._context = resolve_context(context)

    def is_kept_by(self, name: str) -> bool:
        """Whether the update ``name`` leaves its gradient as it is."""
        return name in OF_TWO  # an update that does not has no kernel for two gradients

    @property
    def rows(self) -> np.ndarray | None:
        """The table of :mod:`bucketmod.runtime.gradient_rows`."""
        return self._store.gradient_rows.get(self._name)

    @property
    def _data(self) -> np.ndarray:  # type: ignore[override]  # the base has a plain attribute
        self._store.open_gradient(self._name)
        return self.gradient

    def asnumpy(self) -> np.ndarray:
        """A copy."""
        return self.gradient.copy()
