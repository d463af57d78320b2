"""The graph behind symbols: nodes that point at their inputs. Shared between symbols, never changed by operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bucketmod.base import OperatorError
from bucketmod.operators import OpDef

Entry = tuple["Node", int]


class Node:
    """An operator applied to entries, or a variable (``op`` is None).

    ``attrs``: attributes as text, parameters of the operator and ``__hidden__`` ones together.
    ``inputs``: (node, index of its output), the arguments of the operator and then its auxiliary states.
    """

    __slots__ = ("op", "name", "attrs", "inputs", "_parsed", "__weakref__")

    def __init__(self, op: OpDef | None, name: str, attrs: dict[str, str], inputs: list[Entry]) -> None:
        self.op = op
        self.name = name
        self.attrs = attrs
        self.inputs = inputs
        self._parsed: Mapping[str, Any] | None = None

    @property
    def is_variable(self) -> bool:
        return self.op is None

    @property
    def op_name(self) -> str:
        """Name of the operator as in MXNet's files; ``null`` for a variable."""
        return "null" if self.op is None else self.op.name

    @property
    def parsed(self) -> Mapping[str, Any]:
        """The operator's attributes as values, defaults included. Raises OperatorError naming this node."""
        if self._parsed is None:
            if self.op is None:
                raise TypeError(f"variable {self.name!r} has no operator attributes")
            try:
                self._parsed = self.op.parse(self.attrs)
            except OperatorError as error:
                raise OperatorError(f"node {self.name!r}: {error}") from None
        return self._parsed

    @property
    def num_outputs(self) -> int:
        """Outputs, those that users do not see included."""
        return 1 if self.op is None else len(self.op.outputs_of(self.parsed))

    @property
    def visible_outputs(self) -> int:
        return 1 if self.op is None else self.op.visible_of(self.parsed)

    @property
    def input_names(self) -> list[str]:
        """The operator's names of its inputs, auxiliary states last."""
        return [] if self.op is None else [*self.op.inputs_of(self.parsed), *self.op.auxiliary]

    def output_name(self, index: int) -> str:
        """As ``list_outputs`` shows it: ``fc1_output``; the name itself for a variable."""
        if self.op is None:
            return self.name
        suffix = self.op.outputs_of(self.parsed)[index]
        return f"{self.name}_{suffix}" if self.name else suffix

    def __repr__(self) -> str:
        return f"<Node {self.op_name} {self.name!r}>"


def topological_nodes(outputs: Iterable[Entry]) -> list[Node]:
    """All nodes behind these entries, inputs first: depth first, left to right, each once. Walks without recursion."""
    order: list[Node] = []
    seen: set[Node] = set()
    for head, _ in outputs:
        if head in seen:
            continue
        seen.add(head)
        stack = [(head, iter(head.inputs))]
        while stack:
            node, rest = stack[-1]
            for child, _ in rest:
                if child not in seen:
                    seen.add(child)
                    if child.inputs:
                        stack.append((child, iter(child.inputs)))
                        break
                    order.append(child)
            else:
                order.append(node)
                stack.pop()
    return order


def copy_graph(outputs: Iterable[Entry], replace: Mapping[Node, Entry] | None = None) -> list[Entry]:
    """Fresh nodes for these entries; a node in ``replace`` gives way to the entry found there (which is not copied)."""
    outputs = list(outputs)
    new: dict[Node, Node | Entry] = dict(replace or {})

    def entry(old: Entry) -> Entry:
        found = new[old[0]]
        return found if isinstance(found, tuple) else (found, old[1])

    for node in topological_nodes(outputs):
        if node not in new:
            new[node] = Node(node.op, node.name, dict(node.attrs), [entry(e) for e in node.inputs])
    return [entry(e) for e in outputs]


def auxiliary_nodes(nodes: Iterable[Node]) -> set[Node]:
    """The variables among the inputs that some operator keeps as auxiliary states."""
    found: set[Node] = set()
    for node in nodes:
        if node.op is not None and node.op.auxiliary:
            found.update(child for child, _ in node.inputs[-len(node.op.auxiliary) :])
    return found
