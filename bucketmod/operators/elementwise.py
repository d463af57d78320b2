"""Operators that work on each element by itself: unary, two equal shapes, one shape and a number, broadcasting."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators import shapes, types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape

_UNARY = {
    "negative": "-data",
    "exp": "e to the power of data",
    "log": "Natural logarithm",
    "sqrt": "Square root",
    "rsqrt": "1 / sqrt(data)",
    "square": "data * data",
    "abs": "Absolute value",
    "sign": "-1, 0 or 1",
    "reciprocal": "1 / data",
    "sigmoid": "1 / (1 + exp(-data))",
    "tanh": "Hyperbolic tangent",
    "relu": "max(data, 0)",
    "softsign": "data / (1 + |data|)",
    "erf": "Gauss error function",
    "sin": "Sine",
    "cos": "Cosine",
    "log1p": "log(1 + data)",
    "expm1": "exp(data) - 1",
    "floor": "Largest whole number not above data",
    "ceil": "Smallest whole number not below data",
    "round": "Nearest whole number, halves away from 0",
    "rint": "Nearest whole number, halves downward",
    "fix": "Nearest whole number towards 0",
    "trunc": "Nearest whole number towards 0",
    "cbrt": "Cube root",
    "rcbrt": "1 / cube root",
    "log2": "Logarithm to base 2",
    "log10": "Logarithm to base 10",
    "tan": "Tangent",
    "sinh": "Hyperbolic sine",
    "cosh": "Hyperbolic cosine",
    "arcsinh": "Inverse of the hyperbolic sine",
    "arccosh": "Inverse of the hyperbolic cosine",
    "arctanh": "Inverse of the hyperbolic tangent",
    "degrees": "Radians as degrees",
    "radians": "Degrees as radians",
    "logical_not": "1 where data is 0, else 0",
}
for _name, _doc in _UNARY.items():
    register(_name, shape=shapes.same, doc=f"{_doc}, elementwise.")
register("_copy", aliases=["identity"], shape=shapes.same, doc="The input itself.")
register("zeros_like", shape=shapes.same, doc="Zeros of the shape of the input.")
register("ones_like", shape=shapes.same, doc="Ones of the shape of the input.")
register(
    "Cast",
    params=[p.dtype(default=p.REQUIRED)],
    aliases=["cast"],
    shape=shapes.same,
    type_rule=types.from_attribute,
    doc="The input in another element type.",
)
register(
    "clip",
    params=[p.real("a_min"), p.real("a_max")],
    shape=shapes.same,
    doc="min(max(data, a_min), a_max), elementwise.",
)
register(
    "hard_sigmoid",
    params=[p.real("alpha", 0.2), p.real("beta", 0.5)],
    shape=shapes.same,
    doc="min(max(alpha * data + beta, 0), 1), elementwise.",
)
register(
    "smooth_l1",
    params=[p.real("scalar", 1.0), p.boolean("is_int", True)],
    shape=shapes.same,
    doc="|data| - 0.5 / scalar**2, or 0.5 * (scalar * data)**2 where |data| < 1 / scalar**2.",
)

# canonical name, old spellings, what it computes
_PAIRS = [
    ("elemwise_add", ["_plus", "_Plus", "_add"], "lhs + rhs"),
    ("elemwise_sub", ["_minus", "_Minus", "_sub"], "lhs - rhs"),
    ("elemwise_mul", ["_mul", "_Mul"], "lhs * rhs"),
    ("elemwise_div", ["_div", "_Div"], "lhs / rhs"),
    ("_mod", ["_Mod"], "lhs modulo rhs"),
    ("_power", ["_Power"], "lhs to the power of rhs"),
    ("_maximum", ["_Maximum"], "the greater of lhs and rhs"),
    ("_minimum", ["_Minimum"], "the smaller of lhs and rhs"),
    ("_hypot", ["_Hypot"], "sqrt(lhs**2 + rhs**2)"),
    ("_equal", ["_Equal"], "1 where lhs == rhs, else 0"),
    ("_not_equal", ["_Not_Equal"], "1 where lhs != rhs, else 0"),
    ("_greater", ["_Greater"], "1 where lhs > rhs, else 0"),
    ("_greater_equal", ["_Greater_Equal"], "1 where lhs >= rhs, else 0"),
    ("_lesser", ["_Lesser"], "1 where lhs < rhs, else 0"),
    ("_lesser_equal", ["_Lesser_Equal"], "1 where lhs <= rhs, else 0"),
]
for _name, _aliases, _doc in _PAIRS:
    register(_name, ["lhs", "rhs"], aliases=_aliases, shape=shapes.same, doc=f"{_doc}; equal shapes, no broadcasting.")

_SCALAR = {
    "_plus_scalar": ("_PlusScalar", "data + scalar"),
    "_minus_scalar": ("_MinusScalar", "data - scalar"),
    "_rminus_scalar": ("_RMinusScalar", "scalar - data"),
    "_mul_scalar": ("_MulScalar", "data * scalar"),
    "_div_scalar": ("_DivScalar", "data / scalar"),
    "_rdiv_scalar": ("_RDivScalar", "scalar / data"),
    "_mod_scalar": ("_ModScalar", "data modulo scalar"),
    "_rmod_scalar": ("_RModScalar", "scalar modulo data"),
    "_power_scalar": ("_PowerScalar", "data to the power of scalar"),
    "_rpower_scalar": ("_RPowerScalar", "scalar to the power of data"),
    "_maximum_scalar": ("_MaximumScalar", "the greater of data and scalar"),
    "_minimum_scalar": ("_MinimumScalar", "the smaller of data and scalar"),
    "_hypot_scalar": ("_HypotScalar", "sqrt(data**2 + scalar**2)"),
    "_equal_scalar": ("_EqualScalar", "1 where data == scalar, else 0"),
    "_not_equal_scalar": ("_NotEqualScalar", "1 where data != scalar, else 0"),
    "_greater_scalar": ("_GreaterScalar", "1 where data > scalar, else 0"),
    "_greater_equal_scalar": ("_GreaterEqualScalar", "1 where data >= scalar, else 0"),
    "_lesser_scalar": ("_LesserScalar", "1 where data < scalar, else 0"),
    "_lesser_equal_scalar": ("_LesserEqualScalar", "1 where data <= scalar, else 0"),
}
for _name, (_alias, _doc) in _SCALAR.items():
    register(
        _name,
        params=[p.real("scalar", 1.0), p.boolean("is_int", True)],
        aliases=[_alias],
        shape=shapes.same,
        doc=f"{_doc}.",
    )

_BROADCAST = {
    "broadcast_add": (["broadcast_plus"], "lhs + rhs"),
    "broadcast_sub": (["broadcast_minus"], "lhs - rhs"),
    "broadcast_mul": ([], "lhs * rhs"),
    "broadcast_div": ([], "lhs / rhs"),
    "broadcast_mod": ([], "lhs modulo rhs"),
    "broadcast_power": ([], "lhs to the power of rhs"),
    "broadcast_maximum": ([], "the greater of lhs and rhs"),
    "broadcast_minimum": ([], "the smaller of lhs and rhs"),
    "broadcast_hypot": ([], "sqrt(lhs**2 + rhs**2)"),
    "broadcast_equal": ([], "1 where lhs == rhs, else 0"),
    "broadcast_not_equal": ([], "1 where lhs != rhs, else 0"),
    "broadcast_greater": ([], "1 where lhs > rhs, else 0"),
    "broadcast_greater_equal": ([], "1 where lhs >= rhs, else 0"),
    "broadcast_lesser": ([], "1 where lhs < rhs, else 0"),
    "broadcast_lesser_equal": ([], "1 where lhs <= rhs, else 0"),
    "broadcast_logical_and": ([], "1 where neither lhs nor rhs is 0, else 0"),
    "broadcast_logical_or": ([], "1 where lhs or rhs is not 0, else 0"),
    "broadcast_logical_xor": ([], "1 where just one of lhs and rhs is 0, else 0"),
}  # type: dict[str, tuple[list[str], str]]
for _name, (_aliases, _doc) in _BROADCAST.items():
    register(_name, ["lhs", "rhs"], aliases=_aliases, shape=shapes.broadcast, doc=f"{_doc}, broadcasting as numpy.")

register(
    "add_n",
    [],
    [p.count("num_args", most=p.MOST_EDGES)],
    variadic="num_args",
    aliases=["ElementWiseSum"],
    shape=shapes.same,
    doc="Sum of all inputs, which have one shape.",
)


def _where(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    found = shapes.unify(shapes.unify(ins[1], ins[2]), outs[0])
    condition = ins[0]
    if condition is not None and found is not None:
        if len(condition) == 1 and len(found) != 1:  # one flag for each row
            shapes.unify(condition, found[:1])
        else:
            found = shapes.unify(condition, found)
            ins[0] = found
    ins[1] = ins[2] = outs[0] = found


register(
    "where",
    ["condition", "x", "y"],
    shape=_where,
    type_rule=types.same_but(0),
    doc="x where condition is not 0, else y. A 1-D condition picks whole rows.",
)
