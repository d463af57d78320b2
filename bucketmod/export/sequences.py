"""Sequences of their own lengths: by comparing every step's number with the lengths, or by gathering steps."""

from __future__ import annotations

import numpy as np

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import BOOL, INT64, NodeExport, exporter


def _steps_and_lengths(node: NodeExport) -> tuple[Tensor, Tensor]:
    """Numbers of the steps and lengths of the sequences, int64, as they broadcast with the first two axes of data."""
    time = node.attrs["axis"]
    steps = np.arange(node.inputs[0].shape[time])
    numbers = node.integers(steps[:, None] if time == 0 else steps[None])
    lengths = node.cast(node.inputs[1], INT64)
    return numbers, node.reshape(lengths, (1, lengths.shape[0]) if time == 0 else (lengths.shape[0], 1))


def _spread(node: NodeExport, flags: Tensor) -> Tensor:
    """Flags of steps with axes for the rest of data."""
    return node.reshape(flags, (*flags.shape, *[1] * (len(node.inputs[0].shape) - 2)))


@exporter("SequenceMask")
def sequence_mask(node: NodeExport) -> Tensor:
    data = node.inputs[0]
    if not node.attrs["use_sequence_length"]:
        return data
    inside = node.op("Less", [*_steps_and_lengths(node)], data.shape[:2], BOOL)
    return node.result("Where", [_spread(node, inside), data, node.constant(node.attrs["value"])])


@exporter("SequenceLast")
def sequence_last(node: NodeExport) -> Tensor:
    """The step whose number is the length - 1, or the last one of all."""
    data, time = node.inputs[0], node.attrs["axis"]
    if not node.attrs["use_sequence_length"]:
        bounds = [[data.shape[time] - 1], [data.shape[time]], [time]]
        shape = tuple(1 if axis == time else n for axis, n in enumerate(data.shape))
        return node.reshape(node.op("Slice", [data, *map(node.integers, bounds)], shape), node.out_shapes[0])
    numbers, lengths = _steps_and_lengths(node)
    last = node.op("Sub", [lengths, node.integers(1)])
    chosen = node.op("Equal", [numbers, last], data.shape[:2], BOOL)
    alone = node.op("Where", [_spread(node, chosen), data, node.constant(0)], data.shape, data.dtype)
    return node.result("ReduceSum", [alone, node.integers([time])], keepdims=0)


@exporter("SequenceReverse")
def sequence_reverse(node: NodeExport) -> Tensor:
    """Rows (step, sequence) gathered by number: step t comes from length - 1 - t, or from t behind the length."""
    data, time = node.inputs[0], node.attrs["axis"]
    if time != 0:
        node.refuse("axis=1 (MXNet has axis 0 only)")
    steps, batch, *rest = data.shape
    if not node.attrs["use_sequence_length"]:
        bounds = [[-1], [np.iinfo(np.int64).min], [0], [-1]]
        return node.result("Slice", [data, *map(node.integers, bounds)])
    numbers, lengths = _steps_and_lengths(node)
    turned = node.op("Sub", [node.op("Sub", [lengths, node.integers(1)]), numbers], (steps, batch))
    inside = node.op("Less", [numbers, lengths], (steps, batch), BOOL)
    source = node.op("Where", [inside, turned, numbers], (steps, batch), INT64)
    columns = node.integers(np.arange(batch)[None])
    rows = node.op("Add", [node.op("Mul", [source, node.integers(batch)]), columns])
    width = int(np.prod(rest, dtype=np.int64))
    flat = node.reshape(data, (steps * batch, width))
    gathered = node.op("Gather", [flat, rows], (steps, batch, width), data.dtype, axis=0)
    return node.reshape(gathered, data.shape)
