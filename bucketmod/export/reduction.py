"""Sums, means and extremes along axes."""

from __future__ import annotations

import math
from typing import Any

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import INT64, NodeExport, exporter
from bucketmod.operators.reduction import reduced_axes


def _reduce(node: NodeExport, op_type: str) -> Tensor:
    """Reducing every axis gives shape (1,) in MXNet, where ONNX gives a scalar."""
    data, keep = node.inputs[0], int(node.attrs["keepdims"])
    axes = reduced_axes(node.attrs["axis"], node.attrs["exclude"], len(data.shape))
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
