"""Elements and rows picked by index. Indices are whole numbers in whatever dtype."""

from __future__ import annotations

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
    data, index = node.inputs
    axis = node.axis(node.attrs["axis"])
    size, kept = data.shape[axis], (*data.shape[:axis], 1, *data.shape[axis + 1 :])
    indices = node.reshape(_within(node, index, size, node.attrs["mode"]), kept)
    positions = node.reshape(node.integers(range(size)), (size,) + (1,) * (len(data.shape) - 1 - axis))
    chosen = node.op("Equal", [indices, positions], data.shape, BOOL)
    alone = node.op("Where", [chosen, data, node.constant(0)], data.shape, data.dtype)
    inputs = [alone, node.integers([axis])]
    if node.out_shapes[0] == kept:
        return node.result("ReduceSum", inputs, keepdims=1)
    return node.reshape(node.op("ReduceSum", inputs, kept, keepdims=1), node.out_shapes[0])


@exporter("one_hot")
def one_hot(node: NodeExport) -> Tensor:
    """By comparison: the standard OneHot counts negative indices from the end, where MXNet gives a row of off_value."""
    indices, depth = node.inputs[0], node.attrs["depth"]
    column = node.reshape(node.cast(indices, INT64), (*indices.shape, 1))
    hot = node.op("Equal", [column, node.integers(range(depth))], node.out_shapes[0], BOOL)
    return node.result("Where", [hot, node.constant(node.attrs["on_value"]), node.constant(node.attrs["off_value"])])
