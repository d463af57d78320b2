"""Convolutions, pooling, up-sampling and padding of images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import NodeExport, exporter
from bucketmod.operators.windows import along


def _options(node: NodeExport) -> dict[str, Any]:
    rank = len(node.attrs["kernel"])
    if rank > 2:
        node.refuse(f"kernel={node.attrs['kernel']} ({rank} spatial axes)")
    pads = along(node.attrs, "pad", 0, rank)
    return {
        "kernel_shape": list(node.attrs["kernel"]),
        "strides": list(along(node.attrs, "stride", 1, rank)),
        "dilations": list(along(node.attrs, "dilate", 1, rank)),
        "pads": [*pads, *pads],
        "group": node.attrs["num_group"],
    }


@exporter("Convolution")
def convolution(node: NodeExport) -> Tensor:
    return node.result("Conv", node.inputs, **_options(node))


@exporter("Deconvolution")
def deconvolution(node: NodeExport) -> Tensor:
    if any(node.attrs["target_shape"]):
        node.refuse(f"target_shape={node.attrs['target_shape']} (give pad and adj)")
    options = _options(node)
    adjusted = along(node.attrs, "adj", 0, len(node.attrs["kernel"]))
    return node.result("ConvTranspose", node.inputs, output_padding=list(adjusted), **options)


@exporter("Pooling")
def pooling(node: NodeExport) -> Tensor:
    data, kind = node.inputs[0], node.attrs["pool_type"]
    rank = len(data.shape) - 2
    if rank > 2 or kind == "lp" or node.attrs["pooling_convention"] == "same":
        what = {"lp": "pool_type='lp'", "same": "pooling_convention='same'"}
        node.refuse(what.get(kind) or what.get(node.attrs["pooling_convention"], f"pooling over {rank} spatial axes"))
    if node.attrs["global_pool"]:
        return _global(node, kind)
    kernel, strides = node.attrs["kernel"], along(node.attrs, "stride", 1, rank)
    pads, places = along(node.attrs, "pad", 0, rank), node.out_shapes[0][2:]
    columns = zip(data.shape[2:], kernel, strides, pads, places, strict=True)
    ends = [max(pad, (place - 1) * stride + size - n - pad) for n, size, stride, pad, place in columns]
    options: dict[str, Any] = {"kernel_shape": list(kernel), "strides": list(strides), "pads": [*pads, *ends]}
    if kind == "max":
        return node.result("MaxPool", [data], **options)
    factor = _factor(node, kind)
    if factor is None:
        return node.result("AveragePool", [data], count_include_pad=1, **options)
    mean = node.op("AveragePool", [data], node.out_shapes[0], count_include_pad=1, **options)
    return node.result("Mul", [mean, node.constant(factor)])


def _global(node: NodeExport, kind: str) -> Tensor:
    data = node.inputs[0]
    axes = list(range(2, len(data.shape)))
    if kind == "max":  # not ReduceMax: of equal values the first one gets the gradient here
        return node.result("MaxPool", [data], kernel_shape=list(data.shape[2:]))
    if kind == "sum":
        return node.result("ReduceSum", [data, node.integers(axes)], keepdims=1)
    return node.result("ReduceMean", [data], axes=axes, keepdims=1)


def _factor(node: NodeExport, kind: str) -> np.ndarray | None:
    """What turns the mean over whole windows into MXNet's value at each place; None where they are the same.

    MXNet counts the values of a window that lie in the padded image, or with ``count_include_pad=False`` in the image.
    """
    kernel, sizes = node.attrs["kernel"], node.inputs[0].shape[2:]
    if kind == "sum":
        return np.array(math.prod(kernel))
    rank = len(kernel)
    strides, pads = along(node.attrs, "stride", 1, rank), along(node.attrs, "pad", 0, rank)
    whole = node.attrs["count_include_pad"] in (None, True)
    counts = np.ones((1,) * (rank + 2))
    for axis in range(rank):
        begin = np.arange(node.out_shapes[0][axis + 2]) * strides[axis] - pads[axis]
        end = np.minimum(begin + kernel[axis], sizes[axis] + pads[axis])
        count = end - begin if whole else np.minimum(end, sizes[axis]) - np.maximum(begin, 0)
        counts = counts * count.reshape((-1,) + (1,) * (rank - 1 - axis))
    return None if (counts == math.prod(kernel)).all() else math.prod(kernel) / counts


@exporter("UpSampling")
def up_sampling(node: NodeExport) -> Tensor:
    data, scale = node.inputs[0], node.attrs["scale"]
    batch, channels, height, width = data.shape
    wide = (batch, channels, height, scale, width, scale)
    thin = node.reshape(data, (batch, channels, height, 1, width, 1))
    return node.reshape(node.op("Expand", [thin, node.integers(wide)], wide), node.out_shapes[0])


@exporter("Pad")
def pad(node: NodeExport) -> Tensor:
    data, widths, mode = node.inputs[0], node.attrs["pad_width"], node.attrs["mode"]
    for axis in range(2, len(data.shape)):
        begin, end = widths[2 * axis], widths[2 * axis + 1]
        parts = [_border(node, data, axis, begin, mode, 0), data, _border(node, data, axis, end, mode, 1)]
        kept = [part for part in parts if part is not None]
        if len(kept) > 1:
            shape = (*data.shape[:axis], data.shape[axis] + begin + end, *data.shape[axis + 1 :])
            data = node.op("Concat", kept, shape, axis=axis)
    return data


def _border(node: NodeExport, data: Tensor, axis: int, width: int, mode: str, side: int) -> Tensor | None:
    """``width`` values to set before (``side`` 0) or behind (1) an axis."""
    if not width:
        return None
    size = data.shape[axis]
    shape = (*data.shape[:axis], width, *data.shape[axis + 1 :])
    if mode == "constant":
        return node.constant(np.full(shape, node.attrs["constant_value"]))
    if mode == "edge":
        first = (size - 1) * side
        bounds = [[first], [first + 1], [axis]]
        edge = node.op("Slice", [data, *map(node.integers, bounds)], (*shape[:axis], 1, *shape[axis + 1 :]))
        return node.op("Expand", [edge, node.integers(shape)], shape)
    if width >= size:
        node.refuse(f"mode='reflect' with a border of {width} for an axis of {size}")
    first = 1 if side == 0 else size - 1 - width
    bounds = [[first], [first + width], [axis]]
    part = node.op("Slice", [data, *map(node.integers, bounds)], shape)
    back = [[-1], [np.iinfo(np.int64).min], [axis], [-1]]
    return node.op("Slice", [part, *map(node.integers, back)], shape)


@exporter("depth_to_space")
def depth_to_space(node: NodeExport) -> Tensor:
    data, block = node.inputs[0], node.attrs["block_size"]
    batch, channels, height, width = data.shape
    split = node.reshape(data, (batch, block, block, channels // block**2, height, width))
    return node.reshape(node.transpose(split, (0, 3, 4, 1, 5, 2)), node.out_shapes[0])


@exporter("space_to_depth")
def space_to_depth(node: NodeExport) -> Tensor:
    data, block = node.inputs[0], node.attrs["block_size"]
    batch, channels, height, width = data.shape
    split = node.reshape(data, (batch, channels, height // block, block, width // block, block))
    return node.reshape(node.transpose(split, (0, 3, 5, 1, 2, 4)), node.out_shapes[0])
