"""Operators that move elements without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import NodeExport, exporter
from bucketmod.operators.shaping import slice_bounds

_TO_THE_END = np.iinfo(np.int64).max
_TO_THE_START = np.iinfo(np.int64).min


@exporter("Reshape", "Flatten", "squeeze")
def reshape(node: NodeExport) -> Tensor:
    """Shape inference has resolved the codes: what is left is a plain shape."""
    if node.inputs[0].shape == node.out_shapes[0]:
        return node.inputs[0]
    return node.result("Reshape", [node.inputs[0], node.integers(node.out_shapes[0])])


@exporter("transpose")
def transpose(node: NodeExport) -> Tensor:
    axes = node.attrs["axes"] or tuple(range(len(node.inputs[0].shape)))[::-1]
    return node.result("Transpose", node.inputs, perm=[node.axis(axis) for axis in axes])


@exporter("SwapAxis")
def swap_axes(node: NodeExport) -> Tensor:
    perm = list(range(len(node.inputs[0].shape)))
    first, second = node.axis(node.attrs["dim1"]), node.axis(node.attrs["dim2"])
    perm[first], perm[second] = perm[second], perm[first]
    return node.result("Transpose", node.inputs, perm=perm)


@exporter("expand_dims")
def expand_dims(node: NodeExport) -> Tensor:
    axis = node.axis(node.attrs["axis"], len(node.out_shapes[0]))
    return node.result("Unsqueeze", [node.inputs[0], node.integers([axis])])


@exporter("Concat")
def concat(node: NodeExport) -> Tensor:
    if len(node.inputs) == 1:
        return node.inputs[0]
    return node.result("Concat", node.inputs, axis=node.axis(node.attrs["dim"]))


@exporter("stack")
def stack(node: NodeExport) -> Tensor:
    axis = node.axis(node.attrs["axis"], len(node.out_shapes[0]))
    shape = (*node.inputs[0].shape[:axis], 1, *node.inputs[0].shape[axis:])
    parts = [node.op("Unsqueeze", [part, node.integers([axis])], shape) for part in node.inputs]
    return node.result("Concat", parts, axis=axis)


@exporter("SliceChannel")
def slice_channel(node: NodeExport) -> list[Tensor]:
    """Equal parts along an axis; ``squeeze_axis`` drops the axis of size 1 that is left."""
    data = node.inputs[0]
    axis = node.axis(node.attrs["axis"])
    count = node.attrs["num_outputs"]
    indices = range(count)
    if not node.attrs["squeeze_axis"]:
        outputs = [node.output(index) for index in indices]
        node.emit("Split", [data], outputs, axis=axis)
        return outputs
    part_shape = (*data.shape[:axis], data.shape[axis] // count, *data.shape[axis + 1 :])
    parts = [node.intermediate(part_shape, data.dtype) for _ in indices]
    node.emit("Split", [data], parts, axis=axis)
    axes = node.integers([axis])
    return [node.result("Squeeze", [part, axes], index=index) for index, part in enumerate(parts)]


@exporter("slice_axis")
def slice_axis(node: NodeExport) -> Tensor:
    axis = node.axis(node.attrs["axis"])
    begin, end = node.attrs["begin"], node.attrs["end"]
    bounds = [node.integers([begin]), node.integers([_TO_THE_END if end is None else end]), node.integers([axis])]
    return node.result("Slice", [node.inputs[0], *bounds])


@exporter("slice")
def slice_(node: NodeExport) -> Tensor:
    begins, ends, steps = node.attrs["begin"], node.attrs["end"], node.attrs["step"]
    steps = (*steps, *[None] * (len(begins) - len(steps)))
    bounds = [slice_bounds(*each) for each in zip(node.inputs[0].shape, begins, ends, steps, strict=False)]
    starts = [start for start, _, _ in bounds]
    stops = [_TO_THE_START if stop < 0 else stop for _, stop, _ in bounds]  # Python's -1: the first element included
    columns = [starts, stops, range(len(bounds)), [step for _, _, step in bounds]]
    return node.result("Slice", [node.inputs[0], *map(node.integers, columns)])


@exporter("reverse")
def reverse(node: NodeExport) -> Tensor:
    axes = [node.axis(axis) for axis in node.attrs["axis"]]
    bounds = [[-1] * len(axes), [_TO_THE_START] * len(axes), axes, [-1] * len(axes)]
    return node.result("Slice", [node.inputs[0], *map(node.integers, bounds)])


@exporter("tile")
def tile(node: NodeExport) -> Tensor:
    data, reps = node.inputs[0].shape, node.attrs["reps"]
    rank = len(node.out_shapes[0])
    sizes = (1,) * (rank - len(data)) + data
    times = (1,) * (rank - len(reps)) + tuple(reps)
    pairs = list(zip(times, sizes, strict=True))
    return _stretch(node, [part for _, size in pairs for part in (1, size)], [part for pair in pairs for part in pair])


@exporter("repeat")
def repeat(node: NodeExport) -> Tensor:
    data, times, axis = node.inputs[0].shape, node.attrs["repeats"], node.attrs["axis"]
    if axis is None:
        data, axis = (math.prod(data),), 0
    axis = node.axis(axis, len(data))
    before, after = data[: axis + 1], data[axis + 1 :]
    return _stretch(node, (*before, 1, *after), (*before, times, *after))


def _stretch(node: NodeExport, thin: Sequence[int], wide: Sequence[int]) -> Tensor:
    """The input as ``thin``, repeated along its axes of length 1 to ``wide``, which is merged to the output's shape.
    All three steps have gradients, where the standard Tile has none."""
    data = node.reshape(node.inputs[0], thin)
    if tuple(thin) == tuple(wide):
        return node.reshape(data, node.out_shapes[0])
    repeated = node.op("Expand", [data, node.integers(wide)], tuple(wide))
    return node.reshape(repeated, node.out_shapes[0])


@exporter("broadcast_to", "broadcast_axis")
def broadcast(node: NodeExport) -> Tensor:
    return node.result("Expand", [node.inputs[0], node.integers(node.out_shapes[0])])
