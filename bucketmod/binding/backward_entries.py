"""What a monitor shows of a backward pass: its entries, in the order in which MXNet's engine runs the gradient graph.

Each operator has one node there, which gives what flows back into its inputs. Gradients that meet in one value are
added by a node of their own (``sum_grad``). The nodes run depth first from the gradients that are wanted, in the order
of the arguments. Gradients that are zero by construction (behind ``BlockGrad``) have no nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bucketmod.symbol.graph import Entry, Node

Edge = tuple[Node, int]  # a node and the position of one of its inputs
Term = Edge | int  # what flows back through an edge, or the gradient given for output number so-and-so
Shown = tuple[str, tuple[Term, ...], tuple[int, ...]]

# Heads whose gradient starts in themselves, whatever is given for their output.
_LOSSES = frozenset(
    "SoftmaxOutput Softmax LinearRegressionOutput LogisticRegressionOutput MAERegressionOutput SVMOutput MakeLoss "
    "make_loss".split()
)
_STOPS = frozenset({"BlockGrad", "stop_gradient"})
_TRANSPARENT = frozenset({"elemwise_add", "_plus", "_Plus"})  # hands on what it gets, without a node
# Operators of MXNet's older interface name what they hand back after their inputs.
_BY_INPUT = frozenset({"SliceChannel", "SwapAxis", "SequenceLast", "SequenceMask", "SequenceReverse", "MakeLoss"})
_ONE_BY_ONE = frozenset({"batch_dot"})  # a node for each input


@dataclass(eq=False)
class Entries:
    """A node of the gradient graph: ``shown`` lists the names and terms of what it computes."""

    kind: str
    node: Node | None = None
    inputs: list[Entries] = field(default_factory=list)
    terms: tuple[Term, ...] = ()
    head: Entry | None = None

    def values(self, shapes: Mapping[Node, Sequence[tuple[int, ...] | None]]) -> Iterator[Shown]:
        """(name, terms that add up to the value, shape) of each entry."""
        if self.kind == "head":
            assert self.head is not None
            yield f"_head_grad_{self.terms[0]}_id_output", self.terms, _shape(shapes, self.head)
        elif self.kind == "sum":
            assert self.head is not None
            yield "sum_grad_output", self.terms, _shape(shapes, self.head)
        elif self.kind == "operator":
            assert self.node is not None
            yield from _operator_values(self.node, shapes)


def _shape(shapes: Mapping[Node, Sequence[tuple[int, ...] | None]], entry: Entry) -> tuple[int, ...]:
    return tuple(shapes[entry[0]][entry[1]] or ())


def _operator_values(node: Node, shapes: Mapping[Node, Sequence[tuple[int, ...] | None]]) -> Iterator[Shown]:
    assert node.op is not None
    names = node.op.inputs(node.parsed)
    for position, (name, entry) in enumerate(zip(names, node.inputs, strict=False)):
        if node.op_name == "add_n":
            shown = "output"
        elif node.op_name in _BY_INPUT:
            shown = f"{node.name}_backward_{name}"
        elif node.op_name in _ONE_BY_ONE:
            shown = f"{node.name}_backward_{name}_output"
        else:
            shown = f"{node.name}_backward_output{position if len(names) > 1 else ''}"
        yield shown, ((node, position),), _shape(shapes, entry)


def backward_entries(nodes: Sequence[Node], outputs: Sequence[Entry], wrt: Sequence[str]) -> list[Entries]:
    """The nodes of the gradient graph in the order in which they run.

    ``nodes``: the forward graph in topological order; ``wrt``: names of the variables whose gradients are wanted.
    """
    flowing: dict[Entry, list[tuple[Entries, Term]]] = {}
    for number, entry in enumerate(outputs):
        if entry[0].op_name not in _LOSSES:
            head = Entries("head", terms=(number,), head=entry)
            flowing.setdefault(entry, []).append((head, number))
    for node in reversed(nodes):
        if node.is_variable or node.op_name in _STOPS:
            continue
        incoming = [_joined(flowing.get((node, index), []), (node, index)) for index in range(node.num_outputs)]
        present = [made for made in incoming if made is not None]
        if not present and node.op_name not in _LOSSES:
            continue
        made = present[0] if node.op_name in _TRANSPARENT else Entries("operator", node, present)
        assert node.op is not None
        for position in range(len(node.op.inputs(node.parsed))):
            flowing.setdefault(node.inputs[position], []).append((made, (node, position)))
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
    return Entries("sum", inputs=[made for made, _ in parts], terms=tuple(term for _, term in parts), head=entry)


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
