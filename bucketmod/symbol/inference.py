"""Shapes and element types of a whole graph, found from what is known of some of it, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

from bucketmod.base import DTYPE_NAMES, OperatorError, ShapeError
from bucketmod.operators.parameters import read_dims
from bucketmod.operators.shapes import Shape, complete, unify
from bucketmod.operators.types import unify as unify_types
from bucketmod.symbol.graph import Node

Values = dict[Node, list[Any]]
Rule = Callable[[Node, list[Any], list[Any]], None]


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

    def rule(node: Node, ins: list[Shape], outs: list[Shape]) -> None:
        assert node.op is not None
        node.op.shape_rule(node.parsed, ins, outs)

    return _propagate(nodes, start, rule, unify, ShapeError)


def infer_types(nodes: Sequence[Node], given: Mapping[str, str | None]) -> dict[Node, list[str | None]]:
    """Names of element types of every output of every node; as :func:`infer_shapes`, raising OperatorError."""

    def start(node: Node) -> str | None:
        known, code = given.get(node.name), node.attrs.get("__dtype__", "")
        return known or (DTYPE_NAMES.get(int(code)) if code.isdecimal() else None)

    def rule(node: Node, ins: list[str | None], outs: list[str | None]) -> None:
        assert node.op is not None
        node.op.type_rule(node.parsed, ins, outs)

    return _propagate(nodes, start, rule, lambda a, b: unify_types([a, b]), OperatorError)


def _declared_shape(text: str) -> Shape:
    dims = read_dims(text)
    return tuple([max(d, 0) for d in dims]) or None


def _propagate(
    nodes: Sequence[Node],
    start: Callable[[Node], Any],
    rule: Rule,
    merge: Callable[[Any, Any], Any],
    error_class: type[Exception],
) -> Values:
    """Applies ``rule`` to every node, then again wherever an input or output became better known, until nothing does.

    Sweeps go forward and backward in turn; ``merge`` lets knowledge only grow, so that this ends.
    """
    values: Values = {node: [start(node)] if node.op is None else [None] * node.num_outputs for node in nodes}
    position = {node: i for i, node in enumerate(nodes)}
    users: dict[Node, list[int]] = {node: [] for node in nodes}
    for i, node in enumerate(nodes):
        for child, _ in node.inputs:
            users[child].append(i)
    sign, waiting = 1, {i for i, node in enumerate(nodes) if node.op is not None}
    while waiting:
        heap, later = sorted([sign * i for i in waiting]), set()
        queued = waiting
        while heap:
            at = sign * heappop(heap)
            queued.discard(at)
            for changed in _apply(nodes[at], values, rule, merge, error_class):
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


def _apply(
    node: Node, values: Values, rule: Rule, merge: Callable[[Any, Any], Any], error_class: type[Exception]
) -> list[Node]:
    """Runs the rule of one node; the nodes of which an output became better known."""
    ins, outs = [values[child][index] for child, index in node.inputs], list(values[node])
    try:
        rule(node, ins, outs)
        changed = _update(values[node], enumerate(outs), merge)
        result = [node] if changed else []
        for (child, index), new in zip(node.inputs, ins, strict=True):
            if _update(values[child], ((index, new),), merge):
                result.append(child)
        return result
    except ValueError as error:
        inputs = ", ".join([f"{child.output_name(i)} {values[child][i]}" for child, i in node.inputs]) or "none"
        raise error_class(f"operator {node.op_name} of node {node.name!r}: {error}. Inputs: {inputs}") from None


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
