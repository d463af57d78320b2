"""The fused recurrent layer."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators import types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, unify, unify_dims

GATES = {"rnn_relu": 1, "rnn_tanh": 1, "lstm": 4, "gru": 3}


def parameter_size(input_size: int, state_size: int, num_layers: int, bidirectional: bool, mode: str) -> int:
    """Length of the flat parameter vector: for each layer and direction the input and the state weights of all gates,
    then their two biases."""
    gates, directions = GATES[mode], 2 if bidirectional else 1
    first = gates * state_size * (input_size + state_size + 2)
    other = gates * state_size * (directions * state_size + state_size + 2)
    return directions * (first + (num_layers - 1) * other)


def _inputs(attrs: Attrs) -> list[str]:
    names = ["data", "parameters", "state"]
    if attrs["mode"] == "lstm":
        names.append("state_cell")
    if attrs["use_sequence_length"]:
        names.append("sequence_length")
    return names


def _outputs(attrs: Attrs) -> list[str]:
    if not attrs["state_outputs"]:
        return ["output"]
    return ["output", "state_output", "statecell_output"] if attrs["mode"] == "lstm" else ["output", "state_output"]


def _rnn(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    if attrs["projection_size"] is not None:
        raise ValueError("projection_size is not available")
    hidden, layers = attrs["state_size"], attrs["num_layers"]
    directions = 2 if attrs["bidirectional"] else 1
    states = [2, 3] if attrs["mode"] == "lstm" else [2]
    data = unify(ins[0], (0, 0, 0))
    out = unify(outs[0], (0, 0, directions * hidden))
    known = [ins[i] for i in states] + outs[1:]
    assert data is not None and out is not None
    for shape in known:
        unify(shape, (layers * directions, 0, hidden))
    steps = unify_dims([data[0], out[0]])
    batch = unify_dims([data[1], out[1], *(shape[1] for shape in known if shape is not None)])
    state = (layers * directions, batch, hidden)
    ins[0], outs[0] = (steps, batch, data[2]), (steps, batch, directions * hidden)
    for i in states:
        ins[i] = state
    outs[1:] = [state] * len(outs[1:])
    if data[2]:
        ins[1] = unify(ins[1], (parameter_size(data[2], hidden, layers, attrs["bidirectional"], attrs["mode"]),))
    if attrs["use_sequence_length"]:
        ins[-1] = unify(ins[-1], (batch,))


def _types(attrs: Attrs, ins: list[str | None], outs: list[str | None]) -> None:
    types.same_but(*([len(ins) - 1] if attrs["use_sequence_length"] else []))(attrs, ins, outs)


register(
    "RNN",
    ["data", "parameters", "state", "state_cell", "sequence_length"],
    [
        p.count("state_size"),
        p.count("num_layers"),
        p.boolean("bidirectional", False),
        p.choice("mode", ("gru", "lstm", "rnn_relu", "rnn_tanh")),
        p.real("p", 0.0),
        p.boolean("state_outputs", False),
        p.integer("projection_size", None, optional=True),
        p.real("lstm_state_clip_min", None, optional=True),
        p.real("lstm_state_clip_max", None, optional=True),
        p.boolean("lstm_state_clip_nan", False),
        p.boolean("use_sequence_length", False),
    ],
    inputs_of=_inputs,
    outputs=_outputs,
    shape=_rnn,
    type_rule=_types,
    doc="Recurrent layers over data (T, N, I). parameters: one flat vector, all weights layer by layer and direction "
    "by direction (input, state), then all biases likewise. state, state_cell: (layers * directions, N, state_size). "
    "Output (T, N, directions * state_size); with state_outputs also the states after the last step.",
)
