"""Finds single steps of LSTM, GRU and RNN cells in a graph, by dataflow alone.

A step is what a cell's call makes: products of the input and of the previous state with the weights, the gates, the
next state. Nothing is changed here. A step is reported only when nobody outside reads what happens inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bucketmod.compiler.graph.graph import Graph, Node


@dataclass(frozen=True)
class Product:
    """data[N, K] @ weight.T + bias[M], with weight[M, K], or weight[K, M] when ``turned``; ``bias`` may be ""."""

    data: str
    weight: str
    turned: bool
    bias: str

    @property
    def parameters(self) -> tuple[str, bool, str]:
        return self.weight, self.turned, self.bias


@dataclass(eq=False)
class Step:
    """One step of a cell. ``products``: the two products, for a GRU that of the input first; for the others which
    of the two is the state's is not settled yet (they are added, so a step alone does not tell)."""

    kind: str
    activation: str
    products: tuple[Product, Product]
    hidden_size: int
    last: Node
    nodes: set[Node]
    h: str
    c: str = ""
    c_previous: str = ""


def find_steps(graph: Graph) -> list[Step]:
    """All steps, in the order of the graph; those that share nodes with an earlier one are left out."""
    taken: set[Node] = set()
    steps = []
    for node in graph.nodes:
        step = _match(graph, node)
        if step is None or not taken.isdisjoint(step.nodes) or not _is_closed(graph, step):
            continue
        taken |= step.nodes
        steps.append(step)
    return steps


def _match(graph: Graph, node: Node) -> Step | None:
    if node.op == "Mul":
        return _match_lstm(graph, node)
    if node.op == "Add":
        return _match_gru(graph, node)
    if node.op in ("Tanh", "Relu"):
        return _match_rnn(graph, node)
    return None


def _is_closed(graph: Graph, step: Step) -> bool:
    """Only the new state leaves the step."""
    leaving = (step.h, step.c)
    for node in step.nodes:
        for name in node.outputs:
            if name in leaving or not name:
                continue
            if name in graph.outputs or any(reader not in step.nodes for reader in graph.readers(name)):
                return False
    return True


def _pairs(node: Node | None, op: str) -> Iterator[tuple[str, str]]:
    """The two operands of a commutative node, both ways round; nothing when it is another operator."""
    if node is not None and node.op == op:
        a, b = node.inputs
        yield a, b
        yield b, a


def _unary(graph: Graph, tensor: str, op: str) -> tuple[Node, str] | None:
    node = graph.producer(tensor)
    return (node, node.inputs[0]) if node is not None and node.op == op else None


def _gates(graph: Graph, tensor: str, count: int) -> Node | None:
    """The node that cut [N, count * H] into ``count`` gates of [N, H] of which ``tensor`` is one."""
    node = graph.producer(tensor)
    if node is None or node.op != "Split" or len(node.outputs) != count:
        return None
    shapes = [graph.shape(name) for name in node.outputs]
    axis = int(node.attributes.get("axis", 0))
    whole = graph.shape(node.inputs[0])
    if len(whole) != 2 or axis not in (1, -1) or len(set(shapes)) != 1:
        return None
    return node


def _product(graph: Graph, tensor: str) -> tuple[Node, Product] | None:
    """A Gemm that is a fully connected layer: no scaling, a whole row of bias."""
    node = graph.producer(tensor)
    if node is None or node.op != "Gemm":
        return None
    get = node.attributes.get
    if get("alpha", 1.0) != 1.0 or get("beta", 1.0) != 1.0 or get("transA", 0):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else ""
    if bias and graph.shape(bias) != (graph.shape(tensor)[1],):
        return None
    return node, Product(node.inputs[0], node.inputs[1], not get("transB", 0), bias)


def _two_products(graph: Graph, tensor: str) -> tuple[set[Node], tuple[Product, Product]] | None:
    """product + product, in the order written."""
    add = graph.producer(tensor)
    if add is None or add.op != "Add":
        return None
    first, second = (_product(graph, name) for name in add.inputs)
    if first is None or second is None or graph.shape(add.inputs[0]) != graph.shape(add.inputs[1]):
        return None
    return {add, first[0], second[0]}, (first[1], second[1])


def _match_lstm(graph: Graph, node: Node) -> Step | None:
    """h = sigmoid(o) * tanh(c)."""
    for a, b in _pairs(node, "Mul"):
        out, cell = _unary(graph, a, "Sigmoid"), _unary(graph, b, "Tanh")
        if out is None or cell is None:
            continue
        split = _gates(graph, out[1], 4)
        if split is None or split.outputs[3] != out[1]:
            continue
        update = _match_cell(graph, cell[1], split)
        sums = _two_products(graph, split.inputs[0])
        if update is None or sums is None:
            continue
        nodes, c_previous = update
        h, c = node.outputs[0], cell[1]
        if not graph.shape(c_previous) == graph.shape(c) == graph.shape(h) == graph.shape(out[1]):
            continue
        nodes |= sums[0] | {node, out[0], cell[0], split}
        return Step("LSTM", "", sums[1], graph.shape(h)[1], node, nodes, h, c, c_previous)
    return None


def _match_cell(graph: Graph, cell: str, split: Node) -> tuple[set[Node], str] | None:
    """c = sigmoid(f) * c_previous + sigmoid(i) * tanh(g): its nodes and c_previous."""
    add = graph.producer(cell)
    for kept, written in _pairs(add, "Add"):
        for i, g in _pairs(graph.producer(written), "Mul"):
            enter, candidate = _unary(graph, i, "Sigmoid"), _unary(graph, g, "Tanh")
            if enter is None or candidate is None:
                continue
            if (enter[1], candidate[1]) != (split.outputs[0], split.outputs[2]):
                continue
            for f, c_previous in _pairs(graph.producer(kept), "Mul"):
                forget = _unary(graph, f, "Sigmoid")
                if forget is not None and forget[1] == split.outputs[1]:
                    made = (add, graph.producer(kept), graph.producer(written), enter[0], candidate[0], forget[0])
                    return {n for n in made if n is not None}, c_previous
    return None


def _match_rnn(graph: Graph, node: Node) -> Step | None:
    """h = tanh(product + product), or relu."""
    sums = _two_products(graph, node.inputs[0])
    h = node.outputs[0]
    if sums is None or len(graph.shape(h)) != 2:
        return None
    return Step("RNN", node.op.lower(), sums[1], graph.shape(h)[1], node, sums[0] | {node}, h)


def _match_gru(graph: Graph, node: Node) -> Step | None:
    """h = (1 - z) * tanh(i_o + r * h_o) + z * h_previous."""
    for nodes, candidate, z, h_previous in _blends(graph, node):
        tanh = _unary(graph, candidate, "Tanh")
        if tanh is not None:
            step = _gru_step(graph, node, tanh[1], z, h_previous, nodes | {tanh[0], node})
            if step is not None:
                return step
    return None


def _blends(graph: Graph, node: Node) -> Iterator[tuple[set[Node], str, str, str]]:
    """Ways to read a sum as (1 - z) * new + z * old, or new + z * (old - new): its nodes, new, z and old."""
    for first, second in _pairs(node, "Add"):
        weighted = graph.producer(second)
        for z, old in _pairs(weighted, "Mul"):
            assert weighted is not None
            difference = graph.producer(old)
            if difference is not None and difference.op == "Sub" and difference.inputs[1] == first:
                yield {weighted, difference}, first, z, difference.inputs[0]
            fresh = graph.producer(first)
            for complement, new in _pairs(fresh, "Mul"):
                one_minus = _one_minus(graph, complement)
                if fresh is not None and one_minus is not None and one_minus[1] == z:
                    yield {weighted, fresh, *one_minus[0]}, new, z, old


def _gru_step(graph: Graph, node: Node, inner: str, z: str, h_previous: str, nodes: set[Node]) -> Step | None:
    """The gates under a blend: which of the two products is the input's, and that each gate is the right block."""
    for i_o, reset in _pairs(graph.producer(inner), "Add"):
        for r, h_o in _pairs(graph.producer(reset), "Mul"):
            i_split, h_split = _gates(graph, i_o, 3), _gates(graph, h_o, 3)
            if i_split is None or h_split is None or i_split.outputs[2] != i_o or h_split.outputs[2] != h_o:
                continue
            r_gate = _sigmoid_of_sum(graph, r, i_split.outputs[0], h_split.outputs[0])
            z_gate = _sigmoid_of_sum(graph, z, i_split.outputs[1], h_split.outputs[1])
            x_product, h_product = _product(graph, i_split.inputs[0]), _product(graph, h_split.inputs[0])
            if r_gate is None or z_gate is None or x_product is None or h_product is None:
                continue
            h = node.outputs[0]
            if h_product[1].data != h_previous or not graph.shape(h_previous) == graph.shape(h) == graph.shape(i_o):
                continue
            inside = {graph.producer(inner), graph.producer(reset), i_split, h_split, x_product[0], h_product[0]}
            nodes = nodes | r_gate | z_gate | {n for n in inside if n is not None}
            return Step("GRU", "", (x_product[1], h_product[1]), graph.shape(h)[1], node, nodes, h)
    return None


def _sigmoid_of_sum(graph: Graph, gate: str, a: str, b: str) -> set[Node] | None:
    sigmoid = _unary(graph, gate, "Sigmoid")
    add = graph.producer(sigmoid[1]) if sigmoid is not None else None
    if sigmoid is None or add is None or add.op != "Add" or sorted(add.inputs) != sorted((a, b)):
        return None
    return {sigmoid[0], add}


def _is_constant(graph: Graph, tensor: str, value: float) -> bool:
    array = graph.constant(tensor)
    return array is not None and bool(np.all(array == value))


def _one_minus(graph: Graph, tensor: str) -> tuple[set[Node], str] | None:
    """1 - z, written as 1 - z, 1 + (-z) or 1 + (-1 * z): its nodes and z."""
    node = graph.producer(tensor)
    if node is not None and node.op == "Sub" and _is_constant(graph, node.inputs[0], 1.0):
        return {node}, node.inputs[1]
    for one, negative in _pairs(node, "Add"):
        inner = graph.producer(negative)
        if node is None or inner is None or not _is_constant(graph, one, 1.0):
            continue
        if inner.op == "Neg":
            return {node, inner}, inner.inputs[0]
        for minus_one, z in _pairs(inner, "Mul"):
            if _is_constant(graph, minus_one, -1.0):
                return {node, inner}, z
    return None
