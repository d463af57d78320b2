"""Elementary functions on float32 vectors, built from additions, multiplications and integer bit patterns.

TVM lowers ``exp``, ``tanh``, ``erf`` and ``log`` on CPUs to one libm call an element, ten to twenty times slower.
Each function takes a float32 expression, scalar or vector (``float32x16``, ...), and returns one of the same type.
The argument is evaluated once. The largest relative error is 3e-7 over the range of normal results; results below the
smallest normal float32 become 0 (``log`` takes subnormal arguments as 0); infinities give the limit, NaN stays NaN.

``bind`` says how a value that is used more than once gets a name: by default inside the expression; kernels that are
made of statements pass a way of their own (``emission.bind``).

The coefficients are minimax fits (Lawson's iteration on Chebyshev nodes) made for these intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import ir, tirx

Expr = Any  # a tirx expression; TVM carries no type annotations

# e^r = 1 + r + r^2 P(r) for |r| <= ln(2) / 2, relative error of e^r - 1 below 2.5e-10.
_EXPM1 = (0.500000004, 0.166666664, 0.0416663578, 0.00833338995, 0.0013940893, 0.000198458982)
# 2^f for |f| <= 1/2, 1 at 0, relative error below 1e-7.
_EXP2 = (1.0, 0.693146978, 0.240222421, 0.0555073374, 0.00967151264, 0.00132647272)
_EXP2_LOWEST = -100.0
_EXP2_SMALLEST, _EXP2_LARGEST = -125.0, 127.0
# log(1 + f) = f - f^2 / 2 + f^3 P(f) for sqrt(1/2) <= 1 + f < sqrt(2), relative error below 1e-9.
_LOG1P = (0.333333126, -0.250000096, 0.200021187, -0.166679959, 0.142195524, -0.124055889, 0.118881623, -0.11675652,
          0.067466408)  # fmt: skip
# erf(x) = x P(x^2) / Q(x^2) for |x| <= 4, where erf rounds to 1; relative error below 2.5e-8.
_ERF_P = (1.12837914, 0.193545222, 0.0531017714, 0.00388335324, 0.000284566516, 1.98678577e-06)
_ERF_Q = (1.0, 0.504857543, 0.115350071, 0.0152072677, 0.00118557424, 3.7420244e-05)

LOG2_E = 1 / math.log(2)
# ln(2) in two parts; the first has 9 trailing zero bits, so that its product with an exponent is exact.
_LN2_HIGH = 0.693359375
_LN2_LOW = math.log(2) - _LN2_HIGH
# Adding 1.5 * 2^23 to a small float rounds it to an integer, which then stands in the low bits of the sum.
_ROUNDER = 1.5 * 2.0**23
_MANTISSA_BITS = 23
_SQRT_HALF_BITS = 0x3F3504F3
_EXP_OVERFLOW = 88.722839  # above it e^x exceeds float32
_EXP_UNDERFLOW = -87.336544  # below it e^x is subnormal
_SMALLEST_NORMAL = 2.0**-126
_NEGLIGIBLE = 1e-30


def lanes_of(x: Expr) -> int:
    """Number of values in the vector ``x``; 1 for a scalar."""
    return _type(x).dtype.lanes


def constant(value: float, like: Expr) -> Expr:
    """The float32 constant ``value`` in the shape of ``like``."""
    return _splat(tirx.FloatImm("float32", value), lanes_of(like))


def polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """``c[0] + c[1] x + c[2] x^2 + ...`` by Horner's rule; ``x`` is repeated in it, so it should be a variable."""
    result = constant(coefficients[-1], x)
    for c in reversed(coefficients[:-1]):
        result = result * x + constant(c, x)
    return result


Bind = Callable[[Expr, Callable[[Expr], Expr]], Expr]


def bind(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """``body(v)`` where ``v`` is a variable that holds ``value``: for a value that ``body`` uses more than once."""
    variable = tirx.Var("v", _type(value))
    return tirx.Let(variable, value, body(variable))


def exp(x: Expr, bind: Bind = bind) -> Expr:
    """e^x."""

    def limited(v: Expr) -> Expr:
        result = _reduce(v, lambda n, r: _scale(_one_plus(_expm1_reduced(r)), n), bind)
        result = tirx.Select(v > constant(_EXP_OVERFLOW, v), constant(math.inf, v), result)
        return tirx.Select(v < constant(_EXP_UNDERFLOW, v), constant(0.0, v), result)

    return bind(x, limited)


def exp2_limited(x: Expr, bind: Bind = bind) -> Expr:
    """2^x for x <= 127, and 2^-100 for all x below -100; NaN stays NaN. Half the work of ``exp``.

    Sums of such powers do not see the difference to 0, and their products with other numbers do not become subnormal.
    """

    def rounded(v: Expr) -> Expr:
        return bind(v + constant(_ROUNDER, v), lambda t: power(v, t))

    def power(v: Expr, t: Expr) -> Expr:
        field = tirx.reinterpret(_with_lanes("int32", v), t) << _int(_MANTISSA_BITS, v)
        rest = bind(t - constant(_ROUNDER, v), lambda n: v - n)
        return bind(rest, lambda f: _scale(polynomial(f, _EXP2), field))

    def limited(v: Expr) -> Expr:
        low = constant(_EXP2_LOWEST, v)
        return bind(tirx.Select(v < low, low, v), rounded)

    return bind(x, limited)


def exp2_saturated(x: Expr, bind: Bind = bind) -> Expr:
    """2^x, at most 2^127, and 0 for x below -125; NaN stays NaN. Half the work of ``exp``."""

    def rounded(v: Expr) -> Expr:
        return bind(v + constant(_ROUNDER, v), lambda t: power(v, t))

    def power(v: Expr, t: Expr) -> Expr:
        field = tirx.reinterpret(_with_lanes("int32", v), t) << _int(_MANTISSA_BITS, v)
        result = bind(v - (t - constant(_ROUNDER, v)), lambda f: _scale(polynomial(f, _EXP2), field))
        return tirx.Select(v < constant(_EXP2_SMALLEST, v), constant(0.0, v), result)

    high = constant(_EXP2_LARGEST, x)
    return bind(x, lambda v: bind(tirx.Select(v > high, high, v), rounded))


def divide(x: Expr, y: Expr) -> Expr:
    """x / y."""
    return x / y


def divide_near_one(x: Expr, y: Expr, bind: Bind = bind) -> Expr:
    """x / y within 2e-7 in a fifth of the time, where the CPU estimates reciprocals well: vectors of AVX-512.

    For 1 / y and x / y in the range of normal numbers; NaN stays NaN.
    """
    if lanes_of(y) != 16:
        return divide(x, y)
    # The estimate is good to 14 bits; one step of Newton's method doubles that.
    everywhere = tirx.IntImm("int16", -1)
    estimate = tirx.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.rcp14.ps.512", y, constant(0.0, y), everywhere)
    return bind(estimate, lambda r: bind(x * r, lambda q: q + r * (x - q * y)))


Divide = Callable[[Expr, Expr], Expr]


def sigmoid(x: Expr, bind: Bind = bind, divide: Divide = divide) -> Expr:
    """1 / (1 + e^-x)."""

    def body(v: Expr) -> Expr:
        e = _reduce(-v, lambda n, r: _scale(_one_plus(_expm1_reduced(r)), n), bind)
        result = bind(constant(1.0, v) + e, lambda d: divide(constant(1.0, v), d))
        return tirx.Select(v <= constant(-87.0, v), constant(0.0, v), result)

    return bind(clamp(x, -87.0, 87.0, bind), body)  # so that neither e^-x nor the quotient leaves the normal range


def tanh(x: Expr, bind: Bind = bind, divide: Divide = divide) -> Expr:
    """Hyperbolic tangent, with full relative precision near 0."""

    def from_expm1(n: Expr, r: Expr) -> Expr:
        # e^2x - 1 = 2^n (e^r - 1) + (2^n - 1): nothing cancels where n is 0.
        def quotient(q: Expr) -> Expr:
            return bind(q + constant(2.0, q), lambda d: divide(q, d))

        def recombined(power: Expr) -> Expr:
            return bind(_expm1_reduced(r) * power + (power - constant(1.0, power)), quotient)

        return bind(_scale(constant(1.0, r), n), recombined)

    return _reduce(clamp(x + x, -20.0, 20.0, bind), from_expm1, bind)  # tanh(10) rounds to 1


def erf(x: Expr, bind: Bind = bind) -> Expr:
    """Error function."""

    def body(v: Expr) -> Expr:
        square = v * v + constant(_NEGLIGIBLE, v)  # a subnormal square would cost a hundred cycles
        quotient = bind(square, lambda t: v * polynomial(t, _ERF_P) / polynomial(t, _ERF_Q))
        return clamp(quotient, -1.0, 1.0, bind)

    return bind(clamp(x, -4.0, 4.0, bind), body)


def log(x: Expr, bind: Bind = bind) -> Expr:
    """Natural logarithm; -inf at 0 and below the smallest normal float32, NaN for negative arguments."""

    def body(v: Expr) -> Expr:
        bits = tirx.reinterpret(_with_lanes("int32", v), v)
        # The exponent that brings the mantissa into [sqrt(1/2), sqrt(2)).
        exponent = (bits - _int(_SQRT_HALF_BITS, v)) >> _int(_MANTISSA_BITS, v)

        def parts(e: Expr) -> Expr:
            mantissa = tirx.reinterpret(_with_lanes("float32", v), bits - (e << _int(_MANTISSA_BITS, v)))
            scale = tirx.Cast(_with_lanes("float32", v), e)
            return bind(scale, lambda s: bind(mantissa - constant(1.0, v), lambda f: combined(s, f)))

        def combined(s: Expr, f: Expr) -> Expr:
            tail = polynomial(f, _LOG1P) * f - constant(0.5, f)
            return f * f * tail + s * constant(_LN2_LOW, f) + f + s * constant(_LN2_HIGH, f)

        result = bind(exponent, parts)
        result = tirx.Select(v < constant(_SMALLEST_NORMAL, v), constant(-math.inf, v), result)
        result = tirx.Select(v < constant(0.0, v), constant(math.nan, v), result)
        # The last comparison is false for +inf and NaN: both are their own logarithm.
        return tirx.Select(v < constant(math.inf, v), result, v)

    return bind(x, body)


def clamp(x: Expr, low: float, high: float, bind: Bind = bind) -> Expr:
    """``x`` limited to [low, high]; NaN stays NaN, which min and max do not promise."""

    def above(v: Expr) -> Expr:
        return tirx.Select(v < constant(low, v), constant(low, v), v)

    def below(v: Expr) -> Expr:
        return tirx.Select(v > constant(high, v), constant(high, v), v)

    return bind(bind(x, below), above)


def _reduce(x: Expr, body: Callable[[Expr, Expr], Expr], bind: Bind) -> Expr:
    """``body(n, r)`` with x = n ln(2) + r, |r| <= ln(2) / 2; ``n`` is the integer as the exponent field of a float."""

    def rounded(v: Expr) -> Expr:
        return bind(v * constant(LOG2_E, v) + constant(_ROUNDER, v), lambda t: remainder(v, t))

    def remainder(v: Expr, t: Expr) -> Expr:
        n = t - constant(_ROUNDER, v)
        r = bind(n, lambda m: v - m * constant(_LN2_HIGH, v) - m * constant(_LN2_LOW, v))
        field = tirx.reinterpret(_with_lanes("int32", v), t) << _int(_MANTISSA_BITS, v)
        return bind(field, lambda f: bind(r, lambda s: body(f, s)))

    return bind(x, rounded)


def _expm1_reduced(r: Expr) -> Expr:
    return r * polynomial(r, _EXPM1) * r + r  # in this order no product becomes subnormal for a small r


def _one_plus(x: Expr) -> Expr:
    return x + constant(1.0, x)


def _scale(x: Expr, field: Expr) -> Expr:
    """``x`` times 2^n, where ``field`` is n shifted to the place of the exponent."""
    return tirx.reinterpret(_type(x), tirx.reinterpret(_with_lanes("int32", x), x) + field)


def _type(x: Expr) -> Any:
    return x.ty


def _with_lanes(dtype: str, like: Expr) -> Any:
    lanes = lanes_of(like)
    return ir.PrimType(dtype if lanes == 1 else f"{dtype}x{lanes}")


def _int(value: int, like: Expr) -> Expr:
    return _splat(tirx.IntImm("int32", value), lanes_of(like))


def _splat(scalar: Expr, lanes: int) -> Expr:
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)
