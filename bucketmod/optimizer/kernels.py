"""What an optimizer calls to change a parameter in place: compiled kernels, or numpy where there are none.

Both follow the formulas of :mod:`bucketmod.compiler.update_formulas`, which name the arrays and scalars of each kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from bucketmod.ndarray.formulas import run_formula


class UpdateKernels(Protocol):
    """In-place updates on arrays of equal size."""

    def run(self, name: str, arrays: Sequence[np.ndarray], *scalars: float) -> tuple[float, ...]:
        """Applies the update ``name`` to ``arrays``; returns its sums. KeyError when there is no such update."""


class ReferenceKernels:
    """The formulas in numpy: for tests, for arrays that compiled kernels cannot take, and until some are attached."""

    def run(self, name: str, arrays: Sequence[np.ndarray], *scalars: float) -> tuple[float, ...]:
        return run_formula(name, arrays, *scalars)


REFERENCE = ReferenceKernels()


class _Bindable(Protocol):
    """The runtime's side: ``bind(name, *arrays)`` gives a function of the scalars; ValueError for unfit arrays."""

    def bind(self, name: str, *arrays: np.ndarray) -> Callable[..., tuple[float, ...]]: ...


_MAX_BOUND = 4096


class CompiledKernels:
    """Compiled kernels, bound once to each set of arrays; numpy for arrays they refuse (not float32, unaligned)."""

    def __init__(self, update: _Bindable) -> None:
        self._update = update
        self._bound: dict[tuple[Any, ...], tuple[Sequence[np.ndarray], Callable[..., Any] | None]] = {}

    def run(self, name: str, arrays: Sequence[np.ndarray], *scalars: float) -> tuple[float, ...]:
        key = (name, *map(id, arrays))
        known = self._bound.get(key)  # it keeps the arrays alive, so their ids stay theirs
        if known is None:
            try:
                function: Callable[..., Any] | None = self._update.bind(name, *arrays)
            except ValueError:
                function = None
            if len(self._bound) >= _MAX_BOUND:  # a caller with new arrays every step must not fill the memory
                self._bound.clear()
            known = self._bound[key] = (arrays, function)
        if known[1] is None:
            return REFERENCE.run(name, arrays, *scalars)
        return known[1](*map(float, scalars))
