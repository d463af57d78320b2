"""Runs whole programs, training programs included, with numpy: what kernels and gradients are compared with.

``run_program(program, inputs)`` knows the operators of the domain ``bucketmod`` and those of the gradient builder
beside ONNX's own. ``as_float64(program)`` is the same program in double precision, for finite differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import reference_attention
import reference_windows
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bucketmod.compiler.graph.shapes import MICROSOFT, attributes
from bucketmod.compiler.program import DOMAIN, Program

_OPERATORS: list[type[OpRun]] = []


def run_program(program: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name. Unused inputs may be left out. Dropout masks follow from the node's attribute ``seed`` alone."""
    model = onnx.ModelProto()
    model.CopyFrom(program.model)
    del model.functions[:]
    name_absent_outputs(model)
    used = {name for node in model.graph.node for name in node.input} | {v.name for v in model.graph.output}
    missing = [v.name for v in model.graph.input if v.name in used and v.name not in inputs]
    if missing:
        raise ValueError(f"no values for the inputs {missing}")
    feeds = {v.name: np.asarray(inputs[v.name]) for v in model.graph.input if v.name in inputs}
    for value in model.graph.input:
        feeds.setdefault(value.name, np.zeros([d.dim_value for d in value.type.tensor_type.shape.dim], np.float32))
    names = [value.name for value in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model, new_ops=_OPERATORS).run(names, feeds), strict=True))


def name_absent_outputs(model: onnx.ModelProto) -> None:
    """The evaluator files an absent output under "", where it then finds the value of absent inputs."""
    for position, node in enumerate(model.graph.node):
        for index, name in enumerate(node.output):
            node.output[index] = name or f"absent {position} {index}"


def as_float64(program: Program) -> Program:
    """The program with every float32 in it made float64; runs with :func:`run_program` only."""
    model = onnx.ModelProto()
    model.CopyFrom(program.model)
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for index, initializer in enumerate(graph.initializer):
        graph.initializer[index].CopyFrom(_wider(initializer))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
            elif attribute.type == onnx.AttributeProto.TENSOR:
                attribute.t.CopyFrom(_wider(attribute.t))
    inputs = {port.name: port.role for port in program.inputs}
    outputs = {port.name: (port.role, port.of) for port in program.outputs}
    return Program.of(model, inputs, outputs, {port.name: port.of for port in program.inputs if port.of})


def _wider(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)


# ---- operators


def _operator(domain: str, *names: str) -> Callable:
    """Registers ``function(attributes, *inputs) -> array or tuple`` under the names."""

    def register(function: Callable) -> Callable:
        for name in names:

            def run(self, *inputs, _function=function, **_):  # noqa: ANN001, ANN003
                made = _function(attributes(self.onnx_node), *inputs)
                made = made if isinstance(made, tuple) else (made,)
                kept = made + (None,) * (len(self.onnx_node.output) - len(made))
                return tuple(
                    np.zeros(0) if value is None else np.asarray(value)
                    for value in kept[: len(self.onnx_node.output)]
                )

            _OPERATORS.append(type(name, (OpRun,), {"op_domain": domain, "_run": run}))
        return function

    return register


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


# Gradients that the builder emits


@_operator(MICROSOFT, "SigmoidGrad")
def _sigmoid_grad(options, dy, y):
    return dy * y * (1 - y)


@_operator(MICROSOFT, "TanhGrad")
def _tanh_grad(options, dy, y):
    return dy * (1 - y * y)


@_operator(MICROSOFT, "ReluGrad")
def _relu_grad(options, dy, x):
    return dy * (x > 0)


@_operator(MICROSOFT, "LeakyReluGrad")
def _leaky_relu_grad(options, dy, y):
    return np.where(y > 0, dy, dy * options["alpha"]).astype(dy.dtype)


@_operator(MICROSOFT, "SoftmaxGrad_13")
def _softmax_grad(options, dy, y):
    return y * (dy - (dy * y).sum(axis=options["axis"], keepdims=True))


@_operator(MICROSOFT, "LogSoftmaxGrad_13")
def _log_softmax_grad(options, dy, y):
    return dy - np.exp(y) * dy.sum(axis=options["axis"], keepdims=True)


@_operator(MICROSOFT, "FusedMatMul")
def _fused_matmul(options, a, b):
    a = a.swapaxes(-1, -2) if options.get("transA") else a
    b = b.swapaxes(-1, -2) if options.get("transB") else b
    return (options.get("alpha", 1.0) * np.matmul(a, b)).astype(a.dtype)


@_operator(MICROSOFT, "GatherGrad")
def _gather_grad(options, shape, indices, dy):
    axis = options.get("axis", 0) % len(shape)
    made = np.zeros(shape, dy.dtype)
    spread = np.moveaxis(dy, range(axis, axis + indices.ndim), range(indices.ndim))
    np.add.at(np.moveaxis(made, axis, 0), indices, spread)
    return made


@_operator(MICROSOFT, "SliceGrad")
def _slice_grad(options, dy, shape, starts, ends, axes=None, steps=None):
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        length = int(shape[axis])
        if step < 0 and end < -length:
            end = None  # down to the first element
        index[axis] = slice(int(start), None if end is None else int(end), int(step))
    made = np.zeros(shape, dy.dtype)
    made[tuple(index)] = dy
    return made


@_operator("", "Erf")
def _erf(options, x):
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


@_operator("", "Dropout")
def _dropout(options, data, ratio=0.5, training=False):
    if not training:
        return data, np.ones(data.shape, bool)
    mask = np.random.default_rng(options.get("seed", 0)).random(data.shape) >= ratio
    return (data * mask / (1 - ratio)).astype(data.dtype), mask


@_operator(MICROSOFT, "DropoutGrad")
def _dropout_grad(options, dy, mask, ratio, training):
    return (dy * mask / (1 - ratio)).astype(dy.dtype)


@_operator("", "LayerNormalization")
def _layer_normalization(options, x, weight, bias=None):
    axes = tuple(range(options.get("axis", -1) % x.ndim, x.ndim))
    mean = x.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + options.get("epsilon", 1e-5))
    y = (x - mean) * inverse * weight
    return (y if bias is None else y + bias).astype(x.dtype), mean.astype(x.dtype), inverse.astype(x.dtype)


@_operator(MICROSOFT, "LayerNormalizationGrad")
def _layer_normalization_grad(options, dy, x, weight, mean, inverse):
    first = options.get("axis", -1) % x.ndim
    axes, rows = tuple(range(first, x.ndim)), tuple(range(first))
    normal = (x - mean) * inverse
    scaled = dy * weight
    dx = inverse * (
        scaled - scaled.mean(axis=axes, keepdims=True) - normal * (scaled * normal).mean(axis=axes, keepdims=True)
    )
    return dx, (dy * normal).sum(axis=rows), dy.sum(axis=rows)


@_operator(DOMAIN, "BatchNorm")
def _batch_norm(options, x, weight, bias):
    axes = (0, *range(2, x.ndim))
    mean, variance = x.mean(axis=axes), x.var(axis=axes)
    inverse = 1 / np.sqrt(variance + options["epsilon"])
    wide = (-1, *[1] * (x.ndim - 2))
    y = (x - mean.reshape(wide)) * (inverse * weight).reshape(wide) + bias.reshape(wide)
    return tuple(made.astype(x.dtype) for made in (y, mean, inverse, variance))


@_operator(DOMAIN, "BatchNormGrad")
def _batch_norm_grad(options, dy, x, weight, mean, inverse):
    axes, wide = (0, *range(2, x.ndim)), (-1, *[1] * (x.ndim - 2))
    normal = (x - mean.reshape(wide)) * inverse.reshape(wide)
    dweight, dbias = (dy * normal).sum(axis=axes), dy.sum(axis=axes)
    count = x.size / len(weight)
    rest = dy - (dbias.reshape(wide) + normal * dweight.reshape(wide)) / count
    return (weight * inverse).reshape(wide) * rest, dweight, dbias


# Loss heads, as MXNet 1.9.1 computes them


def _classes(options, data):
    """Data as [outer, classes, inner]."""
    if options.get("multi_output"):
        return data.reshape(data.shape[0], data.shape[1], -1)
    if options.get("preserve_shape"):
        return data.reshape(-1, data.shape[-1], 1)
    return data.reshape(data.shape[0], -1, 1)


@_operator(DOMAIN, "SoftmaxOutput")
def _softmax_output(options, data, label):
    return softmax(_classes(options, data), 1).reshape(data.shape)


@_operator(DOMAIN, "SoftmaxOutputGrad")
def _softmax_output_grad(options, prob, label, head_gradient=None):
    scale = options.get("grad_scale", 1.0)
    if prob.shape == label.shape:  # labels are probabilities
        made = (prob - label) * scale
    else:
        made = _class_gradient(options, _classes(options, prob), label.reshape(-1)) * scale
    made = made.reshape(prob.shape).astype(prob.dtype)
    return made if head_gradient is None else made * head_gradient


def _class_gradient(options, prob, label):
    outer, classes, inner = prob.shape
    ignored = label.astype(np.int64) == int(options.get("ignore_label", -1))
    # without preserve_shape only as many labels as there are samples are read, however many there are
    kept = label[: outer * inner].astype(np.int64).reshape(outer, 1, inner)
    hit = np.arange(classes).reshape(1, classes, 1) == kept
    smooth = 0.0 if options.get("multi_output") else options.get("smooth_alpha", 0.0)
    target = np.where(hit, 1 - smooth, smooth / (classes - 1) if classes > 1 else 0.0)
    made = prob - target
    if options.get("use_ignore"):
        made = made * ~ignored[: outer * inner].reshape(outer, 1, inner)
    normalization = options.get("normalization", "null")
    if normalization == "valid":
        return made / max(1, np.count_nonzero(~ignored))
    if options.get("multi_output"):
        made = made / inner
        return made / outer if normalization == "batch" else made
    return made / label.size if normalization == "batch" else made


@_operator(DOMAIN, "LinearRegressionOutput", "MAERegressionOutput", "SVMOutput")
def _regression(options, data, label):
    return data


@_operator(DOMAIN, "LogisticRegressionOutput")
def _logistic(options, data, label):
    return sigmoid(data)


@_operator(DOMAIN, "MakeLoss", "BlockGrad")
def _same(options, data):
    return data


@_operator(DOMAIN, "MakeLossGrad")
def _make_loss_grad(options, data):
    rows = int(np.prod(data.shape[:-1]))  # "batch" counts rows of the last axis, not samples
    divisor: int | None = {"null": 1, "batch": rows}.get(options.get("normalization", "null"))
    if divisor is None:
        divisor = max(1, int(np.count_nonzero(data > options.get("valid_thresh", 0.0))))
    return np.full(data.shape, options.get("grad_scale", 1.0) / divisor, data.dtype)


# Recurrences; the steps in the order in which they run


def _steps(options, length):
    return range(length - 1, -1, -1) if options.get("reverse") else range(length)


def _or_zero(given, like):
    return np.zeros_like(like) if given is None or given.size == 0 else given


@_operator(DOMAIN, "LSTM", "LSTMTraining")
def _lstm(options, x, wi, wh, bi, bh, h, c):
    steps, batch, _ = x.shape
    hidden = wh.shape[1]
    y, cells = np.zeros((2, steps, batch, hidden), x.dtype)
    gates = np.zeros((steps, batch, 4 * hidden), x.dtype)
    for t in _steps(options, steps):
        i, f, u, o = np.split(x[t] @ wi.T + bi + h @ wh.T + bh, 4, axis=1)
        i, f, u, o = sigmoid(i), sigmoid(f), np.tanh(u), sigmoid(o)
        c = f * c + i * u
        h = o * np.tanh(c)
        y[t], cells[t], gates[t] = h, c, np.concatenate([i, f, u, o], axis=1)
    return y, h, c, gates, cells


@_operator(DOMAIN, "LSTMGrad")
def _lstm_grad(options, x, wi, wh, bi, bh, h0, c0, y, gates, cells, dy=None, dh=None, dc=None):
    dy, dh, dc = _or_zero(dy, y), _or_zero(dh, h0), _or_zero(dc, c0)
    order = list(_steps(options, len(x)))
    dz = np.zeros_like(gates)
    before = {t: s for s, t in zip([None, *order[:-1]], order, strict=True)}
    for t in reversed(order):
        i, f, u, o = np.split(gates[t], 4, axis=1)
        tanh, previous = np.tanh(cells[t]), c0 if before[t] is None else cells[before[t]]
        dh = dh + dy[t]
        dc = dc + dh * o * (1 - tanh**2)
        parts = (dc * u * i * (1 - i), dc * previous * f * (1 - f), dc * i * (1 - u**2), dh * tanh * o * (1 - o))
        dz[t] = np.concatenate(parts, axis=1)
        dc, dh = dc * f, dz[t] @ wh
    earlier = np.stack([h0 if before[t] is None else y[before[t]] for t in range(len(x))])
    db = dz.sum(axis=(0, 1))
    return dz @ wi, _outer(dz, x), _outer(dz, earlier), db, db, dh, dc


def _outer(dz, x):
    return np.einsum("tng,tni->gi", dz, x)


@_operator(DOMAIN, "GRU", "GRUTraining")
def _gru(options, x, wi, wh, bi, bh, h):
    steps, batch, _ = x.shape
    hidden = wh.shape[1]
    y = np.zeros((steps, batch, hidden), x.dtype)
    gates = np.zeros((steps, batch, 4 * hidden), x.dtype)
    for t in _steps(options, steps):
        xr, xz, xo = np.split(x[t] @ wi.T + bi, 3, axis=1)
        hr, hz, ho = np.split(h @ wh.T + bh, 3, axis=1)
        r, z = sigmoid(xr + hr), sigmoid(xz + hz)
        o = np.tanh(xo + r * ho)
        h = (1 - z) * o + z * h
        y[t], gates[t] = h, np.concatenate([r, z, o, ho], axis=1)
    return y, h, gates


@_operator(DOMAIN, "GRUGrad")
def _gru_grad(options, x, wi, wh, bi, bh, h0, y, gates, dy=None, dh=None):
    dy, dh = _or_zero(dy, y), _or_zero(dh, h0)
    order = list(_steps(options, len(x)))
    before = {t: s for s, t in zip([None, *order[:-1]], order, strict=True)}
    earlier = np.stack([h0 if before[t] is None else y[before[t]] for t in range(len(x))])
    dx_part, dh_part = np.zeros((2, *gates.shape[:2], 3 * y.shape[2]), x.dtype)
    for t in reversed(order):
        r, z, o, ho = np.split(gates[t], 4, axis=1)
        dh = dh + dy[t]
        do = dh * (1 - z) * (1 - o**2)
        dr, dz = do * ho * r * (1 - r), dh * (earlier[t] - o) * z * (1 - z)
        dx_part[t] = np.concatenate([dr, dz, do], axis=1)
        dh_part[t] = np.concatenate([dr, dz, do * r], axis=1)
        dh = dh * z + dh_part[t] @ wh
    return (dx_part @ wi, _outer(dx_part, x), _outer(dh_part, earlier),
            dx_part.sum(axis=(0, 1)), dh_part.sum(axis=(0, 1)), dh)  # fmt: skip


@_operator(DOMAIN, "RNN", "RNNTraining")
def _rnn(options, x, wi, wh, bi, bh, h):
    y = np.zeros((*x.shape[:2], wh.shape[1]), x.dtype)
    for t in _steps(options, len(x)):
        z = x[t] @ wi.T + bi + h @ wh.T + bh
        h = np.tanh(z) if options.get("activation", "tanh") == "tanh" else np.maximum(z, 0)
        y[t] = h
    return y, h


@_operator(DOMAIN, "RNNGrad")
def _rnn_grad(options, x, wi, wh, bi, bh, h0, y, dy=None, dh=None):
    dy, dh = _or_zero(dy, y), _or_zero(dh, h0)
    order = list(_steps(options, len(x)))
    before = {t: s for s, t in zip([None, *order[:-1]], order, strict=True)}
    earlier = np.stack([h0 if before[t] is None else y[before[t]] for t in range(len(x))])
    dz = np.zeros_like(y)
    for t in reversed(order):
        dh = dh + dy[t]
        dz[t] = dh * (1 - y[t] ** 2 if options.get("activation", "tanh") == "tanh" else y[t] > 0)
        dh = dz[t] @ wh
    db = dz.sum(axis=(0, 1))
    return dz @ wi, _outer(dz, x), _outer(dz, earlier), db, db, dh


# Attention

for _kind in ("Attention", "BiasedAttention", "MaskedAttention"):
    _operator(DOMAIN, _kind, f"{_kind}Training")(reference_attention.attention)
    _operator(DOMAIN, f"{_kind}Grad")(reference_attention.attention_grad)

# Convolutions and pooling

for _domain, _name in (("", "Conv"), ("", "ConvTranspose"), ("", "MaxPool"), ("", "AveragePool"),
                       (DOMAIN, "ConvWeightGrad"), (DOMAIN, "MaxPoolGrad"), (DOMAIN, "AveragePoolGrad")):  # fmt: skip
    _operator(_domain, _name)(getattr(reference_windows, _name))
