"""Softmax and its logarithm, layer normalisation."""

from __future__ import annotations

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import NodeExport, exporter


def _softmax(node: NodeExport, op_type: str, sign: float = 1.0) -> Tensor:
    if node.attrs["use_length"]:
        node.refuse("use_length=True")
    data = node.cast(node.inputs[0], node.dtype)
    divisor = sign * (node.attrs["temperature"] or 1.0)
    if divisor != 1.0:
        data = node.op("Div", [data, node.constant(divisor)])
    return node.result(op_type, [data], axis=node.axis(node.attrs["axis"]))


@exporter("softmax")
def softmax(node: NodeExport) -> Tensor:
    return _softmax(node, "Softmax")


@exporter("softmin")
def softmin(node: NodeExport) -> Tensor:
    return _softmax(node, "Softmax", sign=-1.0)


@exporter("log_softmax")
def log_softmax(node: NodeExport) -> Tensor:
    return _softmax(node, "LogSoftmax")


@exporter("LayerNorm")
def layer_norm(node: NodeExport) -> Tensor:
    """Normalises one axis; it is moved to the end where it is not the last. Mean and 1/deviation are outputs too:
    the gradient needs them."""
    if node.attrs["output_mean_var"]:
        node.refuse("output_mean_var=True")
    data, gamma, beta = node.inputs
    rank = len(data.shape)
    axis = node.axis(node.attrs["axis"])
    perm = [a for a in range(rank) if a != axis] + [axis]
    moved = node.transpose(data, perm)
    last = axis == rank - 1
    output = node.output() if last else node.intermediate(moved.shape, data.dtype)
    statistics = [node.intermediate((*moved.shape[:-1], 1), data.dtype) for _ in range(2)]
    node.emit(
        "LayerNormalization", [moved, gamma, beta], [output, *statistics], axis=-1, epsilon=float(node.attrs["eps"])
    )
    if last:
        return output
    return node.result("Transpose", [output], perm=[perm.index(a) for a in range(rank)])
