"""Finds cells that were unrolled over time and writes each as the one recurrence that it is.

``cell.unroll(T)`` gives T copies of a step. Strings of equal steps (same weights, the state of one going into the next)
become one ``bucketmod::LSTM``, ``GRU`` or ``RNN`` on a tensor [T, N, I]; what was done to each step's output alone is
then done once to all of them. What fits no pattern stays unrolled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from bucketmod.compiler.graph.chains import Chain, find_chains
from bucketmod.compiler.graph.graph import Graph, Node
from bucketmod.compiler.graph.stacking import Stacks
from bucketmod.compiler.graph.standard_recurrences import normalize_recurrences
from bucketmod.compiler.graph.steps import Product, find_steps
from bucketmod.compiler.program import DOMAIN, Program

__all__ = ["find_recurrences", "normalize_recurrences"]


def find_recurrences(program: Program) -> Program:
    """The same program with unrolled cells as recurrences; ``program`` itself when it has none.

    Names, shapes and roles of its inputs and outputs stay.
    """
    graph = Graph.of(program)
    graph.bypass_no_ops()
    states = {port.name for port in program.inputs if port.role == "state"}
    chains = find_chains(graph, find_steps(graph), states)
    if not chains:
        return program
    stacks = Stacks(graph)
    last_state: dict[str, tuple[Node, int]] = {}
    stacks.kept.update(node for chain in chains for node in chain.nodes)
    for chain in chains:
        stacks.kept -= chain.nodes
        for part in _acyclic_parts(chain, stacks):
            node = _write_recurrence(graph, stacks, part)
            last_state[node.outputs[0]] = (node, 1)
        stacks.spread()  # now, so that the next layer meets this one's outputs already merged
    stacks.write_members(last_state)
    _name_outputs(graph)
    return graph.to_program()


def _acyclic_parts(chain: Chain, stacks: Stacks) -> list[Chain]:
    """The chain itself, unless an input of a step needs the outcome of an earlier one (a decoder that reads its own
    output): then its steps one by one, each of which still is a small recurrence."""
    if len(chain.steps) == 1 or not stacks.depends_on(chain.inputs, chain.nodes):
        return [chain]
    if chain.steps[0].kind == "RNN":
        return []
    return [Chain([step], chain.state) for step in chain.steps]


def _write_recurrence(graph: Graph, stacks: Stacks, chain: Chain) -> Node:
    first, last = chain.steps[0], chain.steps[-1]
    name, order = last.last.name or last.h, first.last.order
    inputs = chain.inputs
    reverse = len(inputs) > 1 and stacks.direction(inputs) == -1
    x = stacks.stack(inputs[::-1] if reverse else inputs, True, order, name)
    assert x is not None  # stack() makes one where it finds none
    product, state = first.products[1 - chain.state], first.products[chain.state]
    weights = [stacks.time_major(p.weight, int(p.turned), order, name) for p in (product, state)]
    biases = [_bias(graph, p, w, name) for p, w in zip((product, state), weights, strict=True)]
    states = [state.data, *([first.c_previous] if first.c else [])]
    for node in chain.nodes:
        graph.remove(node)
    shape = graph.shape(last.h)
    y = graph.fresh(f"{name}_sequence")
    # c is read under its old name; h under a new one until it is known whether anyone wants the last row alone
    outputs = [y, graph.fresh(f"{name}_last"), *([last.c] if last.c else [])]
    attributes: dict[str, Any] = {"hidden_size": first.hidden_size, "reverse": int(reverse)}
    if first.kind == "RNN":
        attributes["activation"] = first.activation
    shapes = [(len(inputs), *shape), *([shape] * (len(outputs) - 1))]
    op_inputs = [x, *weights, *biases, *states]
    op = f"{DOMAIN}::{first.kind}"
    node = graph.add(op, op_inputs, shapes, name, order, outputs=outputs, attributes=attributes)
    hidden = [step.h for step in chain.steps]
    stacks.register(y, hidden[::-1] if reverse else hidden)
    return node


def _bias(graph: Graph, product: Product, weight: str, name: str) -> str:
    if product.bias:
        return product.bias
    dtype = helper.tensor_dtype_to_np_dtype(graph.elem_types[weight])
    return graph.add_constant(np.zeros(graph.shape(weight)[0]), f"{name}_no_bias", dtype)


def _name_outputs(graph: Graph) -> None:
    """Takes out an Identity that only gives an output of the graph its name."""
    for node in graph.nodes:
        if node.removed or node.op != "Identity" or node.outputs[0] not in graph.outputs:
            continue
        maker, index = graph.slot(node.inputs[0])
        if maker is not None and node.inputs[0] not in graph.outputs:
            output = node.outputs[0]
            graph.remove(node)
            graph.rename_output(maker, index, output)
