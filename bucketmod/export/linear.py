"""Products of matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import NodeExport, exporter


@exporter("FullyConnected")
def fully_connected(node: NodeExport) -> Tensor:
    """One Gemm over rows: all but the first axis flattened, or (``flatten=False``) all but the last one."""
    data, weight, *bias = node.inputs
    columns = weight.shape[1]
    rows = node.reshape(data, (math.prod(data.shape) // columns, columns))
    out_shape = node.out_shapes[0]
    if len(out_shape) == 2:
        return node.result("Gemm", [rows, weight, *bias], transB=1)
    product = node.op("Gemm", [rows, weight, *bias], (rows.shape[0], weight.shape[0]), transB=1)
    return node.result("Reshape", [product, node.integers(out_shape)])


@exporter("dot")
def dot(node: NodeExport) -> Tensor:
    """The last axis of the left side times the first one of the right side, as one matrix product."""
    left, right = node.inputs
    if node.attrs["transpose_a"]:
        left = node.transpose(left, [*range(1, len(left.shape)), 0])
    if node.attrs["transpose_b"]:
        right = node.transpose(right, [len(right.shape) - 1, *range(len(right.shape) - 1)])
    left = node.reshape(left, (math.prod(left.shape[:-1]), left.shape[-1]))
    right = node.reshape(right, (right.shape[0], math.prod(right.shape[1:])))
    shape = (left.shape[0], right.shape[1])
    if node.out_shapes[0] == shape:
        return node.result("MatMul", [left, right])
    product = node.op("MatMul", [left, right], shape)
    return node.result("Reshape", [product, node.integers(node.out_shapes[0])])


@exporter("batch_dot")
def batch_dot(node: NodeExport) -> Tensor:
    def operand(data: Tensor, transposed: bool) -> Tensor:
        axes: Sequence[int] = range(len(data.shape))
        return node.transpose(data, [*axes[:-2], axes[-1], axes[-2]] if transposed else axes)

    left = operand(node.inputs[0], node.attrs["transpose_a"])
    right = operand(node.inputs[1], node.attrs["transpose_b"])
    return node.result("MatMul", [left, right])
