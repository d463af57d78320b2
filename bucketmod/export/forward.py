"""Symbol -> forward program, for one set of shapes and one mode."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bucketmod.base import MXNetError, ShapeError
from bucketmod.compiler.program import Program
from bucketmod.export.graph_writer import GraphWriter, Tensor
from bucketmod.export.registry import EXPORTERS, NodeExport
from bucketmod.operators.shapes import Shape, complete
from bucketmod.symbol.graph import Entry, Node, auxiliary_nodes, topological_nodes
from bucketmod.symbol.inference import infer_shapes, infer_types


def export_symbol(
    symbol: Any,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    data_names: Collection[str],
    label_names: Collection[str],
    state_names: Collection[str] = (),
    is_train: bool,
    dtypes: Mapping[str, Any] | None = None,
) -> Program:
    """The forward program of a Symbol.

    ``shapes``: of data, labels and states; those of the parameters are inferred (any may be given too). Every argument
    and auxiliary state of the Symbol is a graph input, used or not, in the order of ``list_arguments`` and then
    ``list_auxiliary_states``; ``*_names`` say which arguments are data, labels and states, the others are parameters.
    ``is_train``: whether Dropout is active. ``dtypes``: of inputs by name, float32 where the graph does not tell.

    Outputs are named as ``list_outputs`` names them; one that would share its name with another output or an input
    gets a number behind it. In a program for training outputs with the role "auxiliary" follow: what a step makes of
    auxiliary states, and of parameters that a node keeps at one value. Raises ShapeError when shapes disagree or are
    left open, MXNetError for two variables of one name, NotImplementedError for an operator or attribute that can't be
    exported; each names the node.
    """
    nodes = topological_nodes(symbol.outputs)
    values = _Values(nodes, shapes, dtypes or {})
    auxiliary = auxiliary_nodes(nodes)
    inputs = [node for node in nodes if node.is_variable and node not in auxiliary]
    inputs += [node for node in nodes if node in auxiliary]
    _check_names(inputs)
    roles = _roles(inputs, auxiliary, data_names, label_names, state_names)
    output_names = _output_names(symbol.outputs, {node.name for node in inputs})
    writer = GraphWriter([*roles, *output_names])
    tensors = {(node, 0): writer.input(node.name, *values.of(node)[0]) for node in inputs}
    wanted = {entry: name for entry, name in zip(symbol.outputs[::-1], output_names[::-1], strict=True)}
    streams = itertools.count()
    for node in nodes:
        if not node.is_variable:
            _export_node(node, values, tensors, writer, wanted, is_train, streams)
    _write_outputs(symbol.outputs, output_names, tensors, writer)
    states = _write_states(roles, writer)
    return Program.of(writer.model(), roles, states)


class _Values:
    """Shape and dtype of every value in the graph."""

    def __init__(self, nodes: Sequence[Node], shapes: Mapping[str, Shape], dtypes: Mapping[str, Any]) -> None:
        self._shapes = infer_shapes(nodes, shapes)
        self._types = infer_types(nodes, {name: np.dtype(dtype).name for name, dtype in dtypes.items()})

    def of(self, node: Node) -> list[tuple[tuple[int, ...], np.dtype]]:
        """(shape, dtype) of each output; ShapeError when the shape of a visible one is open."""
        found = []
        for index, (shape, dtype) in enumerate(zip(self._shapes[node], self._types[node], strict=True)):
            if not complete(shape) and index < node.visible_outputs:
                kind = "variable" if node.is_variable else f"output {index} of {node.op_name} node"
                raise ShapeError(
                    f"the shape of {kind} {node.name!r} can't be told from the shapes given (found: {shape}, 0 or "
                    "None = unknown): give the shapes of all data and labels, or declare it with Variable(shape=...)"
                )
            found.append((shape or (), np.dtype(dtype or "float32")))
        return found


def _check_names(inputs: Sequence[Node]) -> None:
    names = [node.name for node in inputs]
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise MXNetError(f"several variables are called {', '.join(map(repr, twice))}: reuse one Variable or rename")


def _roles(
    inputs: Sequence[Node],
    auxiliary: Collection[Node],
    data_names: Collection[str],
    label_names: Collection[str],
    state_names: Collection[str],
) -> dict[str, str]:
    given = {
        **dict.fromkeys(state_names, "state"),
        **dict.fromkeys(label_names, "label"),
        **dict.fromkeys(data_names, "data"),
    }
    return {n.name: "auxiliary" if n in auxiliary else given.get(n.name, "parameter") for n in inputs}


def _output_names(outputs: Sequence[Entry], taken: set[str]) -> list[str]:
    """``list_outputs``, made unique."""
    names = []
    for node, index in outputs:
        wanted = name = node.output_name(index)
        for count in itertools.count(1):
            if name not in taken:
                break
            name = f"{wanted}/{count}"
        taken.add(name)
        names.append(name)
    return names


def _export_node(
    node: Node,
    values: _Values,
    tensors: dict[Entry, Tensor],
    writer: GraphWriter,
    wanted: Mapping[Entry, str],
    is_train: bool,
    streams: Iterator[int],
) -> None:
    export = EXPORTERS.get(node.op_name)
    if export is None:
        raise NotImplementedError(f"operator {node.op_name!r}, node {node.name!r}: there is no way yet to compile it")
    outputs = []
    for index, (shape, dtype) in enumerate(values.of(node)):
        name = wanted.get((node, index)) or writer.tensor_name(node.output_name(index))
        outputs.append((name, shape, dtype))
    inputs = [tensors[entry] for entry in node.inputs]
    made = export(NodeExport(writer, node.op_name, node.name, node.parsed, inputs, outputs, is_train, streams))
    for index, tensor in enumerate(made if isinstance(made, list) else [made]):
        tensors[node, index] = tensor


def _write_outputs(
    outputs: Sequence[Entry], names: Sequence[str], tensors: Mapping[Entry, Tensor], writer: GraphWriter
) -> None:
    """Declares the outputs. A value that has another name (an input, a constant, a value that passed a node unchanged,
    one that is an output twice) goes through an Identity."""
    for (node, index), name in zip(outputs, names, strict=True):
        tensor = tensors[node, index]
        if tensor.name != name:
            named = Tensor(name, tensor.shape, tensor.dtype)
            writer.node(f"{node.name}/output", "Identity", [tensor], [named], {})
            tensor = named
        writer.output(tensor)


def _write_states(roles: Mapping[str, str], writer: GraphWriter) -> dict[str, tuple[str, str]]:
    """Declares what a step of training makes of inputs; (role, input) by name of the output."""
    states = {}
    for name, steps in writer.following.items():
        if roles.get(name) not in ("auxiliary", "parameter"):
            continue
        value = steps[0][0]
        for _, following in reversed(steps):
            value = following(value)
        made = Tensor(writer.tensor_name(f"{name}/next"), value.shape, value.dtype)
        writer.node(f"{name}/next", "Identity", [value], [made], {})
        writer.output(made)
        states[made.name] = ("auxiliary", name)
    return states
