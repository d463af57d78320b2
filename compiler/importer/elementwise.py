"""Converters of element-wise operators and their gradients: plain Relax operators, which the passes fuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, bucketmod, converter, microsoft

op = relax.op

_UNARY = {
    "Neg": op.negative, "Exp": op.exp, "Log": op.log, "Sqrt": op.sqrt, "Abs": op.abs, "Erf": op.erf,
    "Tanh": op.tanh, "Sigmoid": op.sigmoid, "Sign": op.sign, "Floor": op.floor, "Ceil": op.ceil, "Round": op.round,
    "Not": op.logical_not, "Sin": op.sin, "Cos": op.cos,
}  # fmt: skip
_BINARY = {
    "Add": op.add, "Sub": op.subtract, "Mul": op.multiply, "Div": op.divide, "Max": op.maximum, "Min": op.minimum,
    "Equal": op.equal, "Greater": op.greater, "GreaterOrEqual": op.greater_equal, "Less": op.less,
    "LessOrEqual": op.less_equal, "And": op.logical_and, "Or": op.logical_or,
}  # fmt: skip


def const(value: float, like: Any, context: ImportContext) -> Any:
    """A scalar of the dtype of ``like``; it becomes an immediate in the kernel."""
    return relax.const(value, context.dtype(like))


def _shrunk(context: ImportContext, node: Node, index: int, expr: Any, other: Any) -> Any:
    """A one-element constant as a scalar, so that it is an immediate and no broadcast remains."""
    value = context.scalar(node, index)
    if value is not None and len(context.shape(expr)) <= len(context.shape(other)):
        return const(value, expr, context)
    return expr


@converter(*_UNARY)
def unary(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    return context.emit(_UNARY[node.op_type](inputs[0]))


@converter(*_BINARY)
def binary(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    if node.op_type == "Equal" and context.dtype(inputs[0]) == "bool":  # TVM compares them as floats, which fails
        return context.emit(op.equal(*(context.emit(op.astype(x, "int8")) for x in inputs)))
    result = inputs[0]
    if len(inputs) == 1:
        return result
    if len(inputs) == 2:
        left = _shrunk(context, node, 0, inputs[0], inputs[1])
        right = _shrunk(context, node, 1, inputs[1], inputs[0])
        return context.emit(_BINARY[node.op_type](left, right))
    for other in inputs[1:]:  # Max and Min take any number
        result = context.emit(_BINARY[node.op_type](result, other))
    return result


@converter("Pow")
def power(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    exponent = context.scalar(node, 1)
    base = inputs[0]
    if exponent == 2:
        return context.emit(op.multiply(base, base))
    if exponent == 3:
        return context.emit(op.multiply(context.emit(op.multiply(base, base)), base))
    if exponent == 1:
        return base
    if exponent == 0.5:
        return context.emit(op.sqrt(base))
    if exponent == -1:
        return context.emit(op.divide(const(1.0, base, context), base))
    if exponent is not None:
        return context.emit(op.power(base, const(exponent, base, context)))
    return context.emit(op.power(base, inputs[1]))


@converter("Mod")
def modulo(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """With ``fmod`` the sign of the dividend, without it that of the divisor."""
    a, b = _shrunk(context, node, 0, *inputs), _shrunk(context, node, 1, *reversed(inputs))
    return context.emit((op.mod if node.attribute("fmod", 0) else op.floor_mod)(a, b))


@converter("Sum")
def add_n(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    result = inputs[0]
    for other in inputs[1:]:
        result = context.emit(op.add(result, other))
    return result


@converter("Reciprocal")
def reciprocal(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    return context.emit(op.divide(const(1.0, inputs[0], context), inputs[0]))


@converter("Relu")
def relu(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    return context.emit(op.maximum(inputs[0], const(0.0, inputs[0], context)))


@converter("LeakyRelu")
def leaky_relu(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    x = inputs[0]
    scaled = context.emit(op.multiply(x, const(node.attribute("alpha", 0.01), x, context)))
    return context.emit(op.where(_positive(context, x), x, scaled))


@converter("Elu")
def elu(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    x = inputs[0]
    low = context.emit(op.subtract(context.emit(op.exp(x)), const(1.0, x, context)))
    low = context.emit(op.multiply(low, const(node.attribute("alpha", 1.0), x, context)))
    return context.emit(op.where(_positive(context, x), x, low))


@converter("Softplus")
def softplus(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    x = inputs[0]
    small = context.emit(op.exp(context.emit(op.negative(context.emit(op.abs(x))))))
    tail = context.emit(op.log(context.emit(op.add(small, const(1.0, x, context)))))
    return context.emit(op.add(context.emit(op.maximum(x, const(0.0, x, context))), tail))


@converter("Softsign")
def softsign(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    x = inputs[0]
    return context.emit(op.divide(x, context.emit(op.add(context.emit(op.abs(x)), const(1.0, x, context)))))


@converter("Gelu")
@microsoft("Gelu")
def gelu(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    x = inputs[0]
    return context.emit(op.multiply(x, _normal_cdf(context, x)))


def _normal_cdf(context: ImportContext, x: Any) -> Any:
    erf = context.emit(op.erf(context.emit(op.multiply(x, const(math.sqrt(0.5), x, context)))))
    return context.emit(op.add(context.emit(op.multiply(erf, const(0.5, x, context))), const(0.5, x, context)))


@converter("Clip")
def clip(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    result = inputs[0]
    low, high = context.optional_array(node, 1, "min"), context.optional_array(node, 2, "max")
    if low is not None:
        result = context.emit(op.maximum(result, const(low.item(), result, context)))
    if high is not None:
        result = context.emit(op.minimum(result, const(high.item(), result, context)))
    source = context.cast_from.get(node.inputs[0])
    if source is not None and low is not None and high is not None:
        context.clipped_from[node.outputs[0]] = (source, int(low.item()), int(high.item()))
    return result


@converter("Where")
def where(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    condition, x, y = inputs
    shape = np.broadcast_shapes(*(context.shape(e) for e in inputs))
    if context.shape(condition) == shape:
        x, y = _shrunk(context, node, 1, x, condition), _shrunk(context, node, 2, y, condition)
    return context.emit(op.where(condition, x, y))


@converter("Cast")
def cast(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.attribute("to"))).name
    source = context.dtype(inputs[0])
    if dtype == source:
        return inputs[0]
    if source == "float32" and dtype in ("int32", "int64"):
        context.cast_from[node.outputs[0]] = node.inputs[0]
    return context.emit(op.astype(inputs[0], dtype))


@converter("Identity")
@bucketmod("BlockGrad", "MakeLoss", "LinearRegressionOutput", "MAERegressionOutput", "SVMOutput")
def identity(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    return inputs[0]


@bucketmod("LogisticRegressionOutput")
def logistic(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    return context.emit(op.sigmoid(inputs[0]))


def _positive(context: ImportContext, x: Any) -> Any:
    return context.emit(op.greater(x, const(0.0, x, context)))


# Gradients: names and input orders are those of onnxruntime's gradient builder.


@microsoft("TanhGrad")
def tanh_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dy, y = inputs
    slope = context.emit(op.subtract(const(1.0, y, context), context.emit(op.multiply(y, y))))
    return context.emit(op.multiply(dy, slope))


@microsoft("SigmoidGrad")
def sigmoid_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dy, y = inputs
    slope = context.emit(op.multiply(y, context.emit(op.subtract(const(1.0, y, context), y))))
    return context.emit(op.multiply(dy, slope))


@microsoft("ReluGrad")
def relu_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dy, y = inputs
    return context.emit(op.where(_positive(context, y), dy, const(0.0, dy, context)))


@microsoft("LeakyReluGrad")
def leaky_relu_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dy, y = inputs
    scaled = context.emit(op.multiply(dy, const(node.attribute("alpha", 0.01), dy, context)))
    return context.emit(op.where(_positive(context, y), dy, scaled))


@microsoft("GeluGrad")
def gelu_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    dy, x = inputs
    square = context.emit(op.multiply(context.emit(op.multiply(x, x)), const(-0.5, x, context)))
    density = context.emit(op.multiply(context.emit(op.exp(square)), const(1 / math.sqrt(2 * math.pi), x, context)))
    slope = context.emit(op.add(_normal_cdf(context, x), context.emit(op.multiply(x, density))))
    return context.emit(op.multiply(dy, slope))


@microsoft("Scale")
def scale(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    if node.attribute("scale_down", 0):
        return context.emit(op.divide(inputs[0], inputs[1]))
    return context.emit(op.multiply(inputs[0], inputs[1]))


@bucketmod("MakeLossGrad")
def make_loss_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """A constant, but for ``valid``: there it is divided by the number of entries above the threshold.

    ``batch`` divides by all axes but the last, as MXNet does.
    """
    x = inputs[0]
    scale_, mode = node.attribute("grad_scale", 1.0), node.attribute("normalization", "null")
    if mode == "valid":
        above = context.emit(op.greater(x, const(node.attribute("valid_thresh", 0.0), x, context)))
        count = context.emit(op.sum(context.emit(op.astype(above, context.dtype(x)))))
        count = context.emit(op.maximum(count, const(1.0, x, context)))
        share = context.emit(op.divide(const(scale_, x, context), count))
        return context.emit(op.broadcast_to(share, context.shape(x)))
    value = scale_ / max(math.prod(context.shape(x)[:-1]), 1) if mode == "batch" else scale_
    return context.emit(op.full(context.shape(x), const(value, x, context)))
