"""Adam: steps scaled by running moments of the gradient."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from bucketmod.ndarray import NDArray, zeros
from bucketmod.optimizer.optimizer import Optimizer, register


@register
class Adam(Optimizer):
    """g' = clip(rescale g + wd w); m, v = running means of g' and g'^2; w -= lr c m / (sqrt(v) + epsilon).

    c = sqrt(1 - beta2^t) / (1 - beta1^t), t the number of updates of this parameter. ``lazy_update`` concerns sparse
    gradients only.
    """

    uses_kernels = True

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        lazy_update: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.lazy_update = lazy_update

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray, NDArray]:
        """(mean, variance), zeros."""
        mean, variance = (zeros(weight.shape, weight.context, weight.dtype) for _ in range(2))
        return mean, variance

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        for each in (weight, grad):
            assert isinstance(each, NDArray), f"Adam updates NDArrays, got {type(each)}"
        self._update_count(index)
        count = self._index_update_count[index]
        lr = self._get_lr(index) * math.sqrt(1.0 - self.beta2**count) / (1.0 - self.beta1**count)
        mean, variance = state
        self.kernels.adam_update(
            weight.numpy_view(), grad.numpy_view(), mean.numpy_view(), variance.numpy_view(),
            lr, self.beta1, self.beta2, self.epsilon, self._get_wd(index), self.rescale_grad, self._clip_bound(),
        )  # fmt: skip
