"""Normalisation of channels over a batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import FUNCTION_DOMAIN, NodeExport, exporter


@exporter("BatchNorm")
def batch_norm(node: NodeExport) -> list[Tensor]:
    """The channels become the second axis by a reshape, wherever they are. What moves in training (the statistics, and
    gamma where it is fixed) is written by the backward pass."""
    data, gamma, beta, *moving = node.inputs
    axis = node.axis(node.attrs["axis"])
    inner = math.prod(data.shape[axis + 1 :])
    flat = (math.prod(data.shape[:axis]), data.shape[axis], *[inner] * (inner > 1))
    if node.attrs["fix_gamma"]:
        ones = node.constant(np.ones(gamma.shape))
        if node.is_train:
            node.replace(gamma, lambda _: ones)
        gamma = ones
    view = node.reshape(data, flat)
    output = node.output() if data.shape == flat else node.intermediate(flat, data.dtype)
    if node.is_train and not node.attrs["use_global_stats"]:
        statistics = _of_batch(node, [view, gamma, beta], output, moving)
    else:
        epsilon = float(node.attrs["eps"])
        node.emit("BatchNormalization", [view, gamma, beta, *moving], [output], epsilon=epsilon)
        statistics = [moving[0], moving[1]]
        if node.attrs["output_mean_var"]:
            deviation = node.op("Sqrt", [node.op("Add", [moving[1], node.constant(epsilon)])])
            statistics[1] = node.op("Reciprocal", [deviation])
    if data.shape != flat:
        output = node.result("Reshape", [output, node.integers(data.shape)])
    if not node.attrs["output_mean_var"]:
        return [output]
    blocked = [
        node.result("BlockGrad", [value], index, domain=FUNCTION_DOMAIN) for index, value in enumerate(statistics, 1)
    ]
    return [output, *blocked]


def _of_batch(node: NodeExport, inputs: list[Tensor], output: Tensor, moving: list[Tensor]) -> list[Tensor]:
    """(mean, inverse deviation); moves the moving statistics."""
    shape, dtype = moving[0].shape, moving[0].dtype
    mean, inverse, variance = (node.intermediate(shape, dtype) for _ in range(3))
    node.emit("BatchNorm", inputs, [output, mean, inverse, variance], FUNCTION_DOMAIN, epsilon=float(node.attrs["eps"]))
    momentum = float(node.attrs["momentum"])
    for state, found in zip(moving, (mean, variance), strict=True):
        node.replace(state, _moving_average(node, node.op("Mul", [found, node.constant(1 - momentum)]), momentum))
    return [mean, inverse]


def _moving_average(node: NodeExport, fresh: Tensor, momentum: float) -> Callable[[Tensor], Tensor]:
    return lambda old: node.op("Add", [node.op("Mul", [old, node.constant(momentum)]), fresh])
