"""What a matrix product may do with a finished value: activations, and the slopes of activations on the way back."""

from __future__ import annotations

import math as constants
from typing import Any

from tvm import tirx

from bucketmod.compiler.kernels import math

Expr = Any

ACTIVATIONS = ("relu", "sigmoid", "tanh", "gelu", "gelu_tanh")
SLOPES = ("relu", "sigmoid", "tanh")  # those that the result of the activation determines


def activate(activation: str, x: Expr, bind: math.Bind = math.bind) -> Expr:
    """The activation of ``x``, a float32 scalar or vector that is used more than once.

    ``gelu`` is x P(X <= x) of a normal X, ``gelu_tanh`` its approximation by tanh (Hendrycks and Gimpel, 2016).
    """
    half = math.constant(0.5, x)
    match activation:
        case "relu":  # NaN stays NaN
            zero = math.constant(0.0, x)
            return tirx.Select(x < zero, zero, x)
        case "sigmoid":
            return math.sigmoid(x, bind)
        case "tanh":
            return math.tanh(x, bind)
        case "gelu":
            return bind(math.erf(x * math.constant(constants.sqrt(0.5), x), bind), lambda e: x * (half * e + half))
        case "gelu_tanh":
            cubic = x * (math.constant(0.044715, x) * x * x + math.constant(1.0, x))
            scaled = cubic * math.constant(constants.sqrt(2 / constants.pi), x)
            return bind(math.tanh(scaled, bind), lambda t: x * (half * t + half))
    raise ValueError(f"activation {activation!r}: expected one of {ACTIVATIONS}")


def slope(activation: str, gradient: Expr, result: Expr) -> Expr:
    """``gradient`` times the slope of the activation where it gave ``result``, which is used more than once."""
    one = math.constant(1.0, result)
    match activation:
        case "relu":
            zero = math.constant(0.0, result)
            return tirx.Select(result > zero, gradient, zero)
        case "sigmoid":
            return gradient * (result * (one - result))
        case "tanh":
            return gradient * (one - result * result)
    raise ValueError(f"slope of {activation!r}: expected one of {SLOPES}")
