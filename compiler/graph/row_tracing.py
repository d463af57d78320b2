"""Sees through cutting and joining of rows: where each row of a tensor comes from.

Exporters put the gates of a weight into ONNX's order with slices; putting them back into ours often gives the weight
that they started from.
"""

from __future__ import annotations

from dataclasses import dataclass

from bucketmod.compiler.graph.graph import Graph


@dataclass(frozen=True)
class Rows:
    """Rows ``start`` to ``stop`` of a tensor, along its first axis."""

    source: str
    start: int
    stop: int


def trace_rows(graph: Graph, tensor: str) -> list[Rows]:
    """The pieces that the tensor is put together from, in order; at worst itself."""
    node, index = graph.slot(tensor)
    if node is not None and node.op == "Identity":
        return trace_rows(graph, node.inputs[0])
    if node is not None and node.op == "Concat" and int(node.attributes["axis"]) in (0, -len(graph.shape(tensor))):
        return _merged([piece for name in node.inputs for piece in trace_rows(graph, name)])
    if node is not None and node.op == "Split" and int(node.attributes.get("axis", 0)) == 0:
        sizes = [graph.shape(name)[0] for name in node.outputs]
        start = sum(sizes[:index])
        return cut_rows(trace_rows(graph, node.inputs[0]), start, start + sizes[index])
    if node is not None and node.op == "Slice":
        first = _start_of_slice(graph, node.inputs)
        if first is not None:
            return cut_rows(trace_rows(graph, node.inputs[0]), first, first + graph.shape(tensor)[0])
    return [Rows(tensor, 0, graph.shape(tensor)[0] if graph.shape(tensor) else 0)]


def cut_rows(pieces: list[Rows], start: int, stop: int) -> list[Rows]:
    """Rows ``start`` to ``stop`` of what the pieces make."""
    cut, place = [], 0
    for piece in pieces:
        size = piece.stop - piece.start
        first, last = max(start - place, 0), min(stop - place, size)
        if first < last:
            cut.append(Rows(piece.source, piece.start + first, piece.start + last))
        place += size
    return cut


def whole_source(graph: Graph, pieces: list[Rows]) -> str | None:
    """The tensor that the pieces are all rows of, in order; None when they are anything else."""
    pieces = _merged(pieces)
    if len(pieces) != 1 or (pieces[0].start, pieces[0].stop) != (0, graph.shape(pieces[0].source)[0]):
        return None
    return pieces[0].source


def _merged(pieces: list[Rows]) -> list[Rows]:
    merged: list[Rows] = []
    for piece in pieces:
        if merged and merged[-1].source == piece.source and merged[-1].stop == piece.start:
            merged[-1] = Rows(piece.source, merged[-1].start, piece.stop)
        else:
            merged.append(piece)
    return merged


def _start_of_slice(graph: Graph, inputs: list[str]) -> int | None:
    """First row of a Slice along axis 0 alone, one row after the other; None for any other Slice."""
    bounds = [graph.constant(name) for name in inputs[1:]]
    if len(bounds) < 3 or any(b is None or b.size != 1 for b in bounds):
        return None
    start, _, axis, *step = (int(b.reshape(-1)[0]) for b in bounds if b is not None)
    rows, rank = graph.shape(inputs[0])[0], len(graph.shape(inputs[0]))
    if axis % rank != 0 or step not in ([], [1]):
        return None
    return min(max(start + rows if start < 0 else start, 0), rows)
