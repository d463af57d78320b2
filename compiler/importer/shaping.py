"""Converters of operators that move or select elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from tvm import relax

from bucketmod.compiler.importer.context import ImportContext, Node, converter, microsoft, normalize_axis
from bucketmod.compiler.lowering.calls import count_bytes
from bucketmod.runtime.memory import ALIGNMENT

op = relax.op


@converter("Reshape")
def reshape(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    source = context.shape(inputs[0])
    shape = [int(d) for d in context.array(node, 1, "the new shape")]
    if not node.attribute("allowzero", 0):
        shape = [source[i] if d == 0 else d for i, d in enumerate(shape)]
    if -1 in shape:
        known = int(np.prod([d for d in shape if d != -1]))
        shape[shape.index(-1)] = int(np.prod(source)) // max(known, 1)
    if np.prod(shape) != np.prod(source):
        raise node.fail(f"cannot reshape {source} to {tuple(shape)}")
    return context.reshape(inputs[0], shape)


@converter("Flatten")
def flatten(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    shape = context.shape(inputs[0])
    axis = node.attribute("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return context.reshape(inputs[0], (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))


@converter("Squeeze")
def squeeze(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    shape = context.shape(inputs[0])
    axes = context.optional_array(node, 1, "axes")
    drop = {normalize_axis(node, int(a), len(shape)) for a in axes} if axes is not None else None
    return context.reshape(inputs[0], [d for i, d in enumerate(shape) if (d != 1 if drop is None else i not in drop)])


@converter("Unsqueeze")
def unsqueeze(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    shape = list(context.shape(inputs[0]))
    axes = [int(a) for a in context.array(node, 1, "axes").reshape(-1)]
    rank = len(shape) + len(axes)
    for axis in sorted(normalize_axis(node, a, rank) for a in axes):
        shape.insert(axis, 1)
    return context.reshape(inputs[0], shape)


@converter("Transpose")
def transpose(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    shape = context.shape(inputs[0])
    rank = len(shape)
    perm = list(node.attribute("perm") or reversed(range(rank)))
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved == sorted(moved):  # only axes of length 1 move: the bytes stay
        return context.reshape(inputs[0], [shape[axis] for axis in perm])
    if rank >= 2 and perm == [*range(rank - 2), rank - 1, rank - 2]:
        context.transposed_from[node.outputs[0]] = node.inputs[0]
    return context.emit(op.permute_dims(inputs[0], perm))


@converter("Concat")
@microsoft("ConcatTraining")
def concat(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    if len(inputs) == 1:
        return inputs[0]
    axis = normalize_axis(node, node.attribute("axis"), len(context.shape(inputs[0])))
    result = context.emit(op.concat(inputs, axis))
    return [result, *[None] * (len(node.outputs) - 1)]


def rows(context: ImportContext, expr: Any, begin: int, end: int) -> Any:
    """``expr[begin:end]`` along the first axis: a view where the start is aligned, a copy where not."""
    shape, dtype = context.shape(expr), context.dtype(expr)
    offset = count_bytes(shape[1:], dtype) * begin
    if (begin, end) == (0, shape[0]):
        return expr
    if offset % ALIGNMENT == 0 and context.target.cpu is not None:
        view = op.memory.view(expr, shape=(end - begin, *shape[1:]), dtype=dtype, relative_byte_offset=offset)
        return context.emit(view)
    return context.emit(op.strided_slice(expr, [0], [begin], [end], assume_inbound=True))


def slice_axis(context: ImportContext, expr: Any, axis: int, begin: int, end: int) -> Any:
    shape = context.shape(expr)
    if (begin, end) == (0, shape[axis]):
        return expr
    if all(d == 1 for d in shape[:axis]):
        flat = rows(context, context.reshape(expr, shape[axis:]), begin, end)
        return context.reshape(flat, (*shape[:axis], end - begin, *shape[axis + 1 :]))
    return context.emit(op.strided_slice(expr, [axis], [begin], [end], assume_inbound=True))


@converter("Split")
@microsoft("SplitTraining")
def split(context: ImportContext, node: Node, inputs: list[Any]) -> list[Any]:
    shape = context.shape(inputs[0])
    axis = normalize_axis(node, node.attribute("axis", 0), len(shape))
    sizes = context.optional_array(node, 1, "split sizes")
    count = len(node.outputs)
    parts = [int(s) for s in sizes] if sizes is not None else [shape[axis] // count] * count
    if len(parts) != count or sum(parts) != shape[axis]:
        raise node.fail(f"cannot split {shape[axis]} elements of axis {axis} into {parts} for {count} outputs")
    ends = np.cumsum(parts)
    return [
        slice_axis(context, inputs[0], axis, int(end) - size, int(end)) if node.wants(i) else None
        for i, (end, size) in enumerate(zip(ends, parts, strict=True))
    ]


def _slice_parts(
    context: ImportContext, node: Node, first: int, shape: tuple[int, ...]
) -> list[tuple[int, int, int, int]]:
    """(axis, begin, end, step) with Python's slice rules applied; ``first``: index of the input ``starts``."""
    starts = context.array(node, first, "starts")
    ends = context.array(node, first + 1, "ends")
    axes = context.optional_array(node, first + 2, "axes")
    steps = context.optional_array(node, first + 3, "steps")
    result = []
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = normalize_axis(node, int(axes[i]) if axes is not None else i, len(shape))
        step = int(steps[i]) if steps is not None else 1
        low = -(shape[axis] + 1)
        begin, stop, step = slice(int(start), None if end <= low else int(end), step).indices(shape[axis])
        result.append((axis, begin, stop, step))
    return result


@converter("Slice")
def slice_(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    result = inputs[0]
    for axis, begin, end, step in _slice_parts(context, node, 1, context.shape(inputs[0])):
        if step == 1:
            result = slice_axis(context, result, axis, begin, max(begin, end))
        elif step == -1 and begin == context.shape(result)[axis] - 1 and end == -1:
            result = context.emit(op.flip(result, axis))
        else:
            result = context.emit(op.strided_slice(result, [axis], [begin], [end], [step]))
    return result


@microsoft("SliceGrad")
def slice_grad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    """Zeros around the incoming gradient (dY, shape, starts, ends, axes, steps)."""
    shape = tuple(int(d) for d in context.array(node, 1, "the shape"))
    pads = [0] * (2 * len(shape))
    result = inputs[0]
    for axis, begin, end, step in _slice_parts(context, node, 2, shape):
        if step == -1 and begin == shape[axis] - 1 and end == -1:
            result = context.emit(op.flip(result, axis))
        elif step == 1:
            pads[2 * axis], pads[2 * axis + 1] = begin, shape[axis] - max(begin, end)
        else:
            raise node.fail(f"the gradient of a slice with step {step} is not built")
    return context.emit(op.nn.pad(result, pads)) if any(pads) else result


@converter("Expand")
def expand(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    wanted = tuple(int(d) for d in context.array(node, 1, "the shape"))
    shape = np.broadcast_shapes(context.shape(inputs[0]), wanted)
    return inputs[0] if shape == context.shape(inputs[0]) else context.emit(op.broadcast_to(inputs[0], shape))


@converter("Tile")
def tile(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    return context.emit(op.tile(inputs[0], [int(r) for r in context.array(node, 1, "repeats")]))


@converter("Pad")
def pad(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    mode = node.attribute("mode", "constant")
    if mode != "constant":
        raise node.fail(f"mode {mode!r} is not built; only 'constant' is")
    pads = [int(p) for p in context.array(node, 1, "pads")]
    if any(p < 0 for p in pads):
        raise node.fail(f"negative pads {pads} are not built")
    value = context.optional_array(node, 2, "the value")
    rank = len(pads) // 2
    widths = [width for axis in range(rank) for width in (pads[axis], pads[axis + rank])]
    return context.emit(op.nn.pad(inputs[0], widths, pad_value=0.0 if value is None else float(value)))


@converter("GatherElements")
def gather_elements(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    axis = normalize_axis(node, node.attribute("axis", 0), len(context.shape(inputs[0])))
    return context.emit(op.gather_elements(inputs[0], inputs[1], axis))


@converter("ConstantOfShape")
def constant_of_shape(context: ImportContext, node: Node, inputs: list[Any]) -> Any:
    shape = [int(d) for d in context.array(node, 0, "the shape")]
    value = node.attribute("value")
    filler = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    return context.emit(op.full(shape, relax.const(filler.reshape(())), str(filler.dtype)))
