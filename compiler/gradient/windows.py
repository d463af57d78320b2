"""Gradients of convolutions and pooling. Convolution and its transpose are each other's gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from bucketmod.compiler.gradient.emitter import Emitter
from bucketmod.compiler.graph.shapes import attributes
from bucketmod.compiler.program import DOMAIN

_SHAPE_OF_WINDOWS = ("dilations", "group", "kernel_shape", "pads", "strides")


def _options(node: NodeProto, rank: int) -> dict:
    given = attributes(node)
    defaults = {"dilations": [1] * rank, "strides": [1] * rank, "pads": [0] * (2 * rank)}
    return {**defaults, **{name: given[name] for name in _SHAPE_OF_WINDOWS if name in given}}


def _bias(node: NodeProto, gradient: str, wanted: Sequence[bool], rank: int, emit: Emitter) -> list[str]:
    if len(node.input) < 3:
        return []
    axes = [0, *range(2, rank + 2)]
    sums = emit.op("ReduceSum", [gradient, emit.constant(axes, np.int64)], keepdims=0) if wanted[2] else ""
    return [sums]


def conv(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    x, weight = node.input[:2]
    image, filters, made = (emit.types[name].shape for name in (x, weight, node.output[0]))
    rank = len(image) - 2
    options = {**_options(node, rank), "kernel_shape": list(filters[2:])}
    result = ["", ""]
    if wanted[0]:
        # What the last windows leave over at the end of the image.
        rest = []
        for axis in range(rank):
            padded = image[axis + 2] + options["pads"][axis] + options["pads"][axis + rank]
            reach = (filters[axis + 2] - 1) * options["dilations"][axis] + 1
            rest.append(padded - (made[axis + 2] - 1) * options["strides"][axis] - reach)
        result[0] = emit.op("ConvTranspose", [gradients[0], weight], output_padding=rest, **options)
    if wanted[1]:
        shape = emit.constant(filters, np.int64)
        result[1] = emit.op("ConvWeightGrad", [x, gradients[0], shape], DOMAIN, **options)
    return [*result, *_bias(node, gradients[0], wanted, rank, emit)]


def conv_transpose(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    x, weight = node.input[:2]
    filters = emit.types[weight].shape
    rank = len(filters) - 2
    options = {**_options(node, rank), "kernel_shape": list(filters[2:])}
    result = ["", ""]
    if wanted[0]:
        result[0] = emit.op("Conv", [gradients[0], weight], **options)
    if wanted[1]:
        shape = emit.constant(filters, np.int64)
        result[1] = emit.op("ConvWeightGrad", [gradients[0], x, shape], DOMAIN, **options)
    return [*result, *_bias(node, gradients[0], wanted, rank, emit)]


def max_pool(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """The first value of a window that is its maximum gets the gradient, as in MXNet."""
    options = _options(node, len(emit.types[node.input[0]].shape) - 2)
    return [emit.op("MaxPoolGrad", [gradients[0], node.input[0], node.output[0]], DOMAIN, **options)]


def average_pool(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    shape = emit.types[node.input[0]].shape
    options = _options(node, len(shape) - 2)
    options["count_include_pad"] = attributes(node).get("count_include_pad", 0)
    return [emit.op("AveragePoolGrad", [gradients[0], emit.constant(shape, np.int64)], DOMAIN, **options)]


def global_average_pool(
    node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter
) -> Sequence[str]:
    given = emit.types[node.input[0]]
    share = emit.number_like(node.input[0], given.shape[0] * given.shape[1] / given.size)
    shape = emit.constant(given.shape, np.int64)
    return [emit.op("Expand", [emit.op("Mul", [gradients[0], share]), shape])]
