"""Shapes and element types of a whole graph, found from what is known of some of it, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from bucketmod.base import DTYPE_NAMES, OperatorError, ShapeError
from bucketmod.operators import OpDef
from bucketmod.operators.parameters import read_dims
from bucketmod.operators.shapes import Shape, complete, unify
from bucketmod.operators.types import unify as unify_types
from bucketmod.symbol.graph import Node

Values = dict[Node, list[Any]]
Rule = Callable[[Mapping[str, Any], list[Any], list[Any]], None]


def infer_shapes(nodes: Sequence[Node], given: Mapping[str, Shape]) -> dict[Node, list[Shape]]:
    """Shapes of every output of every node, as far as they are determined.

    ``nodes`` in topological order; ``given``: shapes of variables by name. Variables' own ``__shape__`` count
    where no complete shape is given.
    Raises ShapeError naming the node where shapes contradict each other.
    """

    def start(node: Node) -> Shape:
        known, declared = given.get(node.name), node.attrs.get("__shape__")
        if declared is None or complete(known):
            return known
        try:
            return _declared_shape(declared) or known
        except ValueError:
            raise ShapeError(f"variable {node.name!r}: __shape__ {declared!r} is no shape") from None

    return _propagate(nodes, start, lambda op: op.shape_rule, unify, ShapeError)


def infer_types(nodes: Sequence[Node], given: Mapping[str, str | None]) -> dict[Node, list[str | None]]:
    """Names of element types of every output of every node; as :func:`infer_shapes`, raising OperatorError."""

    def start(node: Node) -> str | None:
        known, code = given.get(node.name), node.attrs.get("__dtype__", "")
        return known or (DTYPE_NAMES.get(int(code)) if code.isdecimal() else None)

    return _propagate(nodes, start, lambda op: op.type_rule, lambda a, b: unify_types([a, b]), OperatorError)


def _declared_shape(text: str) -> Shape:
    dims = read_dims(text)
    return tuple([max(d, 0) for d in dims]) or None


def _propagate(
    nodes: Sequence[Node],
    start: Callable[[Node], Any],
    rule_of: Callable[[OpDef], Rule],
    merge: Callable[[Any, Any], Any],
    error_class: type[Exception],
) -> Values:
    """Applies its operator's rule to every node, then again wherever an input or output became better known, until
    nothing does. Sweeps go forward and backward in turn; ``merge`` lets knowledge only grow, so that this ends."""
    rules = _Rules(rule_of, merge, error_class)
    values: Values = {}
    position: dict[Node, int] = {}
    users: dict[Node, list[int]] = {}
    waiting: set[int] = set()
    for at, node in enumerate(nodes):  # the first sweep meets every node: only what became known behind it waits
        position[node], users[node] = at, []
        if node.op is None:
            values[node] = [start(node)]
            continue
        values[node] = [None] * node.num_outputs
        for changed in rules.apply(node, values):
            if changed is not node:
                waiting.update(users[changed])
                if changed.op is not None:
                    waiting.add(position[changed])
        for child, _ in node.inputs:
            users[child].append(at)
    sign = -1
    while waiting:
        heap, later = sorted([sign * i for i in waiting]), set()
        queued = waiting
        while heap:
            at = sign * heappop(heap)
            queued.discard(at)
            for changed in rules.apply(nodes[at], values):
                for i in [*users[changed], position[changed]]:
                    if i == at or i in queued or nodes[i].op is None:
                        continue
                    if sign * i > sign * at:
                        heappush(heap, sign * i)
                        queued.add(i)
                    else:
                        later.add(i)
        sign, waiting = -sign, later
    return values


class _Rules:
    """Runs the rules of nodes. What a rule makes of equal attributes and inputs is looked up: the steps of an unrolled
    graph are alike."""

    def __init__(
        self, rule_of: Callable[[OpDef], Rule], merge: Callable[[Any, Any], Any], error_class: type[Exception]
    ) -> None:
        self._rule_of, self._merge, self._error_class = rule_of, merge, error_class
        # Attributes are keyed by identity: equal ones are shared, and their nodes keep them while this object lives.
        self._found: dict[Any, tuple[list[Any], list[Any]]] = {}

    def apply(self, node: Node, values: Values) -> Sequence[Node]:
        """Updates values; the nodes of which an output became better known."""
        op, parsed, slots = node.op, node.parsed, values[node]
        assert op is not None
        known = [values[child][index] for child, index in node.inputs]
        key = (op, id(parsed), *known, *slots)
        try:
            if (found := self._found.get(key)) is None:
                found = list(known), list(slots)
                self._rule_of(op)(parsed, *found)
                self._found[key] = found
            ins, outs = found
            if ins == known and outs == slots:
                return ()
            result = [node] if _update(slots, enumerate(outs), self._merge) else []
            for (child, index), old, new in zip(node.inputs, known, ins, strict=True):
                if new != old and _update(values[child], ((index, new),), self._merge):
                    result.append(child)
            return result
        except ValueError as error:
            inputs = ", ".join([f"{child.output_name(i)} {values[child][i]}" for child, i in node.inputs]) or "none"
            raise self._error_class(
                f"operator {node.op_name} of node {node.name!r}: {error}. Inputs: {inputs}"
            ) from None


def _update(slots: list[Any], news: Iterable[tuple[int, Any]], merge: Callable[[Any, Any], Any]) -> bool:
    changed = False
    for index, new in news:
        old = slots[index]
        if new != old:
            merged = merge(old, new)
            if merged != old:
                slots[index] = merged
                changed = True
    return changed
