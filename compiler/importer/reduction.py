"""Converters of reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, converter, normalize_axis
from bucketmod.compiler.kernels.emit import emit_kernel
from bucketmod.compiler.kernels.reduction import ColumnSum

op = relax.op

_REDUCTIONS = {"ReduceSum": op.sum, "ReduceMean": op.mean, "ReduceMax": op.max, "ReduceMin": op.min,
               "ReduceProd": op.prod}  # fmt: skip


def _axes(context: ImportContext, node: Node, rank: int) -> list[int] | None:
    """Axes come as an attribute (before opset 13 for sums, 18 for the rest) or as an input."""
    axes = node.attribute("axes")
    if axes is None and len(node.inputs) > 1 and node.inputs[1]:
        axes = context.array(node, 1, "axes")
    if axes is None or len(axes) == 0:
        return [] if node.attribute("noop_with_empty_axes", 0) else None
    return sorted(normalize_axis(node, int(a), rank) for a in axes)


@converter(*_REDUCTIONS)
def reduce(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    x = inputs[0]
    shape = context.shape(x)
    axes = _axes(context, node, len(shape))
    if axes == []:
        return x
    axes = list(range(len(shape))) if axes is None else axes
    keep = [1 if i in axes else d for i, d in enumerate(shape)]
    result_shape = keep if node.attribute("keepdims", 1) else [d for i, d in enumerate(shape) if i not in axes]
    if all(shape[a] == 1 for a in axes):
        return context.reshape(x, result_shape)
    if node.op_type == "ReduceSum" and context.dtype(x) == "float32" and axes == list(range(len(axes))):
        return context.reshape(leading_sum(context, x, len(axes)), result_shape)
    return context.reshape(context.emit(_REDUCTIONS[node.op_type](x, axes)), result_shape)


@converter("ArgMax", "ArgMin")
def arg_reduce(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    if node.attribute("select_last_index", 0):
        raise node.fail("select_last_index is not built")
    axis = normalize_axis(node, node.attribute("axis", 0), len(context.shape(inputs[0])))
    reduce_ = op.argmax if node.op_type == "ArgMax" else op.argmin
    return context.emit(reduce_(inputs[0], axis, bool(node.attribute("keepdims", 1))))


def leading_sum(context: ImportContext, x: Any, count: int) -> Any:
    """Sum over the first ``count`` axes, the gradient of a bias."""
    shape = context.shape(x)
    if count == len(shape):
        return context.emit(op.sum(x))
    rows, cols = int(np.prod(shape[:count])), int(np.prod(shape[count:]))
    (total,) = emit_kernel(context, ColumnSum(rows, cols), [context.reshape(x, (rows, cols))])
    return context.reshape(total, shape[count:])
