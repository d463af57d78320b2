"""``mx.nd.sgd_update`` and its like: what optimizers written in Python call.

Each takes the weight, the gradient and the states, then numbers by keyword. States change in place; the new weight goes
to ``out`` (mostly the weight itself), or into a new array. The formulas, by name, are those of
:mod:`bucketmod.compiler.update_formulas`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError
from bucketmod.ndarray.formulas import bias_correction, run_formula
from bucketmod.ndarray.ndarray import NDArray
from bucketmod.ndarray.operation import OPERATIONS

_CLIPPED = {"wd": 0.0, "rescale_grad": 1.0, "clip_gradient": -1.0}
_ADAM = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
_REQUIRED = object()
_Options = dict[str, Any]


class _Signature:
    """Names of arrays, and numbers with their defaults (``_REQUIRED``: none), in the order of positions."""

    def __init__(self, name: str, arrays: str, options: Mapping[str, Any]) -> None:
        self.name, self.arrays, self.options = name, arrays.split(), dict(options)

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[list[NDArray], _Options]:
        """(arrays, options). TypeError for unknown arguments, MXNetError for missing ones."""
        names = [*self.arrays, *self.options]
        if len(args) > len(names):
            raise TypeError(f"nd.{self.name} takes {', '.join(names)}; got {len(args)} arguments")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        given.pop("name", None)
        if unknown := given.keys() - set(names):
            raise TypeError(f"nd.{self.name} takes {', '.join(names)}, not {', '.join(sorted(unknown))}")
        values = {**self.options, **given}
        if missing := [name for name in names if values.get(name, _REQUIRED) is _REQUIRED]:
            raise MXNetError(f"nd.{self.name}: required parameter {', '.join(missing)} is not given")
        return [values.pop(name) for name in self.arrays], values


def _register(function: Callable[..., Any], name: str, doc: str) -> None:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    OPERATIONS[name] = function


def _target(weight: NDArray, out: NDArray | None) -> NDArray:
    """Where the new weight is made: ``out``, holding the old one."""
    if out is None:
        return weight.copy()
    return out if out is weight else weight.copyto(out)


def _views(arrays: Sequence[NDArray]) -> list[np.ndarray]:
    return [array.numpy_view() for array in arrays]


def _plain(options: _Options) -> list[float]:
    """The formula's scalars: the options in order, without what dense arrays have no use for."""
    return [value for key, value in options.items() if key != "lazy_update"]


def _rmsprop(options: _Options) -> list[float]:
    return [*list(options.values())[:-1], options["clip_weights"] if options["clip_weights"] > 0 else np.inf]


def _ftml(options: _Options) -> list[float]:
    corrections = [bias_correction(options[key], options["t"]) for key in ("beta1", "beta2")]
    head = [options[key] for key in ("lr", "beta1", "beta2", "epsilon")]
    return [*head, *corrections, options["wd"], options["rescale_grad"], options["clip_grad"]]


def _define(
    name: str, arrays: str, options: Mapping[str, Any], scalars: Callable[[_Options], list[float]] = _plain
) -> None:
    """A function of the formula ``name``."""
    signature = _Signature(name, arrays, {"lr": _REQUIRED, **options})

    def function(*args: Any, out: NDArray | None = None, **kwargs: Any) -> NDArray:
        (weight, *others), values = signature.bind(args, kwargs)
        target = _target(weight, out)
        run_formula(name, _views([target, *others]), *scalars(values))
        return target

    _register(function, name, f"The update {name} of ({arrays.replace(' ', ', ')}).")


_define("sgd_update", "weight grad", {**_CLIPPED, "lazy_update": True})
_define("sgd_mom_update", "weight grad mom", {"momentum": 0.0, **_CLIPPED, "lazy_update": True})
_define("nag_mom_update", "weight grad mom", {"momentum": 0.0, **_CLIPPED})
_define("adam_update", "weight grad mean var", {**_ADAM, **_CLIPPED, "lazy_update": True})
_define("signsgd_update", "weight grad", _CLIPPED, lambda options: [options["lr"], options["wd"]])
_define("signum_update", "weight grad mom", {"momentum": 0.0, **_CLIPPED, "wd_lh": 0.0},
        lambda o: [o[key] for key in ("lr", "momentum", "wd_lh", "wd", "rescale_grad", "clip_gradient")])  # fmt: skip
_define("rmsprop_update", "weight grad n", {"gamma1": 0.95, "epsilon": 1e-8, **_CLIPPED, "clip_weights": -1.0},
        _rmsprop)  # fmt: skip
_define("rmspropalex_update", "weight grad n g delta",
        {"gamma1": 0.95, "gamma2": 0.9, "epsilon": 1e-8, **_CLIPPED, "clip_weights": -1.0}, _rmsprop)  # fmt: skip
_define("ftrl_update", "weight grad z n", {"lamda1": 0.01, "beta": 1.0, **_CLIPPED})
_define("ftml_update", "weight grad d v z",
        {**_ADAM, "beta1": 0.6, "t": _REQUIRED, "wd": 0.0, "rescale_grad": 1.0, "clip_grad": -1.0}, _ftml)  # fmt: skip


def _define_mixed(name: str, formula: str, arrays: str, options: Mapping[str, Any]) -> None:
    """A float16 weight, updated by way of its float32 copy, the last array."""
    signature = _Signature(name, arrays, {"lr": _REQUIRED, **options})

    def function(*args: Any, out: NDArray | None = None, **kwargs: Any) -> NDArray:
        (weight, grad, *states, master), values = signature.bind(args, kwargs)
        run_formula(formula, _views([master, grad.astype(np.float32), *states]), *_plain(values))
        target = weight.copy() if out is None else out
        target[:] = master
        return target

    _register(function, name, f"The update {formula} of ({arrays.replace(' ', ', ')}).")


_MASTER = {**_CLIPPED, "lazy_update": True}
_define_mixed("mp_sgd_update", "sgd_update", "weight grad weight32", _MASTER)
_define_mixed("mp_sgd_mom_update", "sgd_mom_update", "weight grad mom weight32", {"momentum": 0.0, **_MASTER})
_define_mixed("mp_nag_mom_update", "nag_mom_update", "weight grad mom weight32", {"momentum": 0.0, **_CLIPPED})


def _define_multi(single: str, width: int) -> None:
    """``multi_...``: ``width`` arrays for each of several parameters; ``preloaded_...``: with rates in arrays."""

    def each(arrays: Sequence[Any], lrs: Any, wds: Any, out: Any, options: dict[str, Any]) -> list[NDArray]:
        count = options.pop("num_weights", len(arrays) // width)
        if len(arrays) != count * width or len(lrs) != count or len(wds) != count:
            raise MXNetError(
                f"nd.multi_{single}: {count} parameters need {count * width} arrays and {count} rates and decays, "
                f"got {len(arrays)}, {len(lrs)} and {len(wds)}"
            )
        targets = [None] * count if out is None else [out] if isinstance(out, NDArray) else list(out)
        groups = [arrays[start : start + width] for start in range(0, count * width, width)]
        rates = zip(groups, lrs, wds, targets, strict=True)
        return [OPERATIONS[single](*group, lr=float(lr), wd=float(wd), out=o, **options) for group, lr, wd, o in rates]

    def multi(*data: Any, lrs: Any, wds: Any, out: Any = None, **options: Any) -> list[NDArray]:
        return each(data, lrs, wds, out, options)

    def preloaded(*data: Any, out: Any = None, **options: Any) -> list[NDArray]:
        *arrays, lrs, wds = data
        return each(arrays, lrs.asnumpy(), wds.asnumpy(), out, options)

    _register(multi, f"multi_{single}", f"{single} of several parameters; rates ``lrs`` and decays ``wds`` are lists.")
    _register(preloaded, f"preloaded_multi_{single}", f"{single} of several; the last two arrays are rates and decays.")


for _single, _width in (("sgd_update", 2), ("sgd_mom_update", 3), ("mp_sgd_update", 3), ("mp_sgd_mom_update", 4)):
    _define_multi(_single, _width)


_PHASE1 = _Signature("lamb_update_phase1", "weight grad mean var", {
    **_ADAM, "epsilon": 1e-6, "t": _REQUIRED, "bias_correction": True, **_CLIPPED, "wd": _REQUIRED})  # fmt: skip
_PHASE2 = _Signature("lamb_update_phase2", "weight g r1 r2",
                     {"lr": _REQUIRED, "lower_bound": -1.0, "upper_bound": -1.0})  # fmt: skip


def _lamb_update_phase1(*args: Any, out: NDArray | None = None, **kwargs: Any) -> NDArray:
    (weight, grad, mean, var), o = _PHASE1.bind(args, kwargs)
    corrections = [bias_correction(o[key], o["t"]) if o["bias_correction"] else 1.0 for key in ("beta1", "beta2")]
    head = [o["beta1"], o["beta2"], o["epsilon"], *corrections, o["wd"]]
    run_formula("lamb_moments", _views([weight, grad, mean, var]), *head, o["rescale_grad"], o["clip_gradient"])
    direction = mean / corrections[0] / ((var / corrections[1]).sqrt() + o["epsilon"]) + o["wd"] * weight
    return direction if out is None else direction.copyto(out)


def _lamb_update_phase2(*args: Any, out: NDArray | None = None, **kwargs: Any) -> NDArray:
    (weight, g, r1, r2), o = _PHASE2.bind(args, kwargs)
    weight_norm, direction_norm = float(r1.asscalar()), float(r2.asscalar())
    if o["lower_bound"] >= 0:
        weight_norm = max(weight_norm, o["lower_bound"])
    if o["upper_bound"] >= 0:
        weight_norm = min(weight_norm, o["upper_bound"])
    ratio = weight_norm / direction_norm if weight_norm and direction_norm else 1.0
    target = _target(weight, out)
    target -= o["lr"] * ratio * g
    return target


def _multi_sum_sq(*data: NDArray, num_arrays: int | None = None, out: NDArray | None = None) -> NDArray:
    sums = np.array([np.sum(np.square(view), dtype=np.float64) for view in _views(data)], np.float32)
    if num_arrays not in (None, len(data)):
        raise MXNetError(f"nd.multi_sum_sq: num_arrays is {num_arrays}, but {len(data)} arrays are given")
    return NDArray(sums) if out is None else NDArray(sums).copyto(out)


def _multi_lars(
    lrs: NDArray, weights_sum_sq: NDArray, grads_sum_sq: NDArray, wds: NDArray, eta: float, eps: float,
    rescale_grad: float = 1.0, out: NDArray | None = None,
) -> NDArray:  # fmt: skip
    rates, weights, grads, decays = _views([lrs, weights_sum_sq, grads_sum_sq, wds])
    weight_norms = np.sqrt(weights)
    with np.errstate(all="ignore"):
        scaled = rates * np.float32(eta) * weight_norms / (
            np.sqrt(grads) * np.float32(rescale_grad) + decays * weight_norms + np.float32(eps)
        )  # fmt: skip
    result = NDArray(np.where((weights > 0) & (grads > 0), scaled, rates), lrs.context)
    return result if out is None else result.copyto(out)


_register(_lamb_update_phase1, "lamb_update_phase1", "LAMB's direction; mean and var are updated.")
_register(_lamb_update_phase2, "lamb_update_phase2", "LAMB's step from the norms r1 of the weight and r2 of g.")
_register(_multi_sum_sq, "multi_sum_sq", "The sum of squares of each array.")
_register(_multi_lars, "multi_lars", "LARS's learning rates from the squared norms of weights and gradients.")
