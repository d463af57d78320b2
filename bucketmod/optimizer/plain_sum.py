"""The optimizer that only adds gradients up, for tests of what surrounds an optimizer."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from bucketmod.ndarray import NDArray, zeros
from bucketmod.optimizer.optimizer import Optimizer, register


@register
class Test(Optimizer):
    """w += rescale g; the state is a copy of w."""

    __test__ = False  # not a test case, whatever its name says to pytest
    uses_kernels = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def create_state(self, index: Hashable, weight: NDArray) -> NDArray:
        return zeros(weight.shape, weight.context)

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        self._check_arrays(weight, grad)
        self._apply("plain_sum_update", (weight, grad, state), self.rescale_grad)
