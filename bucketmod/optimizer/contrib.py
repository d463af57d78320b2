"""Optimizers beside MXNet's core."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from bucketmod.ndarray import NDArray, zeros
from bucketmod.optimizer.optimizer import Optimizer, register


@register
class GroupAdaGrad(Optimizer):
    """AdaGrad with one sum for each row of a matrix: h += mean of g^2 over the row; w -= lr g / sqrt(h + eps).

    AssertionError for parameters that are no matrices, and for weight decay, which it does not know.
    """

    def __init__(self, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.float_stable_eps = eps

    def create_state(self, index: Hashable, weight: NDArray) -> NDArray:
        """(rows, 1), zeros."""
        assert len(weight.shape) == 2, f"GroupAdaGrad updates matrices, got shape {weight.shape}"
        return zeros((weight.shape[0], 1), weight.context)

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        assert wd == 0, "Weight decay is not supported for GroupAdaGrad"
        scaled = grad.numpy_view() * weight.dtype(self.rescale_grad)
        if self.clip_gradient is not None:
            scaled = np.clip(scaled, -self.clip_gradient, self.clip_gradient)
        history = state.numpy_view()
        history += np.mean(np.square(scaled), axis=1, keepdims=True)
        weight -= NDArray(lr * scaled / np.sqrt(history + history.dtype.type(self.float_stable_eps)))
