"""The two parts of a training program: forward nodes come first, backward nodes are marked."""

from __future__ import annotations

from onnx import NodeProto

BACKWARD = "backward"  # doc_string of a backward node


def is_backward(node: NodeProto) -> bool:
    """Whether a node of a training program runs after the outputs are there."""
    return node.doc_string == BACKWARD
