"""Activations by the name of their type, and dropout."""

from __future__ import annotations

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import BOOL, NodeExport, exporter

_ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus"}


@exporter("Activation")
def activation(node: NodeExport) -> Tensor:
    kind = node.attrs["act_type"]
    if kind == "softsign":
        return _softsign(node)
    if kind not in _ACTIVATIONS:
        node.refuse(f"act_type={kind!r}")
    return node.result(_ACTIVATIONS[kind], node.inputs)


@exporter("softsign")
def softsign(node: NodeExport) -> Tensor:
    return _softsign(node)


def _softsign(node: NodeExport) -> Tensor:
    """x / (1 + |x|) spelled out: the standard Softsign has no gradient in the builder."""
    size = node.op("Add", [node.op("Abs", node.inputs), node.constant(1)])
    return node.result("Div", [node.inputs[0], size])


@exporter("LeakyReLU")
def leaky_relu(node: NodeExport) -> Tensor:
    kind = node.attrs["act_type"]
    if kind == "leaky":
        return node.result("LeakyRelu", node.inputs[:1], alpha=float(node.attrs["slope"]))
    if kind == "gelu":
        data = node.inputs[0]
        error = node.op("Erf", [node.op("Mul", [data, node.constant(2**-0.5)])])
        half = node.op("Mul", [data, node.constant(0.5)])
        return node.result("Mul", [half, node.op("Add", [error, node.constant(1)])])
    if kind == "prelu":
        return _prelu(node)
    if kind == "elu":
        return _elu(node, 1.0, node.attrs["slope"])
    if kind == "selu":
        return _elu(node, 1.0507009873554804934193349852946, 1.6732632423543772848170429916717)
    node.refuse(f"act_type={kind!r} (random slopes)")


def _positive(node: NodeExport) -> Tensor:
    return node.op("Greater", [node.inputs[0], node.constant(0)], dtype=BOOL)


def _prelu(node: NodeExport) -> Tensor:
    """A choice, because the standard PRelu has no gradient in the builder. One slope for each channel (axis 1)."""
    data, slopes = node.inputs
    if len(slopes.shape) == 1 < slopes.shape[0]:
        slopes = node.reshape(slopes, slopes.shape + (1,) * (len(data.shape) - 2))
    return node.result("Where", [_positive(node), data, node.op("Mul", [data, slopes])])


def _elu(node: NodeExport, scale: float, slope: float) -> Tensor:
    """scale * x, or scale * slope * (exp(x) - 1) below 0; exp sees no positive x, so that it can't overflow."""
    data, positive = node.inputs[0], _positive(node)
    below = node.op("Where", [positive, node.constant(0), data], data.shape, data.dtype)
    curve = node.op("Sub", [node.op("Exp", [below]), node.constant(1)])
    curve = node.op("Mul", [curve, node.constant(scale * slope)])
    above = data if scale == 1 else node.op("Mul", [data, node.constant(scale)])
    return node.result("Where", [positive, above, curve])


@exporter("Dropout")
def dropout(node: NodeExport) -> Tensor:
    """Active in training programs, or where ``mode`` says always; nothing at all otherwise."""
    rate = float(node.attrs["p"])
    if rate == 0 or not (node.is_train or node.attrs["mode"] == "always"):
        return node.inputs[0]
    data = node.inputs[0]
    if node.attrs["axes"]:  # one draw for all positions along them
        shared = {node.axis(axis) for axis in node.attrs["axes"]}
        shape = tuple(1 if axis in shared else size for axis, size in enumerate(data.shape))
        return node.result("Mul", [data, node.dropout(node.constant(np.ones(shape)), rate)])
    return node.dropout(data, rate, node.output())
