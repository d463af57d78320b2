"""Which tensors carry gradients: they depend on what is differentiated, and something differentiable reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from onnx import NodeProto

from bucketmod.compiler.graph.shapes import TensorType, attributes
from bucketmod.compiler.program import DOMAIN

LOSS_HEADS = (
    "SoftmaxOutput", "MakeLoss", "LinearRegressionOutput", "MAERegressionOutput", "LogisticRegressionOutput",
    "SVMOutput",
)  # fmt: skip

ATTENTION = ("Attention", "BiasedAttention", "MaskedAttention")  # masks are never differentiated

# Inputs through which an operator passes gradients on; an operator that is not here passes them to all float inputs.
_DIFFERENTIABLE_INPUTS: dict[tuple[str, str], tuple[int, ...]] = {
    ("", "Gather"): (0,),
    ("", "GatherElements"): (0,),
    ("", "GatherND"): (0,),
    ("", "Where"): (1, 2),
    ("", "Clip"): (0,),
    ("", "Dropout"): (0,),
    ("", "BatchNormalization"): (0, 1, 2),
    **{(DOMAIN, name): (0,) for name in LOSS_HEADS},
    **{(DOMAIN, kind + form): (0, 1, 2) for kind in ATTENTION for form in ("", "Training")},
    # Constant almost everywhere, or blocked on purpose.
    (DOMAIN, "BlockGrad"): (),
    **{("", name): () for name in ("Sign", "Floor", "Ceil", "Round")},
}


def differentiable_inputs(node: NodeProto) -> list[int]:
    """Positions of the inputs that can get a gradient from this node."""
    if node.domain == DOMAIN and attributes(node).get("joint"):
        return [0]  # attention whose q, k and v are one tensor: its gradient is one too
    slots = _DIFFERENTIABLE_INPUTS.get((node.domain, node.op_type), range(len(node.input)))
    return [slot for slot in slots if slot < len(node.input) and node.input[slot]]


def is_loss_head(node: NodeProto) -> bool:
    """Whether the node makes a gradient of its own and ignores the one that comes from behind it, as MXNet's do.

    SoftmaxOutput with ``out_grad`` is none: it multiplies by the incoming gradient, and nothing comes of nothing.
    """
    if node.domain != DOMAIN or node.op_type not in LOSS_HEADS:
        return False
    return node.op_type != "SoftmaxOutput" or not attributes(node).get("out_grad")


@dataclass(frozen=True)
class Activity:
    """``tensors`` get a gradient; ``nodes`` (positions in the graph) pass one on or make one."""

    tensors: frozenset[str]
    nodes: frozenset[int]


def find_activity(
    nodes: Sequence[NodeProto], types: Mapping[str, TensorType], outputs: Collection[str], wrt: Collection[str]
) -> Activity:
    """Walks forward for what depends on ``wrt`` and backward for what the heads and ``outputs`` depend on.

    Every loss head of the graph counts, also one whose output goes nowhere but through a BlockGrad: so it is in MXNet.
    """
    dependent = {name for name in wrt if types[name].is_float}
    for node in nodes:
        if any(node.input[slot] in dependent for slot in differentiable_inputs(node)) and not is_loss_head(node):
            dependent.update(name for name in node.output if name and name in types and types[name].is_float)
    reached = {name for name in outputs if name in dependent}
    active: set[int] = set()
    for position in range(len(nodes) - 1, -1, -1):
        node = nodes[position]
        slots = [slot for slot in differentiable_inputs(node) if node.input[slot] in dependent]
        if slots and (is_loss_head(node) or any(name in reached for name in node.output)):
            active.add(position)
            reached.update(node.input[slot] for slot in slots)
    return Activity(frozenset(reached), frozenset(active))
