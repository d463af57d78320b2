"""Functions that work on every element alone: arithmetic, maths, activation functions, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from bucketmod.base import MXNetError
from bucketmod.ndarray.arithmetic import BINARY, SCALAR_TYPES, binary, cast_scalar
from bucketmod.ndarray.ndarray import resolve_dtype
from bucketmod.ndarray.operation import operation

_BROADCAST_NAMES = {
    "add": ("broadcast_add", "broadcast_plus"),
    "subtract": ("broadcast_sub", "broadcast_minus"),
    "multiply": ("broadcast_mul",),
    "divide": ("broadcast_div", "true_divide"),
    "modulo": ("broadcast_mod",),
}
_ELEMENTWISE_NAMES = {
    "add": "elemwise_add",
    "subtract": "elemwise_sub",
    "multiply": "elemwise_mul",
    "divide": "elemwise_div",
}


def _binary_function(name: str) -> None:
    def function(lhs: Any, rhs: Any) -> Any:
        if isinstance(lhs, SCALAR_TYPES) and isinstance(rhs, SCALAR_TYPES):
            return binary(name, np.array([lhs], np.float32), rhs)
        return binary(name, lhs, rhs)

    function.__doc__ = f"{name} of two arrays (broadcast), or of an array and a number."
    operation(*_BROADCAST_NAMES.get(name, (f"broadcast_{name}",)), name=name)(function)
    if name in _ELEMENTWISE_NAMES:
        operation(name=_ELEMENTWISE_NAMES[name])(_same_shape(name))


def _same_shape(name: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def function(lhs: np.ndarray, rhs: np.ndarray) -> np.ndarray:
        if lhs.shape != rhs.shape:
            raise MXNetError(
                f"{_ELEMENTWISE_NAMES[name]}: shapes {lhs.shape} and {rhs.shape} differ; use broadcast_{name}"
            )
        return binary(name, lhs, rhs)

    function.__doc__ = f"{name} of two arrays of one shape."
    return function


def _sigmoid(data: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-data))


def _round_half_away(data: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(data) + 0.5), data)


def _rint_half_down(data: np.ndarray) -> np.ndarray:
    lower, upper = np.floor(data), np.ceil(data)
    return np.where(data - lower <= upper - data, lower, upper)


_gamma = np.vectorize(math.gamma, otypes=[np.float64])
_gammaln = np.vectorize(math.lgamma, otypes=[np.float64])
_erf = np.vectorize(math.erf, otypes=[np.float64])

UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs, "sign": np.sign, "round": _round_half_away, "rint": _rint_half_down, "fix": np.trunc,
    "trunc": np.trunc, "floor": np.floor, "ceil": np.ceil, "square": np.square, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x), "cbrt": np.cbrt, "rcbrt": lambda x: 1 / np.cbrt(x), "exp": np.exp, "log": np.log,
    "log10": np.log10, "log2": np.log2, "log1p": np.log1p, "expm1": np.expm1, "reciprocal": lambda x: 1 / x,
    "sin": np.sin, "cos": np.cos, "tan": np.tan, "arcsin": np.arcsin, "arccos": np.arccos, "arctan": np.arctan,
    "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "arcsinh": np.arcsinh, "arccosh": np.arccosh,
    "arctanh": np.arctanh, "degrees": np.degrees, "radians": np.radians, "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid, "softsign": lambda x: x / (1 + np.abs(x)), "gamma": _gamma, "gammaln": _gammaln, "erf": _erf,
    "negative": np.negative, "logical_not": np.logical_not,
}  # fmt: skip

_FLUENT = set(UNARY) - {"negative", "gamma", "gammaln", "erf", "softsign", "logical_not"}


def _unary_function(name: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
    def apply(data: np.ndarray) -> np.ndarray:
        return np.asarray(function(data)).astype(data.dtype, copy=False)

    apply.__doc__ = f"{name} of every element; the dtype stays."
    operation(fluent=name in _FLUENT, name=name)(apply)


for _name in BINARY:
    _binary_function(_name)
for _name, _function in UNARY.items():
    _unary_function(_name, _function)


@operation("BlockGrad", "stop_gradient", "make_loss", "MakeLoss")
def identity(data: np.ndarray, **_: Any) -> np.ndarray:
    """A copy; MakeLoss has options that matter for its gradient only."""
    return data


@operation(fluent=True)
def clip(data: np.ndarray, a_min: float, a_max: float) -> np.ndarray:
    """Elements limited to [a_min, a_max]."""
    return np.clip(data, cast_scalar(a_min, data.dtype), cast_scalar(a_max, data.dtype))


@operation("Cast")
def cast(data: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A copy with another dtype."""
    return data.astype(resolve_dtype(dtype))


@operation("ElementWiseSum", "elemwise_sum")
def add_n(*args: np.ndarray) -> np.ndarray:
    """The sum of arrays of one shape."""
    total = args[0].copy()
    for item in args[1:]:
        if item.shape != total.shape:
            raise MXNetError(f"add_n: shapes {total.shape} and {item.shape} differ")
        total += item
    return total


@operation()
def smooth_l1(data: np.ndarray, scalar: float = 1.0) -> np.ndarray:
    """(s x)^2 / 2 where abs(x) < 1/s^2, else abs(x) - 0.5/s^2."""
    bound = 1 / scalar**2
    return np.where(np.abs(data) < bound, 0.5 * np.square(scalar * data), np.abs(data) - 0.5 * bound).astype(data.dtype)


@operation(fluent=True)
def zeros_like(data: np.ndarray, **_: Any) -> np.ndarray:
    """Zeros with the shape and dtype of ``data``."""
    return np.zeros(data.shape, data.dtype)


@operation(fluent=True)
def ones_like(data: np.ndarray, **_: Any) -> np.ndarray:
    """Ones with the shape and dtype of ``data``."""
    return np.ones(data.shape, data.dtype)
