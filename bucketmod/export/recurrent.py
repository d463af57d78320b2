"""The fused RNN operator: one recurrence for each layer and direction."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from bucketmod.export.graph_writer import Tensor
from bucketmod.export.registry import FUNCTION_DOMAIN, NodeExport, exporter

_KINDS: dict[str, tuple[str, int, dict[str, Any]]] = {  # mode -> operator, gates, attributes
    "lstm": ("LSTM", 4, {}),
    "gru": ("GRU", 3, {}),
    "rnn_tanh": ("RNN", 1, {"activation": "tanh"}),
    "rnn_relu": ("RNN", 1, {"activation": "relu"}),
}
_REFUSED = (
    "projection_size", "use_sequence_length", "lstm_state_clip_min", "lstm_state_clip_max", "lstm_state_clip_nan",
)  # fmt: skip


@dataclass(frozen=True)
class _Stack:
    """Sizes of a fused RNN."""

    layers: int
    directions: int
    gates: int
    hidden: int
    inputs: int

    def weight_shapes(self) -> list[tuple[int, int]]:
        """i2h, h2h of each layer and direction, in the order of the parameter vector."""
        rows = self.gates * self.hidden
        shapes = []
        for layer in range(self.layers):
            below = self.inputs if layer == 0 else self.hidden * self.directions
            shapes += [(rows, below), (rows, self.hidden)] * self.directions
        return shapes


@exporter("RNN")
def rnn(node: NodeExport) -> list[Tensor]:
    """Dropout acts between layers. The states [layers * directions, N, H] are cut up and put together again."""
    for name in _REFUSED:
        if node.attrs[name] not in (None, False):
            node.refuse(f"{name}={node.attrs[name]}")
    kind, gates, attributes = _KINDS[node.attrs["mode"]]
    data, parameters, *states = node.inputs
    directions = 2 if node.attrs["bidirectional"] else 1
    stack = _Stack(node.attrs["num_layers"], directions, gates, node.attrs["state_size"], data.shape[2])
    blocks = _cut_parameters(node, parameters, stack)
    state_parts = [_cut_states(node, state) for state in states]
    last_states: list[list[Tensor]] = [[] for _ in states]
    for layer in range(stack.layers):
        if layer and node.is_train and node.attrs["p"] > 0:
            data = node.dropout(data, float(node.attrs["p"]))
        sequences = []
        for direction in range(directions):
            index = layer * directions + direction
            inputs = [data, *blocks[index], *(parts[index] for parts in state_parts)]
            sequence = node.intermediate((*data.shape[:2], stack.hidden), data.dtype)
            finals = [node.intermediate(part[index].shape, data.dtype) for part in state_parts]
            node.emit(
                kind, inputs, [sequence, *finals], domain=FUNCTION_DOMAIN, hidden_size=stack.hidden, reverse=direction,
                **attributes,
            )  # fmt: skip
            sequences.append(sequence)
            for collected, final in zip(last_states, finals, strict=True):
                collected.append(final)
        data = sequences[0]
        if directions == 2:
            data = node.op("Concat", sequences, (*data.shape[:2], 2 * stack.hidden), axis=2)
    outputs = [data]
    if node.attrs["state_outputs"]:
        outputs += [_join_states(node, collected, 1 + i) for i, collected in enumerate(last_states)]
    return outputs


def _cut_parameters(node: NodeExport, vector: Tensor, stack: _Stack) -> list[list[Tensor]]:
    """[i2h_weight, h2h_weight, i2h_bias, h2h_bias] for each layer and direction.

    One Split, whose gradient is one Concat; a Slice for each block would add up gradients that are all of full length.
    """
    shapes: list[tuple[int, ...]] = list(stack.weight_shapes())
    shapes += [(stack.gates * stack.hidden,)] * len(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    parts = [node.intermediate((size,), vector.dtype) for size in sizes]
    node.emit("Split", [vector, node.integers(sizes)], parts, axis=0)
    blocks = [node.reshape(part, shape) for part, shape in zip(parts, shapes, strict=True)]
    half = len(blocks) // 2
    return [[*blocks[i : i + 2], *blocks[half + i : half + i + 2]] for i in range(0, half, 2)]


def _cut_states(node: NodeExport, state: Tensor) -> list[Tensor]:
    """[N, H] for each layer and direction; those of a constant are constants."""
    count, shape = state.shape[0], state.shape[1:]
    if state.value is not None:
        return [node.constant(part, state.dtype) for part in state.value]
    if count == 1:
        return [node.reshape(state, shape)]
    parts = [node.intermediate((1, *shape), state.dtype) for _ in range(count)]
    node.emit("Split", [state], parts, axis=0)
    return [node.reshape(part, shape) for part in parts]


def _join_states(node: NodeExport, states: list[Tensor], index: int) -> Tensor:
    if len(states) == 1:
        return node.result("Unsqueeze", [states[0], node.integers([0])], index=index)
    shape = (1, *states[0].shape)
    parts = [node.op("Unsqueeze", [state, node.integers([0])], shape) for state in states]
    return node.result("Concat", parts, index=index, axis=0)
