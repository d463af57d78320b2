"""Arithmetic, comparisons and functions of single elements."""

from __future__ import annotations

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import BOOL, EXPORTERS, NodeExport, NodeExporter, exporter

# MXNet's operator -> ONNX operator with the same meaning.
_UNARY = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
    "negative": "Neg", "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos", "erf": "Erf", "floor": "Floor",
    "ceil": "Ceil", "sign": "Sign",
}  # fmt: skip
_PAIRS = {
    "elemwise_add": "Add", "elemwise_sub": "Sub", "elemwise_mul": "Mul", "elemwise_div": "Div", "_power": "Pow",
    "_maximum": "Max", "_minimum": "Min", "broadcast_add": "Add", "broadcast_sub": "Sub", "broadcast_mul": "Mul",
    "broadcast_div": "Div", "broadcast_power": "Pow", "broadcast_maximum": "Max", "broadcast_minimum": "Min",
    "_plus_scalar": "Add", "_minus_scalar": "Sub", "_mul_scalar": "Mul", "_div_scalar": "Div", "_power_scalar": "Pow",
    "_maximum_scalar": "Max", "_minimum_scalar": "Min",
}  # fmt: skip
_SCALAR_FIRST = {"_rminus_scalar": "Sub", "_rdiv_scalar": "Div", "_rpower_scalar": "Pow"}
_COMPARISONS = {
    "equal": ("Equal", False),
    "not_equal": ("Equal", True),
    "greater": ("Greater", False),
    "greater_equal": ("GreaterOrEqual", False),
    "lesser": ("Less", False),
    "lesser_equal": ("LessOrEqual", False),
}


def _operands(node: NodeExport) -> list[Tensor]:
    """The two inputs, or the only one and the scalar."""
    return node.inputs if len(node.inputs) == 2 else [node.inputs[0], node.constant(node.attrs["scalar"])]


def _unary(op_type: str) -> NodeExporter:
    return lambda node: node.result(op_type, node.inputs)


def _pair(op_type: str) -> NodeExporter:
    return lambda node: node.result(op_type, _operands(node))


def _reversed_pair(op_type: str) -> NodeExporter:
    return lambda node: node.result(op_type, _operands(node)[::-1])


def _comparison(op_type: str, negated: bool) -> NodeExporter:
    """MXNet's comparisons give 0 and 1 in the dtype of their inputs."""

    def export(node: NodeExport) -> Tensor:
        truth = node.op(op_type, _operands(node), node.out_shapes[0], BOOL)
        return node.cast_result(node.op("Not", [truth]) if negated else truth)

    return export


EXPORTERS |= {name: _unary(op_type) for name, op_type in _UNARY.items()}
EXPORTERS |= {name: _pair(op_type) for name, op_type in _PAIRS.items()}
EXPORTERS |= {name: _reversed_pair(op_type) for name, op_type in _SCALAR_FIRST.items()}
for _name, _operator in _COMPARISONS.items():
    for _spelling in (f"_{_name}", f"broadcast_{_name}", f"_{_name}_scalar"):
        EXPORTERS[_spelling] = _comparison(*_operator)


def _modulo(node: NodeExport, left: Tensor, right: Tensor) -> Tensor:
    """left - floor(left / right) * right, which has the sign of ``right``; 0 where ``right`` is 0."""
    shape = node.out_shapes[0]
    zero = node.constant(0)
    is_zero = node.op("Equal", [right, zero], dtype=BOOL)
    divisor = node.op("Where", [is_zero, node.constant(1), right], right.shape, right.dtype)
    times = node.op("Floor", [node.op("Div", [left, divisor], shape)])
    rest = node.op("Sub", [left, node.op("Mul", [times, divisor])], shape)
    return node.result("Where", [is_zero, zero, rest])


@exporter("_mod", "broadcast_mod", "_mod_scalar")
def modulo(node: NodeExport) -> Tensor:
    return _modulo(node, *_operands(node))


@exporter("_rmod_scalar")
def modulo_of_scalar(node: NodeExport) -> Tensor:
    return _modulo(node, *_operands(node)[::-1])


@exporter("_hypot", "broadcast_hypot", "_hypot_scalar")
def hypot(node: NodeExport) -> Tensor:
    squares = [node.op("Mul", [side, side]) for side in _operands(node)]
    return node.result("Sqrt", [node.op("Add", squares, node.out_shapes[0])])


@exporter("_copy")
def identity(node: NodeExport) -> Tensor:
    return node.inputs[0]


@exporter("square")
def square(node: NodeExport) -> Tensor:
    return node.result("Mul", [node.inputs[0], node.inputs[0]])


@exporter("rsqrt")
def rsqrt(node: NodeExport) -> Tensor:
    return node.result("Reciprocal", [node.op("Sqrt", node.inputs)])


@exporter("log1p")
def log1p(node: NodeExport) -> Tensor:
    return node.result("Log", [node.op("Add", [node.inputs[0], node.constant(1)])])


@exporter("expm1")
def expm1(node: NodeExport) -> Tensor:
    return node.result("Sub", [node.op("Exp", node.inputs), node.constant(1)])


@exporter("round")
def round_(node: NodeExport) -> Tensor:
    size = node.op("Add", [node.op("Abs", node.inputs), node.constant(0.5)])
    return node.result("Mul", [node.op("Sign", node.inputs), node.op("Floor", [size])])


@exporter("rint")
def rint(node: NodeExport) -> Tensor:
    return node.result("Ceil", [node.op("Sub", [node.inputs[0], node.constant(0.5)])])


@exporter("fix", "trunc")
def truncate(node: NodeExport) -> Tensor:
    whole = node.op("Floor", [node.op("Abs", node.inputs)])
    return node.result("Mul", [node.op("Sign", node.inputs), whole])


def _cube_root(node: NodeExport) -> list[Tensor]:
    size = node.op("Pow", [node.op("Abs", node.inputs), node.constant(1 / 3)])
    return [node.op("Sign", node.inputs), size]


@exporter("cbrt")
def cbrt(node: NodeExport) -> Tensor:
    return node.result("Mul", _cube_root(node))


@exporter("rcbrt")
def rcbrt(node: NodeExport) -> Tensor:
    return node.result("Div", _cube_root(node))


def _scaled(op_type: str, factor: float) -> NodeExporter:
    """A function of the element times a number; ``op_type`` "" for the element itself."""

    def export(node: NodeExport) -> Tensor:
        value = node.op(op_type, node.inputs) if op_type else node.inputs[0]
        return node.result("Mul", [value, node.constant(factor)])

    return export


EXPORTERS |= {
    "log2": _scaled("Log", 1 / np.log(2)), "log10": _scaled("Log", 1 / np.log(10)),
    "degrees": _scaled("", 180 / np.pi), "radians": _scaled("", np.pi / 180),
}  # fmt: skip


@exporter("tan")
def tan(node: NodeExport) -> Tensor:
    return node.result("Div", [node.op("Sin", node.inputs), node.op("Cos", node.inputs)])


def _half(op_type: str) -> NodeExporter:
    """Half of the sum or difference of exp(x) and exp(-x)."""

    def export(node: NodeExport) -> Tensor:
        sides = [node.op("Exp", node.inputs), node.op("Exp", [node.op("Neg", node.inputs)])]
        return node.result("Mul", [node.op(op_type, sides), node.constant(0.5)])

    return export


EXPORTERS |= {"sinh": _half("Sub"), "cosh": _half("Add")}


@exporter("arcsinh")
def arcsinh(node: NodeExport) -> Tensor:
    """Of the size, with the sign afterwards: large negative elements would cancel out."""
    size = node.op("Abs", node.inputs)
    root = node.op("Sqrt", [node.op("Add", [node.op("Mul", [size, size]), node.constant(1)])])
    return node.result("Mul", [node.op("Sign", node.inputs), node.op("Log", [node.op("Add", [size, root])])])


@exporter("arccosh")
def arccosh(node: NodeExport) -> Tensor:
    data = node.inputs[0]
    root = node.op("Sqrt", [node.op("Sub", [node.op("Mul", [data, data]), node.constant(1)])])
    return node.result("Log", [node.op("Add", [data, root])])


@exporter("arctanh")
def arctanh(node: NodeExport) -> Tensor:
    one, data = node.constant(1), node.inputs[0]
    sides = [node.op("Add", [data, one]), node.op("Sub", [one, data], data.shape)]
    return node.result("Mul", [node.op("Log", [node.op("Div", sides)]), node.constant(0.5)])


def _truth(node: NodeExport, data: Tensor) -> Tensor:
    """Where ``data`` is not 0."""
    return node.op("Not", [node.op("Equal", [data, node.constant(0)], dtype=BOOL)])


@exporter("logical_not")
def logical_not(node: NodeExport) -> Tensor:
    return node.cast_result(node.op("Equal", [node.inputs[0], node.constant(0)], dtype=BOOL))


def _logical(op_type: str, negated: bool = False) -> NodeExporter:
    def export(node: NodeExport) -> Tensor:
        sides = [_truth(node, side) for side in node.inputs]
        truth = node.op(op_type, sides, node.out_shapes[0], BOOL)
        return node.cast_result(node.op("Not", [truth]) if negated else truth)

    return export


EXPORTERS |= {
    "broadcast_logical_and": _logical("And"), "broadcast_logical_or": _logical("Or"),
    "broadcast_logical_xor": _logical("Equal", negated=True),
}  # fmt: skip


@exporter("hard_sigmoid")
def hard_sigmoid(node: NodeExport) -> Tensor:
    line = node.op("Mul", [node.inputs[0], node.constant(node.attrs["alpha"])])
    line = node.op("Add", [line, node.constant(node.attrs["beta"])])
    return node.result("Clip", [line, node.constant(0), node.constant(1)])


@exporter("smooth_l1")
def smooth_l1(node: NodeExport) -> Tensor:
    data, square = node.inputs[0], node.attrs["scalar"] ** 2
    size = node.op("Abs", [data])
    near = node.op("Less", [size, node.constant(1 / square)], dtype=BOOL)
    curve = node.op("Mul", [node.op("Mul", [data, data]), node.constant(0.5 * square)])
    line = node.op("Sub", [size, node.constant(0.5 / square)])
    return node.result("Where", [near, curve, line])


@exporter("clip")
def clip(node: NodeExport) -> Tensor:
    bounds = [node.constant(node.attrs["a_min"]), node.constant(node.attrs["a_max"])]
    return node.result("Clip", [node.inputs[0], *bounds])


@exporter("add_n")
def add_n(node: NodeExport) -> Tensor:
    """A chain of additions: the standard Sum of many has no gradient in the builder."""
    if len(node.inputs) == 1:
        return node.inputs[0]
    total = node.inputs[0]
    for term in node.inputs[1:-1]:
        total = node.op("Add", [total, term])
    return node.result("Add", [total, node.inputs[-1]])


@exporter("where")
def where(node: NodeExport) -> Tensor:
    condition, chosen, other = node.inputs
    if len(condition.shape) == 1 < len(chosen.shape):  # one condition for each row
        condition = node.reshape(condition, condition.shape + (1,) * (len(chosen.shape) - 1))
    return node.result("Where", [node.cast(condition, BOOL), chosen, other])


@exporter("Cast")
def cast(node: NodeExport) -> Tensor:
    return node.cast_result(node.inputs[0])


@exporter("zeros_like")
def zeros_like(node: NodeExport) -> Tensor:
    return node.constant(np.zeros(node.out_shapes[0]))


@exporter("ones_like")
def ones_like(node: NodeExport) -> Tensor:
    return node.constant(np.ones(node.out_shapes[0]))
