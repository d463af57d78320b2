"""One input in the shape of another: only shapes are looked at, the other input's values are not used."""

from __future__ import annotations

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import NodeExport, exporter
from bucketmod.operators.alignment import crop_offset


def _cut(node: NodeExport, starts: list[int], axes: list[int]) -> Tensor:
    """The part of the first input that has the shape of the output."""
    made = node.out_shapes[0]
    if made == node.inputs[0].shape:
        return node.inputs[0]
    bounds = [starts, [start + made[axis] for start, axis in zip(starts, axes, strict=True)], axes]
    return node.result("Slice", [node.inputs[0], *map(node.integers, bounds)])


@exporter("slice_like")
def slice_like(node: NodeExport) -> Tensor:
    axes = [axis for axis, size in enumerate(node.out_shapes[0]) if size != node.inputs[0].shape[axis]]
    return _cut(node, [0] * len(axes), axes)


@exporter("Crop")
def crop(node: NodeExport) -> Tensor:
    offset = crop_offset(node.attrs, node.inputs[0].shape, node.out_shapes[0])
    return _cut(node, list(offset), [2, 3])


@exporter("broadcast_like")
def broadcast_like(node: NodeExport) -> Tensor:
    if node.inputs[0].shape == node.out_shapes[0]:
        return node.inputs[0]
    return node.result("Expand", [node.inputs[0], node.integers(node.out_shapes[0])])


@exporter("reshape_like")
def reshape_like(node: NodeExport) -> Tensor:
    return node.reshape(node.inputs[0], node.out_shapes[0])
