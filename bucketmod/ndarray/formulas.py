"""The formulas of :mod:`bucketmod.compiler.update_formulas`, evaluated on numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from bucketmod.compiler.update_formulas import UPDATES


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


def run_formula(name: str, arrays: Sequence[np.ndarray], *scalars: float) -> tuple[float, ...]:
    """Applies the update ``name`` to ``arrays`` in place; returns its sums. KeyError when there is no such update."""
    update = UPDATES[name]
    targets = dict(zip(update.arrays, arrays, strict=True))
    maths = _NumpyMaths(arrays[0].dtype)
    numbers = dict(zip(update.scalars, scalars, strict=True))
    if "clip_gradient" in numbers:
        numbers["bound"] = numbers["clip_gradient"] if numbers["clip_gradient"] >= 0 else np.inf
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


def bias_correction(beta: float, count: int) -> float:
    """1 - beta^count, what a running mean of ``count`` values still lacks.

    In float32, as the means themselves: their shares and this would not cancel otherwise.
    """
    return float(1 - np.float32(beta) ** np.float32(count))
