"""Elements and rows picked by index. Indices are whole numbers in whatever dtype."""

from __future__ import annotations

import math

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import BOOL, INT64, NodeExport, exporter


def _within(node: NodeExport, data: Tensor, size: int, mode: str = "clip") -> Tensor:
    """Indices as int64, those outside [0, size) moved inside."""
    indices = node.cast(data, INT64)
    if mode == "clip":
        return node.op("Clip", [indices, node.integers(0), node.integers(size - 1)])
    if mode == "wrap":
        return node.op("Mod", [indices, node.integers(size)])
    node.refuse(f"mode={mode!r}")


@exporter("Embedding")
def embedding(node: NodeExport) -> Tensor:
    """Numbers outside the table take its first or last row, as in MXNet (-1 fills up short sentences there)."""
    data, weight = node.inputs
    return node.result("Gather", [weight, _within(node, data, weight.shape[0])], axis=0)


@exporter("take")
def take(node: NodeExport) -> Tensor:
    data, indices = node.inputs
    axis = node.axis(node.attrs["axis"])
    return node.result("Gather", [data, _within(node, indices, data.shape[axis], node.attrs["mode"])], axis=axis)


@exporter("pick")
def pick(node: NodeExport) -> Tensor:
    """A sum in which only the picked element counts: its gradient is elementwise, and dense like that of a gather."""
    return _picked(node, node.axis(node.attrs["axis"]), node.attrs["mode"])


@exporter("batch_take")
def batch_take(node: NodeExport) -> Tensor:
    return _picked(node, len(node.inputs[0].shape) - 1, "clip")


def _picked(node: NodeExport, axis: int, mode: str) -> Tensor:
    data, index = node.inputs
    size, kept = data.shape[axis], (*data.shape[:axis], 1, *data.shape[axis + 1 :])
    indices = node.reshape(_within(node, index, size, mode), kept)
    positions = node.reshape(node.integers(range(size)), (size,) + (1,) * (len(data.shape) - 1 - axis))
    chosen = node.op("Equal", [indices, positions], data.shape, BOOL)
    alone = node.op("Where", [chosen, data, node.constant(0)], data.shape, data.dtype)
    inputs = [alone, node.integers([axis])]
    if node.out_shapes[0] == kept:
        return node.result("ReduceSum", inputs, keepdims=1)
    return node.reshape(node.op("ReduceSum", inputs, kept, keepdims=1), node.out_shapes[0])


@exporter("gather_nd")
def gather_nd(node: NodeExport) -> Tensor:
    """Rows of the first axes taken together, gathered by one number: a sum of indices times strides."""
    data, indices = node.inputs
    count, shape = indices.shape[0], indices.shape[1:] or (1,)
    strides = [math.prod(data.shape[axis + 1 : count]) for axis in range(count)]
    column = node.integers(np.reshape(strides, (count,) + (1,) * len(indices.shape[1:])))
    scaled = node.op("Mul", [node.cast(indices, INT64), column])
    rows = node.op("ReduceSum", [scaled, node.integers([0])], indices.shape[1:], keepdims=0)
    lead, width = math.prod(data.shape[:count]), math.prod(data.shape[count:])
    picked = node.op("Gather", [node.reshape(data, (lead, width)), node.reshape(rows, shape)], (*shape, width),
                     data.dtype, axis=0)  # fmt: skip
    return node.reshape(picked, node.out_shapes[0])


@exporter("one_hot")
def one_hot(node: NodeExport) -> Tensor:
    """By comparison: the standard OneHot counts negative indices from the end, where MXNet gives a row of off_value."""
    indices, depth = node.inputs[0], node.attrs["depth"]
    column = node.reshape(node.cast(indices, INT64), (*indices.shape, 1))
    hot = node.op("Equal", [column, node.integers(range(depth))], node.out_shapes[0], BOOL)
    return node.result("Where", [hot, node.constant(node.attrs["on_value"]), node.constant(node.attrs["off_value"])])
