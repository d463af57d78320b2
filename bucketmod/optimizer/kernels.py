"""What an optimizer calls to change a parameter in place: compiled kernels, or numpy where there are none.

Both follow MXNet's formulas. Scalars are floats; ``clip_gradient`` below 0 means no clipping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np


class UpdateKernels(Protocol):
    """In-place updates on arrays of equal size; states come after the gradient and change too."""

    def sgd_update(
        self, weight: np.ndarray, grad: np.ndarray, lr: float, wd: float, rescale_grad: float, clip_gradient: float
    ) -> None:
        """w -= lr (clip(rescale g) + wd w)"""

    def sgd_mom_update(
        self, weight: np.ndarray, grad: np.ndarray, mom: np.ndarray, lr: float, momentum: float, wd: float,
        rescale_grad: float, clip_gradient: float,
    ) -> None:  # fmt: skip
        """m = momentum m - lr (clip(rescale g) + wd w);  w += m"""

    def adam_update(
        self, weight: np.ndarray, grad: np.ndarray, mean: np.ndarray, var: np.ndarray, lr: float, beta1: float,
        beta2: float, epsilon: float, wd: float, rescale_grad: float, clip_gradient: float,
    ) -> None:  # fmt: skip
        """g' = clip(rescale g + wd w);  m = b1 m + (1-b1) g';  v = b2 v + (1-b2) g'^2;  w -= lr m / (sqrt(v) + eps)"""


def _clipped(grad: np.ndarray, bound: float) -> np.ndarray:
    return grad.clip(-bound, bound, out=grad) if bound >= 0 else grad


class ReferenceKernels:
    """The formulas in numpy: for tests, for arrays that compiled kernels cannot take, and until some are attached."""

    def sgd_update(
        self, weight: np.ndarray, grad: np.ndarray, lr: float, wd: float, rescale_grad: float, clip_gradient: float
    ) -> None:
        step = _clipped(grad * rescale_grad, clip_gradient)
        step *= lr
        step += (lr * wd) * weight
        weight -= step

    def sgd_mom_update(
        self, weight: np.ndarray, grad: np.ndarray, mom: np.ndarray, lr: float, momentum: float, wd: float,
        rescale_grad: float, clip_gradient: float,
    ) -> None:  # fmt: skip
        step = _clipped(grad * rescale_grad, clip_gradient)
        step += wd * weight
        step *= lr
        mom *= momentum
        mom -= step
        weight += mom

    def adam_update(
        self, weight: np.ndarray, grad: np.ndarray, mean: np.ndarray, var: np.ndarray, lr: float, beta1: float,
        beta2: float, epsilon: float, wd: float, rescale_grad: float, clip_gradient: float,
    ) -> None:  # fmt: skip
        step = grad * rescale_grad
        step += wd * weight
        step = _clipped(step, clip_gradient)
        one = weight.dtype.type(1)
        mean *= beta1
        mean += (one - weight.dtype.type(beta1)) * step
        var *= beta2
        var += (one - weight.dtype.type(beta2)) * step * step
        weight -= lr * mean / (np.sqrt(var) + weight.dtype.type(epsilon))


REFERENCE = ReferenceKernels()


class _Bindable(Protocol):
    """The runtime's side: ``bind(name, *arrays)`` gives a function of the scalars; ValueError for unfit arrays."""

    def bind(self, name: str, *arrays: np.ndarray) -> Callable[..., Any]: ...


_MAX_BOUND = 4096


class CompiledKernels:
    """Compiled kernels, bound once to each set of arrays; numpy for arrays they refuse (not float32, unaligned)."""

    def __init__(self, update: _Bindable) -> None:
        self._update = update
        self._bound: dict[tuple[Any, ...], tuple[tuple[np.ndarray, ...], Callable[..., Any] | None]] = {}

    def _call(self, name: str, arrays: tuple[np.ndarray, ...], scalars: tuple[float, ...]) -> None:
        key = (name, *map(id, arrays))
        known = self._bound.get(key)  # it keeps the arrays alive, so their ids stay theirs
        if known is None:
            try:
                function: Callable[..., Any] | None = self._update.bind(name, *arrays)
            except (KeyError, ValueError):
                function = None
            if len(self._bound) >= _MAX_BOUND:  # a caller with new arrays every step must not fill the memory
                self._bound.clear()
            known = self._bound[key] = (arrays, function)
        if known[1] is None:
            getattr(REFERENCE, name)(*arrays, *scalars)
        else:
            known[1](*map(float, scalars))

    def sgd_update(
        self, weight: np.ndarray, grad: np.ndarray, lr: float, wd: float, rescale_grad: float, clip_gradient: float
    ) -> None:
        self._call("sgd_update", (weight, grad), (lr, wd, rescale_grad, clip_gradient))

    def sgd_mom_update(
        self, weight: np.ndarray, grad: np.ndarray, mom: np.ndarray, lr: float, momentum: float, wd: float,
        rescale_grad: float, clip_gradient: float,
    ) -> None:  # fmt: skip
        self._call("sgd_mom_update", (weight, grad, mom), (lr, momentum, wd, rescale_grad, clip_gradient))

    def adam_update(
        self, weight: np.ndarray, grad: np.ndarray, mean: np.ndarray, var: np.ndarray, lr: float, beta1: float,
        beta2: float, epsilon: float, wd: float, rescale_grad: float, clip_gradient: float,
    ) -> None:  # fmt: skip
        scalars = (lr, beta1, beta2, epsilon, wd, rescale_grad, clip_gradient)
        self._call("adam_update", (weight, grad, mean, var), scalars)
