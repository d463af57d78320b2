"""Layers: fully connected, embedding, activations, dropout, normalisation, softmax."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators import shapes, types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, normal_axis, unify


def _fully_connected(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    hidden, data, out = attrs["num_hidden"], ins[0], outs[0]
    if not attrs["no_bias"]:
        ins[2] = unify(ins[2], (hidden,))
    ins[1] = unify(ins[1], (hidden, 0))
    if data is None:
        return
    width = shapes.size(data[1:]) if attrs["flatten"] else data[-1]
    ins[1] = unify(ins[1], (hidden, width))
    rows = data[:1] if attrs["flatten"] else data[:-1]
    outs[0] = out = unify(out, (*rows, hidden))
    assert out is not None
    ins[0] = unify(data, (*out[:1], *data[1:]) if attrs["flatten"] else (*out[:-1], data[-1]))


register(
    "FullyConnected",
    ["data", "weight", "bias"],
    [p.count("num_hidden"), p.boolean("no_bias", False), p.boolean("flatten", True)],
    inputs_of=lambda a: ["data", "weight"] if a["no_bias"] else ["data", "weight", "bias"],
    shape=_fully_connected,
    doc="data . weight^T + bias. data (N, ...), weight (num_hidden, rest of data), bias (num_hidden,), output "
    "(N, num_hidden). flatten=False works on the last axis only and keeps the others.",
)


def _embedding(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    width = attrs["output_dim"]
    ins[1] = unify(ins[1], (attrs["input_dim"], width))
    if outs[0] is not None:
        ins[0] = unify(ins[0], outs[0][:-1])
    if ins[0] is not None:
        outs[0] = unify(outs[0], (*ins[0], width))


def _embedding_types(attrs: Attrs, ins: list[str | None], outs: list[str | None]) -> None:
    ins[1] = outs[0] = types.unify([attrs["dtype"], ins[1], outs[0]])


register(
    "Embedding",
    ["data", "weight"],
    [p.count("input_dim"), p.count("output_dim"), p.dtype(), p.boolean("sparse_grad", False)],
    shape=_embedding,
    type_rule=_embedding_types,
    doc="Row data[...] of weight (input_dim, output_dim). data of any shape holds whole numbers; those outside of "
    "[0, input_dim) are clipped. Output: shape of data and then output_dim. No gradient reaches data.",
)
register(
    "Activation",
    params=[p.choice("act_type", ("relu", "sigmoid", "softrelu", "softsign", "tanh"))],
    shape=shapes.same,
    doc="relu, sigmoid, softrelu (log(1 + exp(x))), softsign (x / (1 + |x|)) or tanh, elementwise.",
)


def _leaky_relu(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    shapes.outputs_like_first(attrs, ins, outs)
    data = ins[0]
    if attrs["act_type"] == "prelu" and data is not None:
        slopes = data[1] if len(data) > 1 else 1
        if ins[1] != (1,):  # one slope for all channels is allowed, when the user says so
            ins[1] = unify(ins[1], (slopes,))


register(
    "LeakyReLU",
    ["data", "gamma"],
    [
        p.choice("act_type", ("elu", "gelu", "leaky", "prelu", "rrelu", "selu"), "leaky"),
        p.real("slope", 0.25),
        p.real("lower_bound", 0.125),
        p.real("upper_bound", 0.334),
    ],
    inputs_of=lambda a: ["data", "gamma"] if a["act_type"] == "prelu" else ["data"],
    outputs=lambda a: ("output", "mask") if a["act_type"] == "rrelu" else ("output",),
    variable_attrs={"gamma": {"__init__": '["Constant", {"value": 0.25}]'}},
    shape=_leaky_relu,
    doc="leaky: x or slope * x; elu: x or slope * (exp(x) - 1); prelu: slopes are the argument gamma, one a channel "
    "(axis 1); selu, gelu; rrelu: random slope in training.",
)


def _dropout(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    if ins[0] is not None:
        shared = shapes.normal_axes(attrs["axes"], len(ins[0]))
        outs[1] = unify(outs[1], tuple([1 if i in shared else d for i, d in enumerate(ins[0])]))


register(
    "Dropout",
    params=[
        p.real("p", 0.5),
        p.choice("mode", ("always", "training"), "training"),
        p.dims("axes", ()),
        p.boolean("cudnn_off", False, optional=True),
    ],
    outputs=("output", "mask"),
    visible=1,
    shape=_dropout,
    doc="In training each element becomes 0 with probability p, the others are divided by 1 - p. One draw serves "
    "all positions along ``axes``.",
)


def _layer_norm(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    data = ins[0]
    if data is None:
        return
    axis = normal_axis(attrs["axis"], len(data))
    ins[1], ins[2] = unify(ins[1], (data[axis],)), unify(ins[2], (data[axis],))
    kept = (*data[:axis], 1, *data[axis + 1 :])
    outs[1], outs[2] = unify(outs[1], kept), unify(outs[2], kept)


register(
    "LayerNorm",
    ["data", "gamma", "beta"],
    [p.integer("axis", -1), p.real("eps", 1e-5), p.boolean("output_mean_var", False)],
    outputs=("output", "mean", "std"),
    visible=lambda a: 3 if a["output_mean_var"] else 1,
    shape=_layer_norm,
    doc="(data - mean) / sqrt(variance + eps) * gamma + beta, over ``axis``; gamma and beta are (C,).",
)


def _softmax(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    shapes.outputs_like_first(attrs, ins, outs)
    if ins[0] is not None:
        axis = normal_axis(attrs["axis"], len(ins[0]))
        if len(ins) > 1:
            ins[1] = unify(ins[1], (*ins[0][:axis], *ins[0][axis + 1 :]))


def _softmax_types(attrs: Attrs, ins: list[str | None], outs: list[str | None]) -> None:
    if attrs["dtype"] is not None:
        outs[0] = types.unify([attrs["dtype"], outs[0]])
    else:  # the lengths may have any type
        ins[0] = outs[0] = types.unify([ins[0], outs[0]])


_SOFTMAX_PARAMS = [
    p.integer("axis", -1),
    p.real("temperature", None, optional=True),
    p.dtype(default=None, options=p.FLOAT_TYPES),
    p.boolean("use_length", False, optional=True),
]
register(
    "softmax",
    ["data", "length"],
    _SOFTMAX_PARAMS,
    inputs_of=lambda a: ["data", "length"] if a["use_length"] else ["data"],
    shape=_softmax,
    type_rule=_softmax_types,
    doc="exp(data / temperature), divided by its sum over ``axis``. use_length: only the first ``length`` count.",
)
register(
    "log_softmax",
    params=_SOFTMAX_PARAMS,
    shape=_softmax,
    type_rule=_softmax_types,
    doc="Logarithm of softmax.",
)
register(
    "softmin",
    params=_SOFTMAX_PARAMS,
    shape=_softmax,
    type_rule=_softmax_types,
    doc="Softmax of -data.",
)
