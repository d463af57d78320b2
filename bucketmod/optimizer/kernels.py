"""What an optimizer calls to change a parameter in place: compiled kernels, or numpy where there are none.

Both follow the formulas of :mod:`bucketmod.compiler.update_formulas`, which name the arrays and scalars of each kernel.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from bucketmod.ndarray.formulas import run_formula


class UpdateKernels(Protocol):
    """In-place updates on arrays of equal size."""

    def run(
        self, name: str, arrays: Sequence[np.ndarray], *scalars: float, rows: np.ndarray | None = None
    ) -> tuple[float, ...]:
        """Applies the update ``name`` to ``arrays``; returns its sums. ``rows``: the table of the gradient's rows, if
        there is one. KeyError when there is no such update."""


class ReferenceKernels:
    """The formulas in numpy: for tests, for arrays that compiled kernels cannot take, and until some are attached."""

    def run(
        self, name: str, arrays: Sequence[np.ndarray], *scalars: float, rows: np.ndarray | None = None
    ) -> tuple[float, ...]:
        return run_formula(name, arrays, *scalars)


REFERENCE = ReferenceKernels()


class _Bindable(Protocol):
    """The runtime's side: ``bind(name, *arrays)`` gives a function of the scalars; ValueError for unfit arrays."""

    def bind(
        self, name: str, *arrays: np.ndarray, rows: np.ndarray | None = None
    ) -> Callable[..., tuple[float, ...]]: ...


_Key = tuple[Any, ...]  # a kernel's name and the ids of arrays
_MOST_KEPT = 4096


class CompiledKernels:
    """Compiled kernels, bound to arrays; numpy for arrays they refuse (not float32, unaligned).

    Arrays that come together a second time stay bound, and alive, for as long as this object lives. Gradients that are
    new at every step are let go.
    """

    def __init__(self, update: _Bindable) -> None:
        self._update = update
        self._bound: dict[_Key, tuple[Sequence[np.ndarray], Callable[..., tuple[float, ...]]]] = {}
        self._met: dict[_Key, list[weakref.ref[np.ndarray]]] = {}

    def run(
        self, name: str, arrays: Sequence[np.ndarray], *scalars: float, rows: np.ndarray | None = None
    ) -> tuple[float, ...]:
        key = (name, *map(id, arrays), id(rows))
        known = self._bound.get(key)  # it keeps the arrays alive, so their ids stay theirs
        function = known[1] if known is not None else self._bind(key, name, arrays, rows)
        return function(*map(float, scalars))

    def _bind(
        self, key: _Key, name: str, arrays: Sequence[np.ndarray], rows: np.ndarray | None
    ) -> Callable[..., tuple[float, ...]]:
        try:
            function = self._update.bind(name, *arrays, rows=rows)
        except ValueError:
            function = functools.partial(REFERENCE.run, name, arrays)
        if rows is not None:
            arrays = [*arrays, rows]
        met = self._met.pop(key, ())
        again = len(met) > 0 and all(known() is array for known, array in zip(met, arrays, strict=True))
        kept: dict[_Key, Any] = self._bound if again else self._met
        if len(kept) >= _MOST_KEPT:
            kept.clear()
        kept[key] = (arrays, function) if again else [weakref.ref(array) for array in arrays]
        return function
