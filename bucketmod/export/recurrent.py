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
    data, parameters, *states = node.inputs
    gates = _KINDS[node.attrs["mode"]][1]
    directions = 2 if node.attrs["bidirectional"] else 1
    stack = _Stack(node.attrs["num_layers"], directions, gates, node.attrs["state_size"], data.shape[2])
    weights = _cut_parameters(node, parameters, stack)
    begin = list(zip(*(_cut_states(node, state) for state in states), strict=True))
    end: list[list[Tensor]] = []
    for layer in range(stack.layers):
        if layer and node.is_train and node.attrs["p"] > 0:
            data = node.dropout(data, float(node.attrs["p"]))
        part = slice(layer * directions, (layer + 1) * directions)
        data, after = _layer(node, data, weights[part], begin[part], is_last=layer == stack.layers - 1)
        end += after
    if not node.attrs["state_outputs"]:
        return [data]
    return [data, *(_join_states(node, list(state), 1 + i) for i, state in enumerate(zip(*end, strict=True)))]


def _layer(
    node: NodeExport, data: Tensor, weights: list[list[Tensor]], begin: list[tuple[Tensor, ...]], is_last: bool
) -> tuple[Tensor, list[list[Tensor]]]:
    """One recurrence for each direction, the second one backward in time. Returns the sequence [T, N, directions * H]
    and the last states of each direction."""
    kind, _, attributes = _KINDS[node.attrs["mode"]]
    hidden, out_shape = node.attrs["state_size"], node.out_shapes[0]
    whole = node.output() if is_last else node.intermediate(out_shape, data.dtype)
    sequences, end = [], []
    for direction, (blocks, states) in enumerate(zip(weights, begin, strict=True)):
        sequence = whole if len(weights) == 1 else node.intermediate((*out_shape[:2], hidden), data.dtype)
        after = [node.intermediate(state.shape, data.dtype) for state in states]
        node.emit(
            kind, [data, *blocks, *states], [sequence, *after], domain=FUNCTION_DOMAIN, hidden_size=hidden,
            reverse=direction, **attributes,
        )  # fmt: skip
        sequences.append(sequence)
        end.append(after)
    if len(weights) == 2:
        node.emit("Concat", sequences, [whole], axis=2)
    return whole, end


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
