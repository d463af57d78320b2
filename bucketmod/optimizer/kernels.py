"""What an optimizer calls to change a parameter in place: compiled kernels, or numpy where there are none.

Both follow the formulas of :mod:`bucketmod.compiler.update_formulas`, which name the arrays and scalars of each kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from bucketmod.compiler.update_formulas import UPDATES


class UpdateKernels(Protocol):
    """In-place updates on arrays of equal size."""

    def run(self, name: str, arrays: Sequence[np.ndarray], *scalars: float) -> tuple[float, ...]:
        """Applies the update ``name`` to ``arrays``; returns its sums. KeyError when there is no such update."""


class _NumpyMaths:
    """Formulas on whole arrays. Numbers take the arrays' dtype; float16 is computed in float32."""

    def __init__(self, dtype: np.dtype) -> None:
        self.number: Callable[[float], Any] = np.promote_types(dtype, np.float32).type

    def keep(self, value: Any) -> Any:
        return value

    def select(self, condition: Any, then: Any, otherwise: Any) -> Any:
        return np.where(condition, then, otherwise)

    def sqrt(self, value: Any) -> Any:
        return np.sqrt(value)


def _bound(clip_gradient: float) -> float:
    return clip_gradient if clip_gradient >= 0 else np.inf


class ReferenceKernels:
    """The formulas in numpy: for tests, for arrays that compiled kernels cannot take, and until some are attached."""

    def run(self, name: str, arrays: Sequence[np.ndarray], *scalars: float) -> tuple[float, ...]:
        update = UPDATES[name]
        targets = dict(zip(update.arrays, arrays, strict=True))
        maths = _NumpyMaths(arrays[0].dtype)
        numbers = dict(zip(update.scalars, scalars, strict=True))
        if "clip_gradient" in numbers:
            numbers["bound"] = _bound(numbers["clip_gradient"])
        values = SimpleNamespace(
            **{key: array.astype(np.float32) if array.dtype == np.float16 else array for key, array in targets.items()}
        )
        with np.errstate(all="ignore"):
            found = update.step(
                maths, values, SimpleNamespace(**{key: maths.number(value) for key, value in numbers.items()})
            )
            # All results are there before the first is written, so a formula may use every old value.
            results = {key: np.array(found[key]) for key in targets if key in found}
            sums = tuple(float(np.sum(found[key], dtype=np.float64)) for key in update.sums)
        for key, result in results.items():
            targets[key][...] = result
        return sums


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
