"""Sums, means and extremes along axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import BOOL, INT64, NodeExport, exporter
from bucketmod.operators.reduction import reduced_axes


def _reduce(node: NodeExport, op_type: str, data: Tensor | None = None) -> Tensor:
    """Reducing every axis gives shape (1,) in MXNet, where ONNX gives a scalar. ``data``: instead of the input."""
    data, keep = node.inputs[0] if data is None else data, int(node.attrs["keepdims"])
    axes = reduced_axes(node.attrs["axis"], node.attrs.get("exclude", False), len(data.shape))
    if not axes:  # what ``exclude`` of every axis leaves
        return data
    left = tuple(1 if a in axes else n for a, n in enumerate(data.shape) if keep or a not in axes)
    # In opset 17 only ReduceSum takes its axes as an input.
    attributes: dict[str, Any] = {} if op_type == "ReduceSum" else {"axes": axes}
    inputs = [data, node.integers(axes)] if op_type == "ReduceSum" else [data]
    if left == node.out_shapes[0]:
        return node.result(op_type, inputs, keepdims=keep, **attributes)
    reduced = node.op(op_type, inputs, left, keepdims=keep, **attributes)
    return node.result("Reshape", [reduced, node.integers(node.out_shapes[0])])


@exporter("sum")
def sum_(node: NodeExport) -> Tensor:
    return _reduce(node, "ReduceSum")


@exporter("mean")
def mean(node: NodeExport) -> Tensor:
    return _reduce(node, "ReduceMean")


@exporter("max")
def max_(node: NodeExport) -> Tensor:
    return _reduce(node, "ReduceMax")


@exporter("min")
def min_(node: NodeExport) -> Tensor:
    return _reduce(node, "ReduceMin")


@exporter("prod")
def prod(node: NodeExport) -> Tensor:
    return _reduce(node, "ReduceProd")


def _numbers(node: NodeExport, otherwise: float) -> Tensor:
    """The input with ``otherwise`` in place of what is no number."""
    data = node.inputs[0]
    same = node.op("Equal", [data, data], dtype=BOOL)
    return node.op("Where", [same, data, node.constant(otherwise)], data.shape, data.dtype)


@exporter("nansum")
def nansum(node: NodeExport) -> Tensor:
    return _reduce(node, "ReduceSum", _numbers(node, 0))


@exporter("nanprod")
def nanprod(node: NodeExport) -> Tensor:
    return _reduce(node, "ReduceProd", _numbers(node, 1))


@exporter("norm")
def norm(node: NodeExport) -> Tensor:
    data = node.inputs[0]
    if node.attrs["ord"] not in (1, 2):
        node.refuse(f"ord={node.attrs['ord']}")
    if node.attrs["out_dtype"] not in (None, data.dtype.name):
        node.refuse(f"out_dtype={node.attrs['out_dtype']!r}")
    if node.attrs["ord"] == 1:
        return _reduce(node, "ReduceSum", node.op("Abs", [data]))
    axes = reduced_axes(node.attrs["axis"], False, len(data.shape))
    kept = tuple(1 if axis in axes else n for axis, n in enumerate(data.shape))
    total = node.op("ReduceSum", [node.op("Mul", [data, data]), node.integers(axes)], kept, keepdims=1)
    return node.reshape(node.op("Sqrt", [total]), node.out_shapes[0])


@exporter("argmax_channel")
def argmax_channel(node: NodeExport) -> Tensor:
    position = node.op("ArgMax", [node.inputs[0]], node.out_shapes[0], INT64, axis=1, keepdims=0)
    return node.cast(position, node.dtype)


@exporter("softmax_cross_entropy")
def softmax_cross_entropy(node: NodeExport) -> Tensor:
    data, label = node.inputs
    classes = node.integers(np.arange(data.shape[1])[None])
    column = node.reshape(node.cast(label, INT64), (label.shape[0], 1))
    hit = node.op("Equal", [column, classes], data.shape, BOOL)
    logs = node.op("LogSoftmax", [data], axis=1)
    picked = node.op("Where", [hit, logs, node.constant(0)], data.shape, data.dtype)
    total = node.op("ReduceSum", [picked, node.integers([0, 1])], (1, 1), keepdims=1)
    return node.reshape(node.op("Neg", [total]), (1,))


@exporter("argmax")
def argmax(node: NodeExport) -> Tensor:
    return _position(node, "ArgMax")


@exporter("argmin")
def argmin(node: NodeExport) -> Tensor:
    return _position(node, "ArgMin")


def _position(node: NodeExport, op_type: str) -> Tensor:
    """Positions come in the dtype of the data, as in MXNet; without ``axis`` in the flattened data."""
    data, axis = node.inputs[0], node.attrs["axis"]
    if axis is None:
        data, axis = node.reshape(data, (math.prod(data.shape),)), 0
    axis = node.axis(axis, len(data.shape))
    shape = (*data.shape[:axis], 1, *data.shape[axis + 1 :])
    position = node.cast(node.op(op_type, [data], shape, INT64, axis=axis, keepdims=1), node.dtype)
    return node.reshape(position, node.out_shapes[0])
