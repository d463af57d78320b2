"""Which operators may work on all steps at once, and how their node on a stack [T, ...] is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bucketmod.compiler.graph.graph import Graph, Node

if TYPE_CHECKING:
    from bucketmod.compiler.graph.stacking import Stacks

# Writes the node: takes the inputs (stacks, or what all steps share), returns one stack for each output.
Plan = Callable[["Stacks", list[str]], list[str]]

_ELEMENTWISE = frozenset(
    "Abs Add And Cast Ceil Clip Div Dropout Elu Equal Erf Exp Floor Greater GreaterOrEqual HardSigmoid LeakyRelu Less "
    "LessOrEqual Log Max Min Mul Neg Not Or Pow Reciprocal Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Sub "
    "Tanh Where bucketmod::BlockGrad".split()
)
_LAST_AXES = frozenset(("Softmax", "LogSoftmax", "LayerNormalization"))
_DEFAULT_AXIS = {"Split": 0}
_RESHAPES = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))


def plan_hoist(graph: Graph, nodes: Sequence[Node], shared: Sequence[bool]) -> Plan | None:
    """None where the nodes differ in more than their inputs, or the operator can't be hoisted with these inputs.

    ``shared[i]``: input i is the same for all nodes.
    """
    if not _alike(graph, nodes):
        return None
    node = nodes[0]
    if node.op in _ELEMENTWISE:
        return _elementwise(graph, nodes, shared)
    if node.op in _LAST_AXES:
        return _on_last_axes(graph, node, shared)
    if node.op in ("Concat", "Split"):
        return _along_axis(graph, node, shared)
    if node.op in _RESHAPES and not shared[0]:
        return _reshaped(graph, node)
    if node.op == "Transpose":
        return _transposed(graph, node)
    rule = {"Gemm": _gemm, "MatMul": _matmul, "Gather": _gather, "bucketmod::SoftmaxOutput": _softmax_output}
    return rule[node.op](graph, node, shared) if node.op in rule else None


def _alike(graph: Graph, nodes: Sequence[Node]) -> bool:
    first = nodes[0]
    shapes = [graph.shapes.get(name) for name in (*first.inputs, *first.outputs)]
    types = [graph.elem_types.get(name) for name in first.inputs]
    attributes = _attributes(first)
    for node in nodes:
        if node.op != first.op or len(node.outputs) != len(first.outputs) or _attributes(node) != attributes:
            return False
        if [graph.shapes.get(name) for name in (*node.inputs, *node.outputs)] != shapes:
            return False
        if [graph.elem_types.get(name) for name in node.inputs] != types:
            return False
        if any(bool(a) != bool(b) for a, b in zip(node.outputs, first.outputs, strict=True)):
            return False
    return True


def _attributes(node: Node) -> dict[str, Any]:
    """Without the seed: each step draws its own random numbers, before as after."""
    return {k: v for k, v in node.attributes.items() if not (node.op == "Dropout" and k == "seed")}


def _write(node: Node, attributes: dict[str, Any], inputs: list[str], stacks: Stacks) -> list[str]:
    """The same operator on stacks, each output one axis deeper."""
    graph = stacks.graph
    length = _length(graph, node, inputs)
    named = [name for name in node.outputs if name]
    made = graph.add(
        node.op,
        inputs,
        [(length, *graph.shape(name)) for name in named],
        node.name,
        node.order,
        elem_types=[graph.elem_types[name] for name in named],
        attributes=attributes,
    )
    unnamed = iter(made.outputs)
    outputs = [next(unnamed) if name else "" for name in node.outputs]
    made.outputs = outputs
    return outputs


def _length(graph: Graph, node: Node, inputs: Sequence[str]) -> int:
    """T: the leading axis of an input that became a stack."""
    return next(
        graph.shape(whole)[0]
        for whole, name in zip(inputs, node.inputs, strict=True)
        if whole and len(graph.shape(whole)) == len(graph.shape(name)) + 1
    )


def _elementwise(graph: Graph, nodes: Sequence[Node], shared: Sequence[bool]) -> Plan | None:
    """Operands that vary must have every axis of the result, or the time axis would meet another one."""
    node = nodes[0]
    rank = len(graph.shape(node.outputs[0]))
    if any(not one and len(graph.shape(name)) != rank for name, one in zip(node.inputs, shared, strict=True)):
        return None
    if node.op == "Dropout":
        seeds = [n.attributes["seed"] for n in nodes if "seed" in n.attributes]
        if len(set(seeds)) != len(seeds) or not all(shared[1:]):
            return None  # one mask for all steps is not what one node on the stack would draw
    return lambda stacks, inputs: _write(node, node.attributes, inputs, stacks)


def _on_last_axes(graph: Graph, node: Node, shared: Sequence[bool]) -> Plan | None:
    if shared[0] or not all(shared[1:]):
        return None
    axis = int(node.attributes.get("axis", -1))
    rank = len(graph.shape(node.inputs[0]))
    attributes = {**node.attributes, "axis": axis if axis < 0 else axis - rank}
    return lambda stacks, inputs: _write(node, attributes, inputs, stacks)


def _along_axis(graph: Graph, node: Node, shared: Sequence[bool]) -> Plan | None:
    if node.op == "Concat" and any(shared):
        return None
    if node.op == "Split" and (shared[0] or not all(shared[1:])):
        return None
    axis = int(node.attributes.get("axis", 0))
    rank = len(graph.shape(node.outputs[0]))
    attributes = {**node.attributes, "axis": axis % rank + 1}
    return lambda stacks, inputs: _write(node, attributes, inputs, stacks)


def _reshaped(graph: Graph, node: Node) -> Plan:
    def write(stacks: Stacks, inputs: list[str]) -> list[str]:
        shape = (graph.shape(inputs[0])[0], *graph.shape(node.outputs[0]))
        return [stacks.reshape(inputs[0], shape, node.order, node.name)]

    return write


def _transposed(graph: Graph, node: Node) -> Plan:
    rank = len(graph.shape(node.inputs[0]))
    perm = node.attributes.get("perm") or list(range(rank))[::-1]

    def write(stacks: Stacks, inputs: list[str]) -> list[str]:
        return [stacks.transpose(inputs[0], [0, *(p + 1 for p in perm)], node.order, node.name)]

    return write


def _gemm(graph: Graph, node: Node, shared: Sequence[bool]) -> Plan | None:
    """All steps' rows under one another: [T * N, K] times the one weight."""
    if shared[0] or not all(shared[1:]) or node.attributes.get("transA", 0):
        return None
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = graph.shape(node.inputs[2])
        if len(bias) > 1 and bias[0] != 1:
            return None
    return _by_rows(graph, node, stacked=(0,))


def _softmax_output(graph: Graph, node: Node, shared: Sequence[bool]) -> Plan | None:
    """Only without normalization: a mean over the rows of one step is none over those of all steps."""
    get = node.attributes.get
    data, label = (graph.shape(name) for name in node.inputs)
    plain = get("normalization") in (b"null", "null") and not get("multi_output", 0) and not get("out_grad", 0)
    if any(shared) or not plain or len(data) != 2 or label != data[:1]:
        return None
    return _by_rows(graph, node, stacked=(0, 1))


def _by_rows(graph: Graph, node: Node, stacked: Sequence[int]) -> Plan:
    def write(stacks: Stacks, inputs: list[str]) -> list[str]:
        length = graph.shape(inputs[0])[0]
        flat = list(inputs)
        for i in stacked:
            shape = graph.shape(node.inputs[i])
            flat[i] = stacks.reshape(inputs[i], (length * shape[0], *shape[1:]), node.order, node.name)
        rows, columns = graph.shape(node.outputs[0])
        made = graph.add(
            node.op, flat, [(length * rows, columns)], node.name, node.order, attributes=node.attributes
        )
        return [stacks.reshape(made.outputs[0], (length, rows, columns), node.order, node.name)]

    return write


def _matmul(graph: Graph, node: Node, shared: Sequence[bool]) -> Plan | None:
    a, b = (len(graph.shape(name)) for name in node.inputs)
    one_weight = not shared[0] and shared[1] and a >= 2 and b == 2
    pairwise = not any(shared) and a == b >= 2
    if not one_weight and not pairwise:
        return None
    return lambda stacks, inputs: _write(node, node.attributes, inputs, stacks)


def _gather(graph: Graph, node: Node, shared: Sequence[bool]) -> Plan | None:
    """A look-up in one table: the places may have any shape."""
    if not shared[0] or shared[1] or int(node.attributes.get("axis", 0)) != 0:
        return None
    return lambda stacks, inputs: _write(node, node.attributes, inputs, stacks)
