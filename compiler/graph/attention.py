"""Finds attention, softmax(scale q k' + mask) v, however it was written, and makes one node of it.

The node reads q, k and v where a projection left them and writes the heads side by side, so the splits and transposes
around it are gone. It is found before differentiation: its gradient is one node too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from bucketmod.compiler.graph.graph import Graph, Node, Shape
from bucketmod.compiler.graph.views import View, apply, merged, scalar_factor, trace
from bucketmod.compiler.program import DOMAIN, Program

# Order of the axes in memory, from (batch, heads, rows): batch first, time first, heads first.
_ORDERS = ((0, 2, 1), (2, 0, 1), (0, 1, 2))


def find_attention(program: Program, wrt: Sequence[str] = ()) -> Program:
    """The same program with attention as ``bucketmod::Attention``, ``BiasedAttention`` (a mask is added to the scores)
    or ``MaskedAttention`` (scores are replaced); itself when it has none.

    ``wrt``: inputs that will be differentiated: a mask that depends on one of them is left alone. So is whatever has
    an intermediate result that something else reads.
    """
    if not any(node.op_type == "Softmax" for node in program.model.graph.node):
        return program
    graph = Graph.of(program)
    found = [pattern for node in graph.nodes if (pattern := _match(graph, node, set(wrt))) is not None]
    for pattern in found:
        _write(graph, pattern)
    if not found:
        return program
    graph.drop_dead()
    return graph.to_program()


@dataclass
class _Scores:
    """What a softmax is taken of: scale * q k', then the mask; with ``fill`` it says what becomes ``fill``."""

    product: Node
    scale: float = 1.0
    mask: str = ""
    masked_shape: Shape = ()  # of the scores where the mask is applied
    fill: float | None = None
    keep: bool = False  # the mask tells what is kept rather than what is replaced


@dataclass
class _Operand:
    """The rows of all heads: columns from ``column`` on of ``source``, in one of ``_ORDERS``."""

    source: str
    order: tuple[int, ...]
    shape: Shape  # of the source, [.., .., values] or, with heads first, [batch, heads, rows, values]
    column: int
    width: int


@dataclass
class _Pattern:
    scores: _Scores
    softmax: Node
    result: Node
    sizes: Shape  # batch, heads, queries, keys, size, value_size
    operands: list[_Operand]


def _match(graph: Graph, softmax: Node, wrt: set[str]) -> _Pattern | None:
    if softmax.op != "Softmax" or graph.elem_types[softmax.outputs[0]] != TensorProto.FLOAT:
        return None
    shape = graph.shape(softmax.outputs[0])
    result = _only_reader(graph, softmax.outputs[0])
    if len(shape) not in (3, 4) or softmax.attributes.get("axis", -1) not in (-1, len(shape) - 1) or 0 in shape:
        return None
    if result is None or result.op != "MatMul" or result.inputs[0] != softmax.outputs[0]:
        return None
    scores = _scores(graph, softmax.inputs[0])
    if scores is None or len(graph.shape(scores.product.inputs[0])) != len(graph.shape(scores.product.outputs[0])):
        return None
    q = trace(graph, scores.product.inputs[0], scaled=True)
    turned = trace(graph, scores.product.inputs[1], scaled=True)
    k = turned.transposed([*range(len(turned.axes) - 2), -1, -2])
    scores.scale *= q.factor * k.factor
    names = (scores.product.inputs[0], _turned_back(graph, scores.product.inputs[1]), result.inputs[1])
    leads = {graph.shape(name)[:-2] for name in (*scores.product.inputs, result.inputs[1], softmax.outputs[0])}
    if len(leads) > 1 or scores.scale == 0 or result.inputs[1] == softmax.outputs[0]:
        return None
    views = [q, k, trace(graph, result.inputs[1])]
    heads = _heads(views, shape[:-2])
    if heads is None:
        return None
    sizes = (*heads, *shape[-2:], graph.shape(scores.product.inputs[0])[-1], graph.shape(result.inputs[1])[-1])
    operands = [
        _operand(graph, name, view, (*heads, rows, size))
        for name, view, rows, size in zip(
            names, views, (sizes[2], sizes[3], sizes[3]), (sizes[4], sizes[4], sizes[5]), strict=True
        )
    ]
    if any(operand is None for operand in operands) or not _mask_fits(graph, scores, sizes, wrt):
        return None
    return _Pattern(scores, softmax, result, sizes, [o for o in operands if o is not None])


def _turned_back(graph: Graph, tensor: str) -> str:
    """The tensor before its last two axes were exchanged; "" if they were not."""
    node = graph.producer(tensor)
    rank = len(graph.shape(tensor))
    if node is None or node.op != "Transpose":
        return ""
    order = list(node.attributes.get("perm") or range(rank)[::-1])
    return node.inputs[0] if order == [*range(rank - 2), rank - 1, rank - 2] else ""


def _only_reader(graph: Graph, tensor: str) -> Node | None:
    readers = graph.readers(tensor)
    return readers[0] if len(readers) == 1 and tensor not in graph.outputs else None


def _scores(graph: Graph, tensor: str) -> _Scores | None:
    """Back from the softmax to the product, over scaling and at most one mask."""
    node = graph.producer(tensor)
    if node is None or _only_reader(graph, tensor) is None:
        return None
    if node.op == "MatMul":
        return _Scores(node)
    number = scalar_factor(graph, node)
    if number is not None and graph.shape(number[0]) == graph.shape(tensor):
        inner = _scores(graph, number[0])
        if inner is None or inner.mask:  # a mask that is scaled too
            return None
        inner.scale *= number[1]
        return inner
    if node.op == "Reshape" and graph.shape(node.inputs[0])[-2:] == graph.shape(tensor)[-2:]:
        return _scores(graph, node.inputs[0])
    for data, mask, fill, keep in _masks(graph, node):
        inner = _scores(graph, data) if graph.shape(data) == graph.shape(tensor) else None
        if inner is not None and not inner.mask:
            inner.mask, inner.fill, inner.keep, inner.masked_shape = mask, fill, keep, graph.shape(tensor)
            return inner
    return None


def _masks(graph: Graph, node: Node) -> list[tuple[str, str, float | None, bool]]:
    """Ways to read a node as a mask: scores, mask, what is filled in, whether the mask tells what is kept."""
    if node.op == "Add":
        return [(node.inputs[i], node.inputs[1 - i], None, False) for i in (0, 1)]
    if node.op == "Where":
        numbers = [graph.constant(name) for name in node.inputs[1:]]
        return [
            (node.inputs[2 - i], node.inputs[0], float(number.reshape(-1)[0]), bool(i))
            for i, number in enumerate(numbers)
            if number is not None and number.size == 1
        ]
    return []


def _heads(views: Sequence[View], lead: Shape) -> tuple[int, int] | None:
    """Batch and heads: the two leading axes, or the two parts of one; a tensor without parts has one sequence."""
    if len(lead) == 2:
        return lead[0], lead[1]
    cuts = {tuple(size for size, _ in merged(view.axes[0])) for view in views}
    pairs = {cut for cut in cuts if len(cut) == 2}
    if len(pairs) > 1 or any(len(cut) > 2 for cut in cuts):
        return None
    return pairs.pop() if pairs else (1, lead[0])  # type: ignore[return-value]


def _operand(graph: Graph, name: str, view: View, sizes: Shape) -> _Operand | None:
    """How ``sizes`` (batch, heads, rows, values) lie in the view's source, or else in the tensor itself."""
    whole = view.reshaped(sizes)
    if whole is not None:
        total = int(np.prod(graph.shape(view.source), dtype=np.int64))
        for order in _ORDERS[:2]:
            first, second = (sizes[i] for i in order[:2])
            width = total // (first * second)
            inner = (sizes[1] * sizes[3], sizes[3])  # of a row; heads lie side by side
            strides = {order[0]: second * width, order[1]: width, 1: inner[1], 3: 1}
            wanted = tuple(merged([(size, strides[axis])]) for axis, size in enumerate(sizes))
            fits = total % (first * second) == 0 and 0 <= view.offset <= width - inner[0]
            if fits and tuple(merged(axis) for axis in whole.axes) == wanted:
                return _Operand(view.source, order, (first, second, width), view.offset, inner[0])
    return _Operand(name, _ORDERS[2], sizes, 0, sizes[3]) if name and view.factor == 1 else None


def _mask_fits(graph: Graph, scores: _Scores, sizes: Shape, wrt: set[str]) -> bool:
    if not scores.mask:
        return True
    batch, heads, queries, keys = sizes[:4]
    kind = TensorProto.FLOAT if scores.fill is None else TensorProto.BOOL
    *lead, rows, columns = _mask_shape(graph, scores)
    leads = [(1, 1), (batch, 1), (1, heads), (batch, heads)] if len(lead) == 2 else [(1,), (batch * heads,)]
    fits = tuple(lead) in leads and rows in (1, queries) and columns == keys and graph.elem_types[scores.mask] == kind
    return fits and not _depends_on(graph, scores.mask, wrt)


def _mask_shape(graph: Graph, scores: _Scores) -> Shape:
    shape = graph.shape(scores.mask)
    return (*[1] * (len(scores.masked_shape) - len(shape)), *shape)


def _depends_on(graph: Graph, tensor: str, wrt: set[str]) -> bool:
    queue, seen = [tensor], {tensor}
    while queue:
        name = queue.pop()
        if name in wrt:
            return True
        node = graph.producer(name)
        new = [n for n in node.inputs if n and n not in seen] if node is not None else []
        seen.update(new)
        queue += new
    return False


def _write(graph: Graph, pattern: _Pattern) -> None:
    batch, heads, queries, keys, size, value_size = pattern.sizes
    order = pattern.result.order
    name = pattern.result.name or pattern.result.outputs[0]
    out_order, out = _output(graph, pattern)
    operands = pattern.operands
    widths = [operand.width for operand in operands]
    joint = (
        len({(o.source, o.order, o.shape) for o in operands}) == 1
        and sorted(o.column for o in operands) == [0, widths[0], 2 * widths[0]]
        and set(widths) == {operands[0].shape[-1] // 3}
    )
    inputs = [_source(graph, operand, joint, name, order) for operand in operands]
    attributes: dict[str, Any] = {"scale": pattern.scores.scale, "joint": int(joint)}
    rows = (queries, keys, keys)
    for label, operand, count, values in zip("qkv", operands, rows, (size, size, value_size), strict=True):
        first = operand.column if joint else 0
        attributes[f"{label}_columns"] = [first, first + operand.width]
        places = (batch, heads, count)
        attributes[f"{label}_shape"] = [*(places[i] for i in operand.order), values]
        attributes[f"{label}_perm"] = [*(operand.order.index(i) for i in range(3)), 3]
    attributes["out_perm"] = [*out_order, 3]
    sizes = (batch, heads, queries)
    first, second, third = (sizes[i] for i in out_order)
    shape = (first, second, third, value_size) if out_order == _ORDERS[2] else (first, second, third * value_size)
    attributes["out_shape"] = list(shape)
    op = f"{DOMAIN}::Attention"
    if pattern.scores.mask:
        inputs.append(_mask(graph, pattern.scores, (batch, heads), name, order))
        op = f"{DOMAIN}::{'BiasedAttention' if pattern.scores.fill is None else 'MaskedAttention'}"
        if pattern.scores.fill is not None:
            attributes["fill"] = pattern.scores.fill
    node = graph.add(op, inputs, [shape], name, order, attributes=attributes)
    view = _reshape(graph, node.outputs[0], graph.shape(out), name, order)
    graph.redirect(out, view)


def _reshape(graph: Graph, tensor: str, shape: Shape, name: str, order: int) -> str:
    if graph.shape(tensor) == shape:
        return tensor
    target = graph.add_constant(shape, f"{name}_shape")
    return graph.add("Reshape", [tensor, target], [shape], f"{name}_view", order).outputs[0]


def _source(graph: Graph, operand: _Operand, joint: bool, name: str, order: int) -> str:
    """What the node reads: the source in three axes (four with heads first), cut where it has more than the operand."""
    tensor = _reshape(graph, operand.source, operand.shape, name, order)
    if joint or operand.width == operand.shape[-1]:
        return tensor
    bounds = [
        graph.add_constant([value], f"{name}_{label}")
        for label, value in (("begin", operand.column), ("end", operand.column + operand.width), ("axis", 2))
    ]
    shape = (*operand.shape[:2], operand.width)
    return graph.add("Slice", [tensor, *bounds], [shape], f"{name}_part", order).outputs[0]


def _mask(graph: Graph, scores: _Scores, heads: tuple[int, int], name: str, order: int) -> str:
    """The mask as float32 [batch or 1, heads or 1, queries or 1, keys]; 1 where scores are replaced."""
    *lead, rows, columns = _mask_shape(graph, scores)
    if len(lead) == 1:
        lead = [1, 1] if lead[0] == 1 else list(heads)
    tensor = scores.mask
    if scores.fill is not None:
        shape = graph.shape(tensor)
        if scores.keep:
            tensor = graph.add("Not", [tensor], [shape], f"{name}_replaced", order).outputs[0]
        kind = TensorProto.FLOAT
        cast = graph.add("Cast", [tensor], [shape], f"{name}_mask", order, elem_types=[kind], attributes={"to": kind})
        tensor = cast.outputs[0]
    return _reshape(graph, tensor, (*lead, rows, columns), name, order)


def _output(graph: Graph, pattern: _Pattern) -> tuple[tuple[int, ...], str]:
    """The first tensor behind the product that has the heads of a row side by side, and its order; or the product."""
    batch, heads, queries, *_, value_size = pattern.sizes
    tensor = pattern.result.outputs[0]
    whole = View.of(tensor, (batch, heads, queries, value_size))
    wanted = {merged(whole.axes[i][0] for i in (*order, 3) if whole.axes[i]): order for order in _ORDERS[:2][::-1]}
    view = whole.reshaped(graph.shape(tensor))
    while view is not None:
        flat = merged(factor for axis in view.axes for factor in axis)
        if flat in wanted:
            return wanted[flat], tensor
        reader = _only_reader(graph, tensor)
        if reader is None or reader.op not in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"):
            break
        tensor = reader.outputs[0]
        view = apply(graph, reader, tensor, view)
    return _ORDERS[2], pattern.result.outputs[0]
