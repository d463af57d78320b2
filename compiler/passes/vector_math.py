"""Elementary functions of float32 become the polynomials of ``kernels/math.py``: no libm call an element is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, tirx

from bucketmod.compiler.kernels import math as vector

Expr = Any  # a tirx expression; TVM carries no type annotations


def vector_math(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """``func`` with exp, tanh, ... of float32 scalars and vectors rewritten; other types stay as they are.

    Scalars in a loop marked as vectorised become vectors with that loop: the pass may run before or after scheduling.
    """
    return func.with_body(tvm_ffi.structural_map(func.body, (ir.Call, _rewrite), order="post"))


def _rewrite(call: Expr) -> Expr:
    if not isinstance(call.op, ir.Op) or not str(getattr(call.ty, "dtype", "")).startswith("float32"):
        return call
    if call.op.name == "tirx.pow":
        return _power(call, *call.args)
    form = _FORMS.get(call.op.name)
    return call if form is None else form(call.args[0])


def _power(call: Expr, base: Expr, exponent: Expr) -> Expr:
    """Powers with the few constant exponents that models use; the general case stays a call."""
    value = exponent.value if isinstance(exponent, tirx.Broadcast) else exponent
    if not isinstance(value, (tirx.FloatImm, tirx.IntImm)):
        return call
    forms: dict[float, Callable[[Expr], Expr]] = {
        1.0: lambda x: x,
        2.0: lambda x: x * x,
        3.0: lambda x: x * x * x,
        -1.0: lambda x: vector.constant(1.0, x) / x,
        -2.0: lambda x: vector.constant(1.0, x) / (x * x),
    }
    form = forms.get(float(value.value))
    return call if form is None else vector.bind(base, form)


def _scaled(function: Callable[[Expr], Expr], before: float, after: float) -> Callable[[Expr], Expr]:
    def form(x: Expr) -> Expr:
        inner = x if before == 1.0 else x * vector.constant(before, x)
        value = function(inner)
        return value if after == 1.0 else value * vector.constant(after, x)

    return form


_FORMS: dict[str, Callable[[Expr], Expr]] = {
    "tirx.exp": vector.exp,
    "tirx.exp2": _scaled(vector.exp, math.log(2), 1.0),
    "tirx.exp10": _scaled(vector.exp, math.log(10), 1.0),
    "tirx.tanh": vector.tanh,
    "tirx.sigmoid": vector.sigmoid,
    "tirx.erf": vector.erf,
    "tirx.log": vector.log,
    "tirx.log2": _scaled(vector.log, 1.0, 1 / math.log(2)),
    "tirx.log10": _scaled(vector.log, 1.0, 1 / math.log(10)),
    "tirx.rsqrt": lambda x: vector.constant(1.0, x) / tirx.sqrt(x),
}
