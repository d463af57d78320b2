"""The updates that optimizers and stores are made of, each a formula for one element.

A formula is written once and used twice: :mod:`bucketmod.compiler.kernels.update` compiles it, and
:mod:`bucketmod.optimizer.kernels` evaluates it on numpy arrays. This module imports nothing but Python, so that a
process that only trains can read it. The arithmetic is that of MXNet 1.9.1, in its order of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol

Value = Any  # a number, a numpy array or a TIR expression: what Maths works on
Values = Any  # a namespace of Values by name


class Maths(Protocol):
    """What formulas need beside the operators of Python."""

    def number(self, value: float) -> Value:
        """A constant."""

    def keep(self, value: Value) -> Value:
        """``value``, computed once however often it is used."""

    def select(self, condition: Value, then: Value, otherwise: Value) -> Value:
        """``then`` where ``condition``; both are evaluated."""

    def sqrt(self, value: Value) -> Value:
        """Square root."""


Step = Callable[[Maths, Values, Values], Mapping[str, Value]]


@dataclass(frozen=True)
class Update:
    """An update in place.

    ``arrays``: in the order of arguments, all of one size; ``scalars``: those that follow, all float. A scalar
    ``clip_gradient`` also gives the formula ``bound``: the same number, or infinity where it is negative.
    ``step(maths, arrays, scalars)``: the new values of the arrays that change, and the terms of ``sums``, which are
    added up over all elements. ``by_rows``: whether there is also a kernel that reads only those rows of the gradient
    that are not zero; ``rests_without``: a scalar that makes it leave the other rows alone altogether where it is 0.
    """

    name: str
    arrays: tuple[str, ...]
    scalars: tuple[str, ...]
    step: Step
    sums: tuple[str, ...] = ()
    by_rows: bool = False
    rests_without: str = ""


UPDATES: dict[str, Update] = {}
OF_TWO: dict[str, str] = {}  # update by one gradient -> the same update by the sum of two


def _update(
    arrays: str, scalars: str, sums: str = "", keeps_grad: bool = True, by_rows: bool = False, rests_without: str = ""
) -> Callable[[Step], Step]:
    """Registers the decorated step under its function's name; the words name arrays, scalars and sums.

    A step that changes a weight by a gradient, which it keeps as it is, is also registered for two gradients.
    """

    def add(step: Step) -> Step:
        name = step.__name__
        update = Update(
            name, tuple(arrays.split()), tuple(scalars.split()), step, tuple(sums.split()), by_rows, rests_without
        )
        UPDATES[name] = update
        if update.arrays[:2] == ("weight", "grad") and keeps_grad:
            OF_TWO[name] = f"{name}_of_two"
            UPDATES[OF_TWO[name]] = _of_two(update)
        return step

    return add


def _of_two(update: Update) -> Update:
    """``update`` by ``grad + second_grad``: what adding up first and updating then gives, without the sum's way through
    memory. ``second_grad`` stands behind ``grad``."""
    weight, grad, *states = update.arrays

    def step(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
        total = m.keep(x.grad + x.second_grad)
        return update.step(m, SimpleNamespace(**{**vars(x), "grad": total}), s)

    return Update(OF_TWO[update.name], (weight, grad, "second_grad", *states), update.scalars, step, update.sums)


_CLIPPED = "wd rescale_grad clip_gradient"


def _clipped(m: Maths, value: Value, bound: Value) -> Value:
    """``value`` within [-bound, bound]; NaN stays NaN, which min and max do not promise."""
    value = m.keep(value)
    return m.keep(m.select(value < -bound, -bound, m.select(value > bound, bound, value)))


def _gradient(m: Maths, x: Values, s: Values) -> Value:
    return _clipped(m, s.rescale_grad * x.grad, s.bound)


def _decayed_gradient(m: Maths, x: Values, s: Values) -> Value:
    """Weight decay joins the gradient before it is clipped."""
    return _clipped(m, s.rescale_grad * x.grad + s.wd * x.weight, s.bound)


def _sign(m: Maths, value: Value) -> Value:
    zero, one = m.number(0.0), m.number(1.0)
    return m.select(value > zero, one, m.select(value < zero, -one, zero))


def _absolute(m: Maths, value: Value) -> Value:
    return m.select(value < m.number(0.0), -value, value)


def _mean(m: Maths, rate: Value, old: Value, new: Value) -> Value:
    """The running mean: ``rate`` of the old, the rest of the new."""
    return m.keep(rate * old + (m.number(1.0) - rate) * new)


# ---- stochastic gradient descent


@_update("weight grad", f"lr {_CLIPPED}", by_rows=True, rests_without="wd")
def sgd_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"weight": (m.number(1.0) - s.lr * s.wd) * x.weight - s.lr * _gradient(m, x, s)}


@_update("weight grad mom", f"lr momentum {_CLIPPED}", by_rows=True)
def sgd_mom_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    mom = m.keep(s.momentum * x.mom - s.lr * s.wd * x.weight - s.lr * _gradient(m, x, s))
    return {"mom": mom, "weight": x.weight + mom}


@_update("weight grad mom", f"lr momentum {_CLIPPED}")
def nag_mom_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    grad = _gradient(m, x, s)
    faded = m.keep(s.momentum * x.mom)
    step = m.keep(s.lr * (grad + s.wd * x.weight))
    weight = m.keep(x.weight + s.momentum * (faded - step) - step)
    # MXNet writes the weight first, so the decay in the momentum is that of the new weight.
    return {"weight": weight, "mom": faded - s.lr * (grad + s.wd * weight)}


@_update("weight grad", "lr wd")
def signsgd_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"weight": (m.number(1.0) - s.lr * s.wd) * x.weight - s.lr * _sign(m, x.grad)}


@_update("weight grad mom", f"lr momentum wd_lh {_CLIPPED}")
def signum_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    one = m.number(1.0)
    share = one - s.momentum
    mom = m.keep(s.momentum * x.mom - share * s.wd * x.weight - share * _gradient(m, x, s))
    return {"mom": mom, "weight": (one - s.lr * s.wd_lh) * x.weight + s.lr * _sign(m, mom)}


@_update("weight grad previous", f"lr lamda {_CLIPPED}")
def dcasgd_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"previous": x.weight, "weight": x.weight + _delayed_step(m, x, s)}


@_update("weight grad mom previous", f"lr momentum lamda {_CLIPPED}")
def dcasgd_mom_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    mom = m.keep(s.momentum * x.mom + _delayed_step(m, x, s))
    return {"previous": x.weight, "mom": mom, "weight": x.weight + mom}


def _delayed_step(m: Maths, x: Values, s: Values) -> Value:
    grad = _gradient(m, x, s)
    return -s.lr * (grad + s.wd * x.weight + s.lamda * grad * grad * (x.weight - x.previous))


@_update("weight grad noise", f"lr {_CLIPPED}")
def sgld_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    step = s.lr * m.number(0.5) * (_gradient(m, x, s) + s.wd * x.weight)
    return {"weight": x.weight - step + x.noise}


@_update("weight grad copy", "rescale_grad")
def plain_sum_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    weight = m.keep(x.weight + x.grad * s.rescale_grad)
    return {"weight": weight, "copy": weight}


# ---- steps scaled by what gradients were


@_update("weight grad mean var", f"lr beta1 beta2 epsilon {_CLIPPED}", by_rows=True)
def adam_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    # The learning rate comes corrected for bias.
    grad = _decayed_gradient(m, x, s)
    mean = _mean(m, s.beta1, x.mean, grad)
    var = _mean(m, s.beta2, x.var, grad * grad)
    return {"mean": mean, "var": var, "weight": x.weight - s.lr * mean / (m.sqrt(var) + s.epsilon)}


@_update("weight grad mean bound_of_grad", f"lr beta1 beta2 {_CLIPPED}")
def adamax_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    grad = _decayed_gradient(m, x, s)
    mean = _mean(m, s.beta1, x.mean, grad)
    faded, size = m.keep(s.beta2 * x.bound_of_grad), m.keep(_absolute(m, grad))
    bound = m.keep(m.select(faded > size, faded, size))
    return {"mean": mean, "bound_of_grad": bound, "weight": x.weight - s.lr * mean / bound}


@_update("weight grad mean var", f"lr beta1 beta2 epsilon share next_share mean_factor var_factor {_CLIPPED}")
def nadam_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    # share, next_share: weights of the gradient and of the mean in the step; the factors undo their bias.
    grad = _decayed_gradient(m, x, s)
    mean = _mean(m, s.beta1, x.mean, grad)
    var = _mean(m, s.beta2, x.var, grad * grad)
    direction = s.share * grad + s.next_share * (mean * s.mean_factor)
    return {"mean": mean, "var": var, "weight": x.weight - s.lr * direction / (m.sqrt(var * s.var_factor) + s.epsilon)}


@_update("weight grad history", f"lr epsilon {_CLIPPED}", by_rows=True, rests_without="wd")
def adagrad_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    grad = _gradient(m, x, s)
    history = m.keep(x.history + grad * grad)
    return {"history": history, "weight": x.weight - s.lr * (grad / m.sqrt(history + s.epsilon) + x.weight * s.wd)}


@_update("weight grad square_mean step_mean", f"rho epsilon {_CLIPPED}", keeps_grad=False)
def adadelta_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    scaled = m.keep(s.rescale_grad * x.grad)  # written back: MXNet's callers see it
    grad = _clipped(m, scaled, s.bound)
    squares = _mean(m, s.rho, x.square_mean, grad * grad)
    step = m.keep(m.sqrt(x.step_mean + s.epsilon) / m.sqrt(squares + s.epsilon) * grad)
    steps = _mean(m, s.rho, x.step_mean, step * step)
    return {
        "grad": scaled, "square_mean": squares, "step_mean": steps, "weight": x.weight - (step + s.wd * x.weight)
    }  # fmt: skip


@_update("weight grad n", f"lr gamma1 epsilon {_CLIPPED} weight_bound")
def rmsprop_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    grad = _decayed_gradient(m, x, s)
    n = _mean(m, s.gamma1, x.n, grad * grad)
    return {"n": n, "weight": _clipped(m, x.weight - s.lr * (grad / m.sqrt(n + s.epsilon)), s.weight_bound)}


@_update("weight grad n g delta", f"lr gamma1 gamma2 epsilon {_CLIPPED} weight_bound")
def rmspropalex_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    grad = _decayed_gradient(m, x, s)
    n = _mean(m, s.gamma1, x.n, grad * grad)
    g = _mean(m, s.gamma1, x.g, grad)
    delta = m.keep(s.gamma2 * x.delta - s.lr * (grad / m.sqrt(n - g * g + s.epsilon)))
    return {"n": n, "g": g, "delta": delta, "weight": _clipped(m, x.weight + delta, s.weight_bound)}


@_update("weight grad z n", f"lr lamda1 beta {_CLIPPED}")
def ftrl_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    grad = _gradient(m, x, s)
    n = m.keep(x.n + grad * grad)
    root = m.keep(m.sqrt(n))
    z = m.keep(x.z + grad - (root - m.sqrt(x.n)) * x.weight / s.lr)
    pulled = (_sign(m, z) * s.lamda1 - z) / ((s.beta + root) / s.lr + s.wd)
    return {"z": z, "n": n, "weight": m.select(_absolute(m, z) > s.lamda1, pulled, m.number(0.0))}


@_update("weight grad d v z", f"lr beta1 beta2 epsilon correction1 correction2 {_CLIPPED}")
def ftml_update(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    # correction1, correction2: 1 - beta^t, what the running means still lack.
    grad = _decayed_gradient(m, x, s)
    v = _mean(m, s.beta2, x.v, grad * grad)
    d = m.keep(s.correction1 / s.lr * (m.sqrt(v / s.correction2) + s.epsilon))
    z = m.keep(s.beta1 * x.z + (m.number(1.0) - s.beta1) * grad - (d - s.beta1 * x.d) * x.weight)
    return {"d": d, "v": v, "z": z, "weight": -z / d}


# ---- steps scaled by norms: one pass adds squares up, the caller makes a rate of the sums, a second pass steps


@_update("weight grad", "", sums="weight_squares grad_squares")
def sums_of_squares(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"weight_squares": x.weight * x.weight, "grad_squares": x.grad * x.grad}


_CORRECTED = "epsilon correction1 correction2 wd"


@_update("weight grad mean var", f"beta1 beta2 {_CORRECTED} rescale_grad clip_gradient",
         sums="weight_squares direction_squares")  # fmt: skip
def lamb_moments(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    grad = _gradient(m, x, s)
    mean = _mean(m, s.beta1, x.mean, grad)
    var = _mean(m, s.beta2, x.var, grad * grad)
    direction = m.keep(_lamb_direction(m, x.weight, mean, var, s))
    squares = {"weight_squares": x.weight * x.weight, "direction_squares": direction * direction}
    return {"mean": mean, "var": var, **squares}


@_update("weight mean var", f"lr {_CORRECTED}")
def lamb_step(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    # The direction is computed again: cheaper than an array of the weight's size to keep it in.
    return {"weight": x.weight - s.lr * _lamb_direction(m, x.weight, x.mean, x.var, s)}


def _lamb_direction(m: Maths, weight: Value, mean: Value, var: Value, s: Values) -> Value:
    return mean / s.correction1 / (m.sqrt(var / s.correction2) + s.epsilon) + s.wd * weight


# ---- gradients and parameters of several devices


@_update("total first second", "")
def add_two(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"total": x.first + x.second}


@_update("total grad", "")
def add_one(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"total": x.total + x.grad}


@_update("copy value", "")
def copy_one(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"copy": x.value}


@_update("first second value", "")
def copy_two(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    return {"first": x.value, "second": x.value}


@_update("total grad residual", "threshold go_on")
def compress_2bit(m: Maths, x: Values, s: Values) -> Mapping[str, Value]:
    """What two bits can tell (+threshold, -threshold, nothing) is added to ``total`` (starts it where ``go_on`` is 0);
    what they cannot stays in ``residual`` for the next time."""
    zero = m.number(0.0)
    waiting = m.keep(x.residual + x.grad)
    sent = m.keep(m.select(waiting >= s.threshold, s.threshold, m.select(waiting <= -s.threshold, -s.threshold, zero)))
    return {"residual": waiting - sent, "total": m.select(s.go_on > zero, x.total + sent, sent)}
