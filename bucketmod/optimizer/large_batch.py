"""Optimizers for large batches: steps in proportion to the norm of the parameter.

Norms need a pass over the arrays of their own, which is compiled like the step that follows it.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from bucketmod.ndarray import NDArray, zeros
from bucketmod.ndarray.formulas import bias_correction
from bucketmod.optimizer.optimizer import Optimizer, register
from bucketmod.optimizer.sgd import AggregatingSGD, MomentumOptimizer


@register
class LARS(AggregatingSGD):
    """SGD with the learning rate of each parameter times eta |w| / (|g| + wd |w| + eps).

    Biases, gammas and betas (by the ends of their names) keep the plain rate. ``momentum_correction``: the momentum is
    scaled by the change of the learning rate. You, Gitman and Ginsburg, Large Batch Training of Convolutional Networks,
    2017.
    """

    def __init__(
        self,
        momentum: float = 0.0,
        lazy_update: bool = True,
        eta: float = 0.001,
        eps: float = 0,
        momentum_correction: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.momentum_correction = momentum_correction
        self.lazy_update = lazy_update
        self.aggregate_num = int(os.getenv("MXNET_OPTIMIZER_AGGREGATION_SIZE", "4"))
        self.eta = eta
        self.eps = eps
        self.skip = 0
        self.last_lr: float | None = None
        self.cur_lr: float | None = None

    def set_wd_mult(self, args_wd_mult: Mapping[Any, float]) -> None:
        """As in Optimizer, but gammas do not decay either unless an attribute or this call says so."""
        super().set_wd_mult({})
        attributes = self._attribute("__wd_mult__")
        for name in self.idx2name.values():
            if not name.endswith("_weight") and name not in attributes:
                self.wd_mult[name] = 0.0
        self.wd_mult.update(args_wd_mult)

    def _get_lrs(self, indices: Iterable[Hashable]) -> list[float]:
        rate = self.learning_rate
        self.last_lr = rate if self.cur_lr is None else self.cur_lr
        self.cur_lr = rate
        return [rate * self._multiplier(index, "lr_mult") for index in indices]

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        if not isinstance(index, (list, tuple)):
            index, weight, grad, state = [index], [weight], [grad], [state]
        self._check_arrays(*weight, *grad)
        self._update_count(index)
        lrs, wds = self._get_lrs(index), self._get_wds(index)
        strength = self.momentum
        if self.momentum_correction and self.last_lr:
            assert self.cur_lr is not None
            strength *= self.cur_lr / self.last_lr
        for each, w, g, momentum, lr, wd in zip(index, weight, grad, state, lrs, wds, strict=True):
            self._descend(w, g, momentum, self._scaled(each, w, g, lr, wd), wd, strength)

    def _scaled(self, index: Hashable, weight: NDArray, grad: NDArray, lr: float, wd: float) -> float:
        """The learning rate of a parameter, from the norms of weight and gradient."""
        if str(self.idx2name.get(index, index)).endswith(("gamma", "beta", "bias")):
            return lr
        weight_norm, grad_norm = map(math.sqrt, self._apply("sums_of_squares", (weight, grad)))
        if not (weight_norm > 0 and grad_norm > 0):
            return lr
        return lr * self.eta * weight_norm / (grad_norm * self.rescale_grad + wd * weight_norm + self.eps)


@register
class LAMB(Optimizer):
    """Adam's direction r (with wd w in it), in steps of lr |w| / |r|.

    ``lower_bound``, ``upper_bound``: on |w|. ``bias_correction``: of the moments, as in Adam. The first of two passes
    updates the moments and adds the squares up, the second takes the step. You et al., Large Batch Optimization for
    Deep Learning: Training BERT in 76 minutes, 2020.
    """

    uses_kernels = True

    def __init__(
        self,
        learning_rate: float | None = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-6,
        lower_bound: float | None = None,
        upper_bound: float | None = None,
        bias_correction: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self.bias_correction = bias_correction
        self.aggregate_num = max(1, min(45, int(os.getenv("MXNET_OPTIMIZER_AGGREGATION_SIZE", "45"))))

    def create_state(self, index: Hashable, weight: NDArray) -> tuple[NDArray, NDArray]:
        """(mean, variance), zeros."""
        mean, variance = (zeros(weight.shape, weight.context, weight.dtype) for _ in range(2))
        return mean, variance

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        if isinstance(index, (list, tuple)):
            for each in zip(index, weight, grad, state, strict=True):
                self.update(*each)
            return
        lr, wd, t = self._begin(index, weight, grad)
        betas = (self.beta1, self.beta2)
        corrections = [bias_correction(beta, t) if self.bias_correction else 1.0 for beta in betas]
        direction = (self.epsilon, *corrections, wd)
        squares = self._apply(
            "lamb_moments", (weight, grad, *state), *betas, *direction, self.rescale_grad,
            self._bound_or_none(),
        )  # fmt: skip
        weight_norm, direction_norm = map(math.sqrt, squares)
        if self.lower_bound:
            weight_norm = max(weight_norm, self.lower_bound)
        if self.upper_bound:
            weight_norm = min(weight_norm, self.upper_bound)
        ratio = weight_norm / direction_norm if weight_norm and direction_norm else 1.0
        self._apply("lamb_step", (weight, *state), lr * ratio, *direction)

    def update_multi_precision(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        if isinstance(index, (list, tuple)):
            for each in zip(index, weight, grad, state, strict=True):
                self.update_multi_precision(*each)
            return
        super().update_multi_precision(index, weight, grad, state)


@register
class LBSGD(MomentumOptimizer):
    """SGD for large batches made of ``batch_scale`` small ones, with a warm-up of the learning rate.

    Gradients of ``batch_scale`` updates are averaged before a step is taken. ``warmup_strategy``: the factor on the
    learning rate rises from 1 to ``batch_scale`` over ``warmup_epochs`` of ``updates_per_epoch`` as "linear", "power2"
    or "sqrt" says, or follows from norms ("lars": sqrt(|w|^2 / (|g|^2 + wd |w|^2)) within [0.01, 100]).
    """

    def __init__(
        self,
        momentum: float = 0.0,
        multi_precision: bool = False,
        warmup_strategy: str = "linear",
        warmup_epochs: int = 5,
        batch_scale: int = 1,
        updates_per_epoch: int = 32,
        begin_epoch: int = 0,
        num_epochs: int = 60,
        **kwargs: Any,
    ) -> None:
        super().__init__(multi_precision=multi_precision, **kwargs)
        logging.info("Running Large-Batch SGD Algorithm")
        logging.info(
            "(Batch_scale=%f, warmup_epochs=%d, warmup_strategy=%s, updates_per_epoch=%d)",
            batch_scale, warmup_epochs, warmup_strategy, updates_per_epoch,
        )  # fmt: skip
        self.momentum = momentum
        self.warmup_strategy = warmup_strategy
        self.warmup_epochs = warmup_epochs
        self.batch_scale = batch_scale
        self.updates_per_epoch = updates_per_epoch
        self.init_updates = begin_epoch * updates_per_epoch
        self.num_epochs = num_epochs
        self.lbmult = 1
        self.cumgrads: dict[Hashable, dict[str, Any]] = {}
        self.adaptive = False
        self.admult = 1

    def create_state(self, index: Hashable, weight: NDArray) -> Any:
        """The momentum or None; (momentum or None, float32 copy) for float16 with ``multi_precision``."""
        if not (self.multi_precision and weight.dtype == np.float16):
            return super().create_state(index, weight)
        master = weight.astype(np.float32)
        return super().create_state(index, master), master

    def update(self, index: Any, weight: Any, grad: Any, state: Any) -> None:
        self._check_arrays(weight, grad)
        lr, wd = self._get_lr(index), self._get_wd(index)
        self._update_count(index)
        gathered = self._gather(index, grad)
        if gathered["num_cums"] % self.batch_scale:
            return
        mean = gathered["cum_grad"] / self.batch_scale
        gathered["cum_grad"] = 0
        if isinstance(state, (list, tuple)):
            momentum, master = state
            self._descend(master, mean.astype(np.float32), momentum, lr, wd, gathered["num_cums"])
            weight[:] = master
        else:
            self._descend(weight, mean, state, lr, wd, gathered["num_cums"])

    def _gather(self, index: Hashable, grad: NDArray) -> dict[str, Any]:
        """The sum of the gradients since the last step, and the number of all so far."""
        known = self.cumgrads.get(index)
        if known is None:
            known = {"cum_grad": grad.copy(), "num_cums": self.init_updates + 1}
        else:
            known = {"cum_grad": grad + known["cum_grad"], "num_cums": known["num_cums"] + 1}
        self.cumgrads[index] = known
        return known

    def _descend(
        self, weight: NDArray, grad: NDArray, momentum: NDArray | None, lr: float, wd: float, count: int
    ) -> None:
        factor = self._from_norms(weight, grad, wd) if self.warmup_strategy == "lars" else self._get_lbmult(count)
        tail = (wd, self.rescale_grad, self._bound_or_none())
        if momentum is None:
            self._apply("sgd_update", (weight, grad), lr * factor, *tail)
        else:
            self._apply("sgd_mom_update", (weight, grad, momentum), lr * factor, max(self.momentum, 0.0), *tail)

    def _from_norms(self, weight: NDArray, grad: NDArray, wd: float) -> float:
        weight_squares, grad_squares = self._apply("sums_of_squares", (weight, grad))
        return min(max(math.sqrt(weight_squares / (grad_squares + wd * weight_squares + 1e-18)), 0.01), 100.0)

    def _get_lbmult(self, nup: int) -> float:
        """The factor on the learning rate after ``nup`` updates."""
        steps, largest = self.warmup_epochs * self.updates_per_epoch, float(self.batch_scale)
        if nup >= steps:
            return largest
        if steps <= 1:
            return 1.0
        shares = {"linear": nup / steps, "power2": nup * nup / (steps * steps), "sqrt": math.sqrt(nup / steps)}
        return 1.0 + (largest - 1) * shares.get(self.warmup_strategy, 0.0)
