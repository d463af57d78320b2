"""Adam and its relatives: steps scaled by running means of the gradient and of its size."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from bucketmod.ndarray import NDArray, zeros
from bucketmod.optimizer.optimizer import Optimizer, register


class _TwoMeans(Optimizer):
    """States of two running means."""

    uses_kernels = True

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray, NDArray]:
        """(mean, variance), zeros."""
        mean, variance = (zeros(weight.shape, weight.context, weight.dtype) for _ in range(2))
        return mean, variance


@register
class Adam(_TwoMeans):
    """g' = clip(rescale g + wd w); m, v = running means of g' and g'^2; w -= lr c m / (sqrt(v) + epsilon).

    c = sqrt(1 - beta2^t) / (1 - beta1^t), t the number of updates of this parameter. ``lazy_update``: row_sparse
    gradients change their own rows only. Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015.
    """

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

    def _is_lazy(self) -> bool:
        return self.lazy_update

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, t = self._begin(index, weight, grad)
        lr *= math.sqrt(1.0 - self.beta2**t) / (1.0 - self.beta1**t)
        scalars = (lr, self.beta1, self.beta2, self.epsilon, wd, self.rescale_grad, self._bound_or_none())
        self._apply("adam_update", (weight, grad, *state), *scalars)


@register
class Adamax(_TwoMeans):
    """Adam with the largest recent size of a gradient in place of its variance: u = max(beta2 u, abs(g')).

    w -= lr / (1 - beta1^t) m / u; an element whose gradients were all 0 becomes NaN, as in MXNet. Kingma and Ba, 2015.
    """

    def __init__(
        self, learning_rate: float | None = 0.002, beta1: float = 0.9, beta2: float = 0.999, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, t = self._begin(index, weight, grad)
        scalars = (lr / (1.0 - self.beta1**t), self.beta1, self.beta2, wd, self.rescale_grad, self._bound())
        self._apply("adamax_update", (weight, grad, *state), *scalars)


@register
class Nadam(_TwoMeans):
    """Adam with Nesterov's momentum, whose strength warms up by ``schedule_decay``.

    The product of all strengths so far, ``m_schedule``, is one number for the whole optimizer: as in MXNet it grows
    with every update of every parameter. Dozat, Incorporating Nesterov Momentum into Adam, 2016.
    """

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        schedule_decay: float = 0.004,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.schedule_decay = schedule_decay
        self.m_schedule = 1.0

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, t = self._begin(index, weight, grad)
        now, later = (self.beta1 * (1.0 - 0.5 * 0.96 ** (step * self.schedule_decay)) for step in (t, t + 1))
        self.m_schedule *= now
        share = (1.0 - now) / (1.0 - self.m_schedule)
        factors = (share, later, 1.0 / (1.0 - self.m_schedule * later), 1.0 / (1.0 - self.beta2**t))
        scalars = (lr, self.beta1, self.beta2, self.epsilon, *factors, wd, self.rescale_grad, self._bound())
        self._apply("nadam_update", (weight, grad, *state), *scalars)
