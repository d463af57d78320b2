"""Optimizers that scale each element's step by the gradients it has seen."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from bucketmod.ndarray import NDArray, zeros
from bucketmod.ndarray.formulas import bias_correction
from bucketmod.optimizer.optimizer import Optimizer, register


def _zeros(weight: NDArray, count: int) -> tuple[NDArray, ...]:
    """float32, whatever the weight, as in MXNet."""
    return tuple(zeros(weight.shape, weight.context) for _ in range(count))


@register
class AdaGrad(Optimizer):
    """h += g^2; w -= lr (g / sqrt(h + eps) + wd w), g = clip(rescale g).

    Duchi, Hazan and Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011.
    """

    uses_kernels = True

    def __init__(self, eps: float = 1e-7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.float_stable_eps = eps

    def create_state(self, index: Hashable, weight: NDArray) -> NDArray:
        """The sum of squares."""
        return _zeros(weight, 1)[0]

    def _is_lazy(self) -> bool:
        return True

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        scalars = (lr, self.float_stable_eps, wd, self.rescale_grad, self._bound())
        self._apply("adagrad_update", (weight, grad, state), *scalars)


@register
class RMSProp(Optimizer):
    """n = gamma1 n + (1 - gamma1) g^2; w -= lr g / sqrt(n + epsilon), g = clip(rescale g + wd w).

    ``centered``: g's running mean is subtracted from n, and steps have a momentum ``gamma2`` (Graves, Generating
    Sequences With Recurrent Neural Networks, 2013). ``clip_weights``: bound on each element of the weight.
    Tieleman and Hinton, Lecture 6.5 - RMSProp, 2012.
    """

    uses_kernels = True

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        gamma1: float = 0.9,
        gamma2: float = 0.9,
        epsilon: float = 1e-8,
        centered: bool = False,
        clip_weights: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.gamma1 = gamma1
        self.gamma2 = gamma2
        self.centered = centered
        self.epsilon = epsilon
        self.clip_weights = clip_weights

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray, ...]:
        """(n,), or (n, mean of g, step) when centered."""
        return _zeros(weight, 3 if self.centered else 1)

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        name, gammas = ("rmspropalex_update", (self.gamma1, self.gamma2)) if self.centered else (
            "rmsprop_update", (self.gamma1,))  # fmt: skip
        weight_bound = self.clip_weights if self.clip_weights and self.clip_weights > 0 else np.inf
        tail = (self.epsilon, wd, self.rescale_grad, self._bound_or_none(), weight_bound)
        self._apply(name, (weight, grad, *state), lr, *gammas, *tail)


@register
class AdaDelta(Optimizer):
    """Steps as large as steps were, per gradient as large as gradients were; there is no learning rate.

    w -= step + wd w. As in MXNet ``grad`` itself is multiplied by ``rescale_grad``. Zeiler, ADADELTA: An Adaptive
    Learning Rate Method, 2012.
    """

    uses_kernels = True

    def __init__(self, rho: float = 0.90, epsilon: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rho = rho
        self.epsilon = epsilon

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray, ...]:
        """(mean of squared gradients, mean of squared steps)."""
        return _zeros(weight, 2)

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        _, wd, _ = self._begin(index, weight, grad)
        scalars = (self.rho, self.epsilon, wd, self.rescale_grad, self._bound())
        self._apply("adadelta_update", (weight, grad, *state), *scalars)


@register
class Ftrl(Optimizer):
    """Follow the regularised leader, with lasso strength ``lamda1``: weights that matter little are exactly 0.

    McMahan et al., Ad Click Prediction: a View from the Trenches, 2013.
    """

    uses_kernels = True

    def __init__(self, lamda1: float = 0.01, learning_rate: float = 0.1, beta: float = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lamda1 = lamda1
        self.beta = beta
        self.lr = learning_rate

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray, ...]:
        """(z, n)."""
        return _zeros(weight, 2)

    def _is_lazy(self) -> bool:
        return True

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        scalars = (lr, self.lamda1, self.beta, wd, self.rescale_grad, self._bound_or_none())
        self._apply("ftrl_update", (weight, grad, *state), *scalars)


@register
class FTML(Optimizer):
    """Follow the moving leader. Zheng and Kwok, Follow the Moving Leader in Deep Learning, 2017."""

    uses_kernels = True

    def __init__(self, beta1: float = 0.6, beta2: float = 0.999, epsilon: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray, ...]:
        """(d, v, z), zeros."""
        return tuple(zeros(weight.shape, weight.context, weight.dtype) for _ in range(3))

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, t = self._begin(index, weight, grad)
        corrections = (bias_correction(beta, t) for beta in (self.beta1, self.beta2))
        tail = (wd, self.rescale_grad, self._bound_or_none())
        scalars = (lr, self.beta1, self.beta2, self.epsilon, *corrections, *tail)
        self._apply("ftml_update", (weight, grad, *state), *scalars)
