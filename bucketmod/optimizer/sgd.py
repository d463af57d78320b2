"""Stochastic gradient descent."""

from __future__ import annotations

import os
from collections.abc import Hashable
from typing import Any

import numpy as np

from bucketmod.ndarray import NDArray, zeros
from bucketmod.optimizer.optimizer import Optimizer, register


@register
class SGD(Optimizer):
    """w -= lr (clip(g) + wd w), or with ``momentum`` m = momentum m - lr (clip(g) + wd w), w += m.

    ``lazy_update`` concerns sparse gradients only; dense ones are always applied in full. Several parameters may be
    updated by one call with lists.
    """

    uses_kernels = True

    def __init__(self, momentum: float = 0.0, lazy_update: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.lazy_update = lazy_update
        self.aggregate_num = int(os.getenv("MXNET_OPTIMIZER_AGGREGATION_SIZE", "4"))

    def create_state(self, index: Hashable, weight: NDArray) -> Any:
        """The momentum, or None without."""
        return zeros(weight.shape, weight.context, weight.dtype) if self.momentum != 0.0 else None

    def create_state_multi_precision(self, index: Hashable, weight: NDArray) -> Any:
        """As ``create_state``; (state, float32 copy) for a float16 parameter with ``multi_precision``."""
        if not self._needs_master_copy(weight):
            return self.create_state(index, weight)
        master = weight.astype(np.float32)
        return self.create_state(index, master), master

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        if not isinstance(index, (list, tuple)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        for each in (*weight, *grad):
            assert isinstance(each, NDArray), f"SGD updates NDArrays, got {type(each)}"
        self._update_count(index)
        rates = zip(self._get_lrs(index), self._get_wds(index), strict=True)
        for w, g, momentum, (lr, wd) in zip(weight, grad, state, rates, strict=True):
            self._apply(w.numpy_view(), g.numpy_view(), momentum, lr, wd)

    def _apply(self, weight: np.ndarray, grad: np.ndarray, momentum: NDArray | None, lr: float, wd: float) -> None:
        tail = (self.rescale_grad, self._clip_bound())
        if self.momentum > 0:
            assert momentum is not None, "the state holds no momentum: it was made with momentum 0"
            self.kernels.sgd_mom_update(weight, grad, momentum.numpy_view(), lr, self.momentum, wd, *tail)
        else:
            self.kernels.sgd_update(weight, grad, lr, wd, *tail)

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        if not isinstance(index, (list, tuple)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        if not (self.multi_precision and weight[0].dtype == np.float16):
            self.update(index, weight, grad, state)
            return
        masters = [master for _, master in state]
        self.update(index, masters, [g.astype(np.float32) for g in grad], [momentum for momentum, _ in state])
        for w, master in zip(weight, masters, strict=True):
            w[:] = master


@register
class ccSGD(SGD):
    """SGD under its old name."""
