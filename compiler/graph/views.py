"""Which values of which tensor a chain of reshapes, transposes and slices shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bucketmod.compiler.graph.graph import Graph, Node

# (size, stride in values): an axis is one or more of these, outermost first; those of size 1 are left out.
Factor = tuple[int, int]
Axis = tuple[Factor, ...]

_RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")


@dataclass(frozen=True)
class View:
    """Values of ``source``: the first is number ``offset``, and all are multiplied by ``factor``."""

    source: str
    offset: int
    axes: tuple[Axis, ...]
    factor: float = 1.0

    @staticmethod
    def of(name: str, shape: Sequence[int]) -> View:
        """A whole tensor."""
        strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
        return View(name, 0, tuple(merged([pair]) for pair in zip(shape, strides, strict=True)))

    def reshaped(self, shape: Sequence[int]) -> View | None:
        """None where an axis of the new shape has parts that lie in several axes of the old one."""
        left = list(merged(factor for axis in self.axes for factor in axis))
        axes = []
        for size in shape:
            axis: list[Factor] = []
            while size > 1:
                have, stride = left.pop(0)
                if size % have == 0:
                    axis.append((have, stride))
                    size //= have
                elif have % size == 0:
                    axis.append((size, stride * (have // size)))
                    left.insert(0, (have // size, stride))
                    size = 1
                else:
                    return None
            axes.append(tuple(axis))
        return replace(self, axes=tuple(axes))

    def transposed(self, order: Sequence[int]) -> View:
        return replace(self, axes=tuple(self.axes[i] for i in order))

    def cut(self, axis: int, first: int, size: int) -> View | None:
        """``size`` values along an axis, from ``first`` on; None where the axis is not one stride."""
        factors = merged(self.axes[axis])
        if len(factors) > 1:
            return None
        stride = factors[0][1] if factors else 0
        axes = list(self.axes)
        axes[axis] = merged([(size, stride)])
        return replace(self, offset=self.offset + first * stride, axes=tuple(axes))


def merged(factors: object) -> Axis:
    """The same places in as few factors as possible."""
    result: list[Factor] = []
    for size, stride in factors:  # type: ignore[attr-defined]
        if size == 1:
            continue
        if result and result[-1][1] == size * stride:
            result[-1] = (result[-1][0] * size, stride)
        else:
            result.append((size, stride))
    return tuple(result)


def trace(graph: Graph, tensor: str, scaled: bool = False) -> View:
    """The tensor as a view of the earliest one that shows it; ``scaled``: also through products with a number, of
    tensors that nothing else reads."""
    node = graph.producer(tensor)
    whole = View.of(tensor, graph.shape(tensor))
    if node is None or not node.inputs:
        return whole
    number = scalar_factor(graph, node) if scaled and graph.readers(tensor)[1:] == [] else None
    if number is not None:
        name, factor = number
        if graph.shape(name) != graph.shape(tensor):
            return whole
        found = trace(graph, name, scaled)
        return replace(found, factor=found.factor * factor)
    if not _may_be_view(graph, node):
        return whole
    return apply(graph, node, tensor, trace(graph, node.inputs[0], scaled)) or whole


def scalar_factor(graph: Graph, node: Node) -> tuple[str, float] | None:
    """What a node multiplies by a constant number, and the number."""
    if node.op not in ("Mul", "Div"):
        return None
    for data, other in ((0, 1), (1, 0))[: 2 if node.op == "Mul" else 1]:
        value = graph.constant(node.inputs[other])
        if value is not None and value.size == 1 and value.ndim <= len(graph.shape(node.inputs[data])):
            number = float(value.reshape(()))
            if node.op == "Div" and number == 0:
                return None
            return node.inputs[data], number if node.op == "Mul" else 1 / number
    return None


def _may_be_view(graph: Graph, node: Node) -> bool:
    if node.op in ("Split", "Slice", "Gather"):
        return all(graph.constant(name) is not None for name in node.inputs[1:] if name)
    return node.op in (*_RESHAPES, "Transpose")


def apply(graph: Graph, node: Node, tensor: str, view: View) -> View | None:
    """The view that a node makes its output ``tensor`` of the ``view`` that its first input is."""
    given, made = graph.shape(node.inputs[0]), graph.shape(tensor)
    if node.op in _RESHAPES:
        return view.reshaped(made)
    if node.op == "Transpose":
        return view.transposed(node.attributes.get("perm") or range(len(given))[::-1])
    if node.op == "Split":
        axis = node.attributes.get("axis", 0) % len(given)
        parts = [graph.shape(name)[axis] if name in graph.shapes else None for name in node.outputs]
        before = parts[: node.outputs.index(tensor)]
        return None if None in before else view.cut(axis, sum(p or 0 for p in before), made[axis])
    if node.op == "Gather":
        index = graph.constant(node.inputs[1])
        axis = node.attributes.get("axis", 0) % len(given)
        if index is None or index.ndim:
            return None
        found = view.cut(axis, int(index) % given[axis], 1)
        return found and found.reshaped(made)
    if node.op == "Slice":
        return _slice(graph, node, view, given, made)
    return None


def _slice(graph: Graph, node: Node, view: View, given: Sequence[int], made: Sequence[int]) -> View | None:
    values = [graph.constant(name) if name else None for name in node.inputs[1:]]
    starts, axes = values[0], values[2] if len(values) > 2 else None
    steps = values[3] if len(values) > 3 else None
    if starts is None or (steps is not None and np.any(steps != 1)):
        return None
    found: View | None = view
    for number, start in enumerate(starts):
        axis = int(axes[number]) % len(given) if axes is not None else number
        first = max(0, int(start) + given[axis]) if start < 0 else min(int(start), given[axis])
        if made[axis] != given[axis]:
            found = found and found.cut(axis, first, made[axis])
    return found
