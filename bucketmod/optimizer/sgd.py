"""Stochastic gradient descent and its relatives."""

from __future__ import annotations

import math
import os
from collections.abc import Hashable
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.ndarray import NDArray, zeros
from bucketmod.ndarray.random import normal
from bucketmod.optimizer.optimizer import Optimizer, register


class MomentumOptimizer(Optimizer):
    """States of optimizers with an optional momentum; with a float32 copy the state is (momentum, copy)."""

    uses_kernels = True
    momentum: float

    def create_state(self, index: Hashable, weight: NDArray) -> Any:
        """The momentum, or None without."""
        return zeros(weight.shape, weight.context, weight.dtype) if self.momentum != 0.0 else None


class _MasterLast(MomentumOptimizer):
    """The float32 copy of a float16 parameter stands behind the momentum in its state."""

    def create_state_multi_precision(self, index: Hashable, weight: NDArray) -> Any:
        """As ``create_state``; (state, float32 copy) for a float16 parameter with ``multi_precision``."""
        if not self._needs_master_copy(weight):
            return self.create_state(index, weight)
        master = weight.astype(np.float32)
        return self.create_state(index, master), master

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        several = isinstance(index, (list, tuple))
        weights, grads, states = (list(each) if several else [each] for each in (weight, grad, state))
        if not (self.multi_precision and weights[0].dtype == np.float16):
            self.update(index, weight, grad, state)
            return
        masters, inner = [master for _, master in states], [momentum for momentum, _ in states]
        grads = [each.astype(np.float32) for each in grads]
        self.update(index, *((masters, grads, inner) if several else (masters[0], grads[0], inner[0])))
        for w, master in zip(weights, masters, strict=True):
            w[:] = master


class AggregatingSGD(_MasterLast):
    """Applies the updates of descent, with momentum or without."""

    def _descend(
        self, weight: NDArray, grad: NDArray, momentum: NDArray | None, lr: float, wd: float, strength: float
    ) -> None:
        tail = (wd, self.rescale_grad, self._bound_or_none())
        if self.momentum > 0:
            assert momentum is not None, "the state holds no momentum: it was made with momentum 0"
            self._apply("sgd_mom_update", (weight, grad, momentum), lr, strength, *tail)
        else:
            self._apply("sgd_update", (weight, grad), lr, *tail)


@register
class SGD(AggregatingSGD):
    """w -= lr (clip(g) + wd w), or with ``momentum`` m = momentum m - lr (clip(g) + wd w), w += m.

    ``lazy_update``: row_sparse gradients change their own rows only; dense ones are always applied in full. Several
    parameters may be updated by one call with lists.
    """

    def __init__(self, momentum: float = 0.0, lazy_update: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.lazy_update = lazy_update
        self.aggregate_num = int(os.getenv("MXNET_OPTIMIZER_AGGREGATION_SIZE", "4"))

    def _is_lazy(self) -> bool:
        return self.lazy_update

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        if not isinstance(index, (list, tuple)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        self._check_arrays(*weight, *grad)
        self._update_count(index)
        rates = zip(self._get_lrs(index), self._get_wds(index), strict=True)
        for w, g, momentum, (lr, wd) in zip(weight, grad, state, rates, strict=True):
            self._descend(w, g, momentum, lr, wd, self.momentum)


@register
class ccSGD(SGD):
    """SGD under its old name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


@register
class NAG(_MasterLast):
    """Nesterov's accelerated gradient: m = momentum m - lr g', w += momentum m - lr g', g' = clip(rescale g) + wd w.

    Without momentum it is SGD. Sutskever et al., On the importance of initialization and momentum in deep learning,
    2013.
    """

    def __init__(self, momentum: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        tail = (wd, self.rescale_grad, self._bound_or_none())
        if state is None:
            self._apply("sgd_update", (weight, grad), lr, *tail)
        else:
            self._apply("nag_mom_update", (weight, grad, state), lr, max(self.momentum, 0.0), *tail)


@register
class Signum(MomentumOptimizer):
    """w moves by lr against the sign of the momentum (of the gradient where ``momentum`` is 0).

    ``wd_lh``: decay of the weight beside the gradient: w *= 1 - lr wd_lh. Bernstein et al., signSGD: Compressed
    Optimisation for Non-Convex Problems, 2018.
    """

    def __init__(
        self, learning_rate: float | None = 0.01, momentum: float = 0.9, wd_lh: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.momentum = momentum
        self.wd_lh = wd_lh

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        if state is None:
            if self.wd_lh:
                raise MXNetError("Signum without momentum does not know wd_lh: wd decays the weight alike")
            self._apply("signsgd_update", (weight, grad), lr, wd)
            return
        scalars = (lr, max(self.momentum, 0.0), self.wd_lh, wd, self.rescale_grad, self._bound_or_none())
        self._apply("signum_update", (weight, grad, state), *scalars)


@register
class SGLD(Optimizer):
    """Stochastic gradient Langevin dynamics: w -= lr / 2 (clip(rescale g) + wd w), plus noise of variance lr.

    The noise comes from ``mx.random``. Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics,
    2011.
    """

    uses_kernels = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def create_state(self, index: Hashable, weight: NDArray) -> None:
        """None."""

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        noise = normal(0, math.sqrt(lr), shape=weight.shape, dtype=weight.dtype, ctx=weight.context)
        self._apply("sgld_update", (weight, grad, noise), lr, wd, self.rescale_grad, self._bound())


@register
class DCASGD(Optimizer):
    """Descent that corrects delayed gradients: g' = g + wd w + lamda g^2 (w - w before its last update).

    Zheng et al., Asynchronous Stochastic Gradient Descent with Delay Compensation, 2017.
    """

    uses_kernels = True

    def __init__(self, momentum: float = 0.0, lamda: float = 0.04, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.weight_previous: dict[Hashable, Any] = {}
        self.lamda = lamda

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray | None, NDArray]:
        """(momentum or None, copy of the weight)."""
        momentum = zeros(weight.shape, weight.context, weight.dtype) if self.momentum != 0.0 else None
        return momentum, weight.copy()

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        lr, wd, _ = self._begin(index, weight, grad)
        momentum, previous = state
        tail = (self.lamda, wd, self.rescale_grad, self._bound())
        if momentum is None:
            self._apply("dcasgd_update", (weight, grad, previous), lr, *tail)
        else:
            self._apply("dcasgd_mom_update", (weight, grad, momentum, previous), lr, self.momentum, *tail)
