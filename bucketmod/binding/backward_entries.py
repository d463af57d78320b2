"""What a monitor shows of a backward pass: its entries, in the order in which MXNet's engine runs the gradient graph.

Each operator has one node there, which gives what flows back into its inputs. Gradients that meet in one value are
added by a node of their own (``sum_grad``). The nodes run depth first from the gradients that are wanted, in the order
of the arguments. Gradients that are zero by construction (behind ``BlockGrad``) have no nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bucketmod.symbol.graph import Entry, Node

Edge = tuple[Node, int]  # a node and the position of one of its inputs
Term = Edge | int  # what flows back through an edge, or the gradient given for output number so-and-so

# Heads whose gradient starts in themselves, whatever is given for their output.
_LOSSES = frozenset(
    "SoftmaxOutput Softmax LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput SVMOutput MakeLoss "
    "make_loss".split()
)
_STOPS = frozenset({"BlockGrad", "stop_gradient"})
_TRANSPARENT = frozenset({"elemwise_add", "_plus", "_Plus"})  # hands on what it gets, without a node
# Operators of MXNet's older interface name what they hand back after their inputs.
_BY_INPUT = frozenset({"SliceChannel", "SwapAxis", "SequenceLast", "SequenceMask", "SequenceReverse", "MakeLoss"})


@dataclass(eq=False)
class Entries:
    """A node of the gradient graph. ``values``: name, terms that add up to the value, and the forward value that has
    its shape, for each value that it computes; ``inputs``: the nodes that run before it."""

    values: list[tuple[str, tuple[Term, ...], Entry]]
    inputs: list[Entries] = field(default_factory=list)


def _nodes_of(node: Node, incoming: list[Entries]) -> list[Entries]:
    """The nodes that stand for an operator, and for each of its inputs (in order) the one that hands back to it."""
    assert node.op is not None
    names = node.op.inputs(node.parsed)
    everything = range(len(names))

    def made(shown: dict[int, str], inputs: list[Entries]) -> Entries:
        return Entries([(name, ((node, at),), node.inputs[at]) for at, name in shown.items()], inputs)

    if node.op_name == "add_n":
        return [made({at: "output"}, incoming) for at in everything]
    if node.op_name == "batch_dot":
        return [made({at: f"{node.name}_backward_{names[at]}_output"}, incoming) for at in everything]
    if node.op_name == "where":
        rest = made({1: f"{node.name}_backward_output0", 2: f"{node.name}_backward_output1"}, incoming)
        return [made({0: f"{node.name}_cond_backward_output"}, []), rest, rest]
    if node.op_name == "pick":
        first = made({0: f"{node.name}_backward_output"}, incoming)
        return [first, made({1: f"{node.name}_index_backward_output"}, [])]
    if node.op_name in _BY_INPUT:
        shown = {at: f"{node.name}_backward_{names[at]}" for at in everything}
    else:
        shown = {at: f"{node.name}_backward_output{at if len(names) > 1 else ''}" for at in everything}
    return [made(shown, incoming)] * len(names)


def backward_entries(nodes: Sequence[Node], outputs: Sequence[Entry], wrt: Sequence[str]) -> list[Entries]:
    """The nodes of the gradient graph in the order in which they run.

    ``nodes``: the forward graph in topological order; ``wrt``: names of the variables whose gradients are wanted.
    """
    flowing: dict[Entry, list[tuple[Entries, Term]]] = {}
    for number, entry in enumerate(outputs):
        if entry[0].op_name not in _LOSSES:
            head = Entries([(f"_head_grad_{number}_id_output", (number,), entry)])
            flowing.setdefault(entry, []).append((head, number))
    for node in reversed(nodes):
        if node.is_variable or node.op_name in _STOPS:
            continue
        incoming = [_joined(flowing.get((node, index), []), (node, index)) for index in range(node.num_outputs)]
        present = [made for made in incoming if made is not None]
        if not present and node.op_name not in _LOSSES:
            continue
        made = present * 2 if node.op_name in _TRANSPARENT else _nodes_of(node, present)
        for position, back in enumerate(made):
            flowing.setdefault(node.inputs[position], []).append((back, (node, position)))
    variables = {node.name: node for node in nodes if node.is_variable}
    order = [node.name for node in nodes if node.is_variable and node.name in set(wrt)]
    ends = [_joined(flowing.get((variables[name], 0), []), (variables[name], 0)) for name in order]
    return _depth_first([end for end in ends if end is not None])


def _joined(parts: list[tuple[Entries, Term]], entry: Entry) -> Entries | None:
    """The node that gives the gradient of a value: the only one that sends some, or their sum."""
    if not parts:
        return None
    if len(parts) == 1:
        return parts[0][0]
    return Entries([("sum_grad_output", tuple(term for _, term in parts), entry)], [made for made, _ in parts])


def _depth_first(ends: Sequence[Entries]) -> list[Entries]:
    order: list[Entries] = []
    seen: set[int] = set()
    for end in ends:
        if id(end) in seen:
            continue
        seen.add(id(end))
        stack = [(end, iter(end.inputs))]
        while stack:
            current, rest = stack[-1]
            for child in rest:
                if id(child) not in seen:
                    seen.add(id(child))
                    stack.append((child, iter(child.inputs)))
                    break
            else:
                order.append(current)
                stack.pop()
    return order
