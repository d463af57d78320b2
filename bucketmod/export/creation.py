"""Arrays that need no input: constants of the program."""

from __future__ import annotations

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import NodeExport, exporter
from bucketmod.operators.creation import arange_bounds


def _filled(node: NodeExport, value: float) -> Tensor:
    return node.constant(np.full(node.out_shapes[0], value))


@exporter("_zeros")
def zeros(node: NodeExport) -> Tensor:
    return _filled(node, 0)


@exporter("_ones")
def ones(node: NodeExport) -> Tensor:
    return _filled(node, 1)


@exporter("_full")
def full(node: NodeExport) -> Tensor:
    return _filled(node, node.attrs["value"])


@exporter("_arange")
def arange(node: NodeExport) -> Tensor:
    start, stop, step = arange_bounds(node.attrs)
    return node.constant(np.repeat(np.arange(start, stop, step), node.attrs["repeat"]))
