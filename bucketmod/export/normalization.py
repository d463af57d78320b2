"""Softmax and its logarithm, layer normalisation."""

from __future__ import annotations

import math

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import BOOL, INT64, NodeExport, exporter
from bucketmod.operators.normalization import l2_axes

_NEVER = -1e30  # exp of it is 0, and unlike infinity it leaves a row of nothing else a number


def _softmax(node: NodeExport, op_type: str, sign: float = 1.0) -> Tensor:
    """With ``use_length`` elements from the length on take no part, and are 0 in the end."""
    axis = node.axis(node.attrs["axis"])
    data = node.cast(node.inputs[0], node.dtype)
    divisor = sign * (node.attrs["temperature"] or 1.0)
    if divisor != 1.0:
        data = node.op("Div", [data, node.constant(divisor)])
    if not node.attrs["use_length"]:
        return node.result(op_type, [data], axis=axis)
    length = node.cast(node.inputs[1], INT64)
    length = node.reshape(length, (*data.shape[:axis], 1, *data.shape[axis + 1 :]))
    places = node.integers(np.arange(data.shape[axis]).reshape((-1,) + (1,) * (len(data.shape) - axis - 1)))
    inside = node.op("Less", [places, length], data.shape, BOOL)
    data = node.op("Where", [inside, data, node.constant(_NEVER)], data.shape, data.dtype)
    made = node.op(op_type, [data], axis=axis)
    return node.result("Where", [inside, made, node.constant(0)])


@exporter("softmax")
def softmax(node: NodeExport) -> Tensor:
    return _softmax(node, "Softmax")


@exporter("softmin")
def softmin(node: NodeExport) -> Tensor:
    return _softmax(node, "Softmax", sign=-1.0)


@exporter("log_softmax")
def log_softmax(node: NodeExport) -> Tensor:
    return _softmax(node, "LogSoftmax")


@exporter("LayerNorm")
def layer_norm(node: NodeExport) -> Tensor:
    """Normalises one axis; it is moved to the end where it is not the last. Mean and 1/deviation are outputs too:
    the gradient needs them."""
    if node.attrs["output_mean_var"]:
        node.refuse("output_mean_var=True")
    data, gamma, beta = node.inputs
    rank = len(data.shape)
    axis = node.axis(node.attrs["axis"])
    perm = [a for a in range(rank) if a != axis] + [axis]
    moved = node.transpose(data, perm)
    last = axis == rank - 1
    output = node.output() if last else node.intermediate(moved.shape, data.dtype)
    statistics = [node.intermediate((*moved.shape[:-1], 1), data.dtype) for _ in range(2)]
    node.emit(
        "LayerNormalization", [moved, gamma, beta], [output, *statistics], axis=-1, epsilon=float(node.attrs["eps"])
    )
    if last:
        return output
    return node.result("Transpose", [output], perm=[perm.index(a) for a in range(rank)])


def _normal_rows(node: NodeExport, shape: tuple[int, ...]) -> Tensor:
    """The input as ``shape``, each row along the last axis with mean 0 and variance 1."""
    rows = node.reshape(node.inputs[0], shape)
    output = node.intermediate(shape, rows.dtype)
    statistics = [node.intermediate((*shape[:-1], 1), rows.dtype) for _ in range(2)]
    ones = node.constant(np.ones(shape[-1]))
    node.emit("LayerNormalization", [rows, ones], [output, *statistics], axis=-1, epsilon=float(node.attrs["eps"]))
    return output


def _scaled_rows(node: NodeExport, groups: int) -> Tensor:
    """Rows of equal groups of channels, normalised, times gamma, plus beta: one number a group."""
    data, gamma, beta = node.inputs
    shape = (data.shape[0], groups, math.prod(data.shape[1:]) // groups)
    gamma, beta = (node.reshape(vector, (groups, 1)) for vector in (gamma, beta))
    made = node.op("Add", [node.op("Mul", [_normal_rows(node, shape), gamma]), beta])
    return node.reshape(made, data.shape)


@exporter("InstanceNorm")
def instance_norm(node: NodeExport) -> Tensor:
    return _scaled_rows(node, node.inputs[0].shape[1])


@exporter("GroupNorm")
def group_norm(node: NodeExport) -> Tensor:
    if node.attrs["output_mean_var"]:
        node.refuse("output_mean_var=True")
    return _scaled_rows(node, node.attrs["num_groups"])


@exporter("L2Normalization")
def l2_normalization(node: NodeExport) -> Tensor:
    data = node.inputs[0]
    axes = l2_axes(node.attrs["mode"], len(data.shape))
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(data.shape))
    total = node.op("ReduceSum", [node.op("Mul", [data, data]), node.integers(axes)], kept, keepdims=1)
    size = node.op("Sqrt", [node.op("Add", [total, node.constant(node.attrs["eps"])])])
    return node.result("Div", [data, size])


@exporter("LRN")
def local_response_norm(node: NodeExport) -> Tensor:
    """Neighbouring channels are a window of nsize rows over the image [channels, places]."""
    data, nsize = node.inputs[0], node.attrs["nsize"]
    batch, channels, *sizes = data.shape
    image = (batch, 1, channels, math.prod(sizes))
    squares = node.reshape(node.op("Mul", [data, data]), image)
    half = nsize // 2
    means = node.op("AveragePool", [squares], image, kernel_shape=[nsize, 1], pads=[half, 0, half, 0],
                    count_include_pad=1)  # fmt: skip
    line = node.op("Mul", [node.reshape(means, data.shape), node.constant(node.attrs["alpha"])])
    line = node.op("Add", [line, node.constant(node.attrs["knorm"])])
    return node.result("Mul", [data, node.op("Pow", [line, node.constant(-node.attrs["beta"])])])


@exporter("SoftmaxActivation")
def softmax_activation(node: NodeExport) -> Tensor:
    """Over the last axis by default, whatever its documentation says: so MXNet 1.9.1 computes it."""
    return node.result("Softmax", [node.inputs[0]], axis=1 if node.attrs["mode"] == "channel" else -1)
