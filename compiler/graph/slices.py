"""Slices that cut one tensor into pieces along one axis become one Split.

The gradient of a Slice has the size of the whole tensor, so the gradients of T slices of a sequence cost T times the
sequence; that of a Split is one Concat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from bucketmod.compiler.graph.shapes import TensorType, declared_types
from bucketmod.compiler.program import Program


@dataclass(frozen=True)
class _Piece:
    """What a Slice takes along its only axis: elements from ``begin`` to before ``end``."""

    position: int
    axis: int
    begin: int
    end: int


def split_slices(program: Program) -> Program:
    """The same function, with every group of two or more disjoint slices of a tensor along an axis made one Split.

    Needs static types and constant bounds, as after ``fold_constants``; slices with steps stay. Pieces that no slice
    takes are outputs of the Split that nobody reads.
    """
    graph = program.model.graph
    types = declared_types(graph)
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer if i.data_type == onnx.TensorProto.INT64}
    groups: dict[tuple[str, int], list[_Piece]] = {}
    for position, node in enumerate(graph.node):
        piece = _piece(position, node, types, constants)
        if piece is not None:
            groups.setdefault((node.input[0], piece.axis), []).append(piece)
    model = onnx.ModelProto()
    model.CopyFrom(program.model)
    splits: dict[int, NodeProto] = {}
    dropped: set[int] = set()
    for (tensor, axis), pieces in groups.items():
        pieces.sort(key=lambda piece: piece.begin)
        if len(pieces) > 1 and all(a.end <= b.begin for a, b in zip(pieces, pieces[1:], strict=False)):
            first, length = min(piece.position for piece in pieces), types[tensor].shape[axis]
            splits[first] = _split(model.graph, tensor, axis, length, pieces)
            dropped.update(piece.position for piece in pieces)
    del model.graph.node[:]
    for position, node in enumerate(graph.node):
        if position in splits:
            splits[position].name = node.name
        if position in splits or position not in dropped:
            model.graph.node.append(splits.get(position, node))
    return Program(model, list(program.inputs), list(program.outputs)) if splits else program


def _piece(
    position: int, node: NodeProto, types: Mapping[str, TensorType], constants: Mapping[str, np.ndarray]
) -> _Piece | None:
    if node.op_type != "Slice" or node.domain or not all(name in constants for name in node.input[1:] if name):
        return None
    given, made = types[node.input[0]].shape, types[node.output[0]].shape
    starts = constants[node.input[1]]
    axes = constants[node.input[3]] if len(node.input) > 3 and node.input[3] else np.arange(len(starts))
    steps = constants[node.input[4]] if len(node.input) > 4 and node.input[4] else np.ones(len(starts))
    cut = [axis for axis, (a, b) in enumerate(zip(given, made, strict=True)) if a != b]
    if len(cut) != 1 or not np.all(steps == 1) or not made[cut[0]]:
        return None
    axis = cut[0]
    start = next(int(s) for s, a in zip(starts, axes, strict=True) if int(a) % len(given) == axis)
    begin = max(0, start + given[axis] if start < 0 else start)
    return _Piece(position, axis, begin, begin + made[axis])


def _split(graph: onnx.GraphProto, tensor: str, axis: int, length: int, pieces: Sequence[_Piece]) -> NodeProto:
    """The node; the constant with its sizes goes to the graph. Types of pieces that nobody reads are left open."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {v.name for v in graph.input}
    stem = f"{tensor}_axis{axis}"
    while any(name.startswith(stem) for name in taken):
        stem += "_"
    outputs: list[str] = []
    sizes: list[int] = []

    def skip(end: int) -> None:
        if end > sum(sizes):
            outputs.append(f"{stem}_unread_{len(outputs)}")
            sizes.append(end - sum(sizes))

    for piece in pieces:
        skip(piece.begin)
        outputs.append(graph.node[piece.position].output[0])
        sizes.append(piece.end - piece.begin)
    skip(length)
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), f"{stem}_sizes"))
    return helper.make_node("Split", [tensor, f"{stem}_sizes"], outputs, axis=axis)
