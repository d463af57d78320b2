"""Writes ONNX's own LSTM, GRU and RNN, as other exporters emit them, as the recurrences of ``bucketmod``.

Only one kind of recurrence goes on from here: one layer, one direction, gates in the order i, f, c, o or r, z, o.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from bucketmod.compiler.errors import UnsupportedOperatorError
from bucketmod.compiler.graph.graph import Graph, Node
from bucketmod.compiler.graph.row_tracing import trace_rows, whole_source
from bucketmod.compiler.program import DOMAIN, Program

# operator -> where the gates of our order stand in ONNX's (iofc, zrh)
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_DIRECTIONS = {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


def normalize_recurrences(program: Program) -> Program:
    """The same program with ``bucketmod::LSTM``, ``GRU`` and ``RNN`` in place of ONNX's; itself when it has none.

    Weights keep their layout as inputs of the program; Split and Concat put the gates into order.
    Raises UnsupportedOperatorError, naming the node, for peepholes, clipping, coupled forget gates, other activations,
    lengths per sequence, batch-major layout, and a GRU that resets before the product (linear_before_reset=0).
    """
    if not any(n.op_type in _GATES and n.domain in ("", "ai.onnx") for n in program.model.graph.node):
        return program
    graph = Graph.of(program)
    for node in [n for n in graph.nodes if n.op in _GATES]:
        _replace(graph, _read(graph, node))
    graph.drop_dead()
    return graph.to_program()


@dataclass
class _Recurrence:
    """A standard recurrence with what its node says: ``inputs`` by ONNX's names, "" where absent."""

    node: Node
    inputs: dict[str, str]
    directions: tuple[int, ...]  # 1 where time runs backwards
    activations: tuple[str, ...]  # of one direction
    length: int
    batch: int
    hidden: int

    @property
    def state_shape(self) -> tuple[int, int]:
        return self.batch, self.hidden


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read(graph: Graph, node: Node) -> _Recurrence:
    get = node.attributes.get

    def refuse(what: str) -> None:
        raise UnsupportedOperatorError(f"node {node.name!r} ({node.op}): {what} is not supported", node.name)

    inputs = dict.fromkeys(_INPUTS, "") | dict(zip(_INPUTS, node.inputs, strict=False))
    if get("layout", 0):
        refuse("layout=1 (batch first inside the operator); export with time first: layout=0")
    if get("clip") is not None:
        refuse("clip")
    if get("input_forget", 0):
        refuse("input_forget=1 (coupled gates)")
    if inputs["P"]:
        refuse("a peephole connection (input P)")
    length, batch, _ = graph.shape(inputs["X"])
    _check_lengths(graph, inputs["sequence_lens"], length, refuse)
    if node.op == "GRU" and not get("linear_before_reset", 0):
        refuse("linear_before_reset=0; export with linear_before_reset=1, as cuDNN and PyTorch compute it, where this")
    directions = _DIRECTIONS[_text(get("direction", "forward"))]
    default = _ACTIVATIONS[node.op] * len(directions)
    activations = tuple(_text(a) for a in get("activations") or default)
    if get("activation_alpha") or get("activation_beta"):
        refuse("an activation with alpha or beta")
    plain = node.op == "RNN" and set(activations) <= {"Tanh", "Relu"} and len(activations) == len(directions)
    if activations != default and not plain:
        refuse(f"activations={list(activations)}; expected {list(default)}, which")
    hidden = graph.shape(inputs["R"])[2]
    return _Recurrence(node, inputs, directions, activations, length, batch, hidden)


def _check_lengths(graph: Graph, lengths: str, length: int, refuse) -> None:
    if not lengths:
        return
    value = graph.constant(lengths)
    if value is None or np.any(value != length):
        refuse("sequence_lens; leave it out (every sequence as long as the bucket), as it")


def _replace(graph: Graph, recurrence: _Recurrence) -> None:
    node, directions = recurrence.node, recurrence.directions
    parts = {name: _parts(graph, recurrence, name) for name in ("W", "R", "B", "initial_h", "initial_c")}
    made = [_one_direction(graph, recurrence, parts, index) for index in range(len(directions))]
    graph.remove(node)
    outputs = dict(enumerate(node.outputs))
    if outputs.get(0):
        _join_sequences(graph, recurrence, [one.outputs[0] for one in made], outputs[0])
    for position in (1, 2):
        name = outputs.get(position)
        if name and (name in graph.outputs or graph.readers(name)):
            states = [one.outputs[position] for one in made]
            _join(graph, recurrence, states, 0, name, f"{node.name}_state{position}")


def _one_direction(graph: Graph, recurrence: _Recurrence, parts: dict[str, list[str]], index: int) -> Node:
    node = recurrence.node
    weights = [_regroup(graph, recurrence, parts[name][index]) for name in ("W", "R")]
    biases = _biases(graph, recurrence, parts["B"][index] if parts["B"] else "")
    names = ["initial_h", "initial_c"] if node.op == "LSTM" else ["initial_h"]
    states = [
        parts[name][index] if parts[name] else _zeros(graph, recurrence, recurrence.state_shape) for name in names
    ]
    attributes: dict[str, Any] = {"hidden_size": recurrence.hidden, "reverse": recurrence.directions[index]}
    if node.op == "RNN":
        attributes["activation"] = recurrence.activations[index].lower()
    shapes = [(recurrence.length, *recurrence.state_shape), *[recurrence.state_shape] * len(states)]
    operands = [recurrence.inputs["X"], *weights, *biases, *states]
    # the node is still there under its own name, which therefore gets a suffix with two directions only
    name = node.name if len(recurrence.directions) == 1 else f"{node.name}_direction{index}"
    return graph.add(f"{DOMAIN}::{node.op}", operands, shapes, name, node.order, attributes=attributes)


def _parts(graph: Graph, recurrence: _Recurrence, name: str) -> list[str]:
    """What belongs to each direction, without the axis of directions; nothing for an absent input."""
    tensor, order = recurrence.inputs[name], recurrence.node.order
    if not tensor:
        return []
    count, *shape = graph.shape(tensor)
    parts = _joined_parts(graph, tensor)
    if parts is not None:
        return parts
    hint = f"{recurrence.node.name}_{name}"
    pieces = [tensor]
    if count > 1:
        shapes, types = [(1, *shape)] * count, [graph.elem_types[tensor]] * count
        split = graph.add("Split", [tensor], shapes, hint, order, elem_types=types, attributes={"axis": 0})
        pieces = split.outputs
    axes = graph.add_constant([0], f"{hint}_axes")
    return [graph.add("Squeeze", [p, axes], [shape], f"{hint}_matrix", order).outputs[0] for p in pieces]


def _joined_parts(graph: Graph, tensor: str) -> list[str] | None:
    """The tensors that were given an axis of directions, and joined along it, to make this one."""
    node = graph.producer(tensor)
    rows = node.inputs if node is not None and node.op == "Concat" and int(node.attributes["axis"]) == 0 else [tensor]
    makers = [graph.producer(name) for name in rows]
    found = [m.inputs[0] for m in makers if m is not None and m.op in ("Unsqueeze", "Reshape")]
    shape = graph.shape(tensor)[1:]
    if len(found) != graph.shape(tensor)[0] or any(graph.shape(name) != shape for name in found):
        return None
    return found


def _gates(graph: Graph, recurrence: _Recurrence, tensor: str, count: int) -> list[str]:
    rows, *rest = graph.shape(tensor)
    if count == 1:
        return [tensor]
    split = graph.add(
        "Split", [tensor], [(rows // count, *rest)] * count, f"{tensor}_gates", recurrence.node.order,
        elem_types=[graph.elem_types[tensor]] * count, attributes={"axis": 0},
    )  # fmt: skip
    return split.outputs


def _in_order(graph: Graph, recurrence: _Recurrence, gates: list[str], name: str) -> str:
    """The gates in our order: the exporter's weight itself where that is the order it had."""
    pieces = [gates[place] for place in _GATES[recurrence.node.op]]
    source = whole_source(graph, [rows for piece in pieces for rows in trace_rows(graph, piece)])
    if source is not None or len(pieces) == 1:
        return source or pieces[0]
    rows, *rest = graph.shape(pieces[0])
    shape = (rows * len(pieces), *rest)
    return graph.add("Concat", pieces, [shape], name, recurrence.node.order, attributes={"axis": 0}).outputs[0]


def _regroup(graph: Graph, recurrence: _Recurrence, weight: str) -> str:
    gates = _gates(graph, recurrence, weight, len(_GATES[recurrence.node.op]))
    return _in_order(graph, recurrence, gates, f"{weight}_ordered")


def _biases(graph: Graph, recurrence: _Recurrence, bias: str) -> list[str]:
    """ONNX keeps the two biases of a direction in one row: input gates, then state gates."""
    count = len(_GATES[recurrence.node.op])
    if not bias:
        return [_zeros(graph, recurrence, (count * recurrence.hidden,))] * 2
    gates = _gates(graph, recurrence, bias, 2 * count)
    halves = gates[:count], gates[count:]
    return [_in_order(graph, recurrence, half, f"{bias}_{side}") for half, side in zip(halves, "ih", strict=True)]


def _zeros(graph: Graph, recurrence: _Recurrence, shape: tuple[int, ...]) -> str:
    dtype = helper.tensor_dtype_to_np_dtype(graph.elem_types[recurrence.inputs["X"]])
    return graph.add_constant(np.zeros(shape), f"{recurrence.node.name}_zeros", dtype)


def _join_sequences(graph: Graph, recurrence: _Recurrence, sequences: list[str], target: str) -> None:
    """Y[T, D, N, H]. Where the next node takes the axis of directions out again, it is never put in."""
    node = recurrence.node
    for reader in graph.readers(target):
        features = _without_directions(graph, recurrence, reader)
        if features is None:
            continue
        whole = sequences[0]
        if len(sequences) > 1:
            shape = graph.shape(features.outputs[0])
            joined = graph.add("Concat", sequences, [shape], f"{node.name}_joined", node.order, attributes={"axis": 2})
            whole = joined.outputs[0]
        for gone in {reader, features}:
            graph.remove(gone)
        graph.redirect(features.outputs[0], whole)
    if target in graph.outputs or graph.readers(target):
        _join(graph, recurrence, sequences, 1, target, f"{node.name}_sequence")


def _without_directions(graph: Graph, recurrence: _Recurrence, reader: Node) -> Node | None:
    """The node after which Y is [T, N, D * H]: a Squeeze, or a Transpose and a Reshape; None for anything else."""
    count = len(recurrence.directions)
    shape = (recurrence.length, recurrence.batch, count * recurrence.hidden)
    if count == 1 and reader.op in ("Squeeze", "Reshape") and graph.shape(reader.outputs[0]) == shape:
        return reader
    if reader.op != "Transpose" or list(reader.attributes.get("perm", ())) != [0, 2, 1, 3]:
        return None
    readers = graph.readers(reader.outputs[0])
    if len(readers) != 1 or reader.outputs[0] in graph.outputs or readers[0].op != "Reshape":
        return None
    return readers[0] if graph.shape(readers[0].outputs[0]) == shape else None


def _join(graph: Graph, recurrence: _Recurrence, parts: list[str], axis: int, target: str, name: str) -> None:
    """The parts side by side along a new axis, under the name that the standard operator's output had."""
    order, shape = recurrence.node.order, list(graph.shape(parts[0]))
    shape.insert(axis, 1)
    axes = graph.add_constant([axis], f"{name}_axes")
    single = len(parts) == 1
    rows = [
        graph.add(
            "Unsqueeze", [part, axes], [shape], f"{name}_row", order, outputs=[target] if single else []
        ).outputs[0]
        for part in parts
    ]  # fmt: skip
    if not single:
        shape[axis] = len(parts)
        graph.add("Concat", rows, [shape], name, order, outputs=[target], attributes={"axis": axis})
