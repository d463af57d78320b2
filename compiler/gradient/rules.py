"""Gradients written here: loss heads, recurrences, and standard operators that the builder lacks or gets wrong.

A rule gets the forward node as it stands in the training program (:func:`prepare` may have changed it), the gradients
of its outputs ("" where nothing flows back) and which inputs want theirs; it answers with one name for each input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from bucketmod.compiler.errors import UnsupportedGradientError
from bucketmod.compiler.gradient import windows
from bucketmod.compiler.gradient.activity import ATTENTION
from bucketmod.compiler.gradient.emitter import Emitter
from bucketmod.compiler.graph.shapes import MICROSOFT, attributes
from bucketmod.compiler.program import DOMAIN

Rule = Callable[[NodeProto, Sequence[str], Sequence[bool], Emitter], Sequence[str]]


# ---- loss heads


def _softmax_output(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """With ``out_grad`` times the incoming gradient, as documented; MXNet 1.9.1 multiplies by the output instead."""
    inputs = [node.output[0], node.input[1]]
    if attributes(node).get("out_grad"):
        inputs.append(gradients[0])
    return [emit.op("SoftmaxOutputGrad", inputs, DOMAIN, **attributes(node)), ""]


def _make_loss(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    return [emit.op("MakeLossGrad", [node.input[0]], DOMAIN, **attributes(node))]


# The regressions' gradient is a constant times a function of the difference between output and label.


def _regression(of_difference: str) -> Rule:
    """``of_difference``: operator on output - label, "" for none. A sample's gradient is divided by its outputs."""

    def rule(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
        made = emit.types[node.output[0]]
        label = node.input[1]
        if emit.types[label].shape != made.shape:  # (N,) for (N, 1)
            label = emit.op("Reshape", [label, emit.constant(made.shape, np.int64)])
        difference = emit.op("Sub", [node.output[0], label])
        if of_difference:
            difference = emit.op(of_difference, [difference])
        scale = attributes(node).get("grad_scale", 1.0) / (made.size // made.shape[0])
        return [emit.op("Mul", [difference, emit.number_like(node.output[0], scale)]), ""]

    return rule


def _svm_output(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """One class against all others: with s = -1 at the class of the label and 1 elsewhere, the hinge is
    h = max(0, margin + s * data), and its gradient that of c * h (``use_linear``) or c * h**2."""
    scores, options = emit.types[node.output[0]], attributes(node)
    dtype = helper.tensor_dtype_to_np_dtype(scores.elem_type)
    classes = scores.size // scores.shape[0]
    label = emit.op("Cast", [node.input[1]], to=TensorProto.INT64)
    column = emit.op("Reshape", [label, emit.constant([scores.shape[0], 1], np.int64)])
    hit = emit.op("Equal", [column, emit.constant(np.arange(classes)[None], np.int64)])
    side = emit.op("Where", [hit, emit.constant(-1, dtype), emit.constant(1, dtype)])
    rows = emit.op("Reshape", [node.output[0], emit.constant([scores.shape[0], classes], np.int64)])
    reach = emit.op("Add", [emit.op("Mul", [side, rows]), emit.constant(options.get("margin", 1.0), dtype)])
    weight = options.get("regularization_coefficient", 1.0)
    if options.get("use_linear"):
        slope = emit.op("Mul", [side, emit.constant(weight, dtype)])
    else:
        slope = emit.op("Mul", [emit.op("Mul", [side, reach]), emit.constant(2 * weight, dtype)])
    violated = emit.op("Greater", [reach, emit.constant(0, dtype)])
    made = emit.op("Where", [violated, slope, emit.constant(0, dtype)])
    return [emit.op("Reshape", [made, emit.constant(scores.shape, np.int64)]), ""]


# ---- recurrences

# Training form -> which of its outputs the backward form reads, how many states it hands on.
_RECURRENCES = {"LSTMTraining": ((0, 3, 4), 2), "GRUTraining": ((0, 2), 1), "RNNTraining": ((0,), 1)}


def _recurrence(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    kind = node.op_type.removesuffix("Training")
    kept, states = _RECURRENCES[node.op_type]
    inputs = [*node.input, *(node.output[index] for index in kept), *gradients[: 1 + states]]
    return emit.ops(f"{kind}Grad", inputs, list(wanted), DOMAIN, **attributes(node))


# ---- attention


def _attention(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """Reads the output and the statistics of the softmax, from which it computes the probabilities again."""
    options = attributes(node)
    kind = node.op_type.removesuffix("Training")
    inputs = [gradients[0], *node.input[:3], *node.output, *node.input[3:]]
    made = emit.ops(f"{kind}Grad", inputs, [True] if options["joint"] else list(wanted[:3]), DOMAIN, **options)
    return [*made, *[""] * (len(node.input) - len(made))]


# ---- standard operators


def _split(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """The builder forgets the outputs that nobody reads; their gradient is zero, not absent."""
    parts = [gradient or emit.zeros_like(name) for name, gradient in zip(node.output, gradients, strict=True)]
    return [emit.op("Concat", parts, axis=attributes(node).get("axis", 0)), *[""] * (len(node.input) - 1)]


def _gather(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """Along axis 0 always: elsewhere the axis is moved to the front and back, so that one kernel does."""
    shape, indices = emit.types[node.input[0]].shape, emit.types[node.input[1]].shape
    axis = attributes(node).get("axis", 0) % len(shape)
    order = [axis, *range(axis), *range(axis + 1, len(shape))]  # of the data's axes
    spread = list(range(axis, axis + len(indices)))
    rest = [i for i in range(len(shape) - 1 + len(indices)) if i not in spread]
    gradient = gradients[0] if axis == 0 else emit.op("Transpose", gradients, perm=spread + rest)
    size = emit.constant([shape[i] for i in order], np.int64)
    rows = emit.op("GatherGrad", [size, node.input[1], gradient], MICROSOFT, axis=0)
    back = [order.index(i) for i in range(len(shape))]
    return [rows if axis == 0 else emit.op("Transpose", [rows], perm=back), ""]


def _where(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """The builder does not sum over broadcast axes."""
    condition, made = node.input[0], node.output[0]
    zero = emit.number_like(made, 0)
    result = [""] * 3
    for slot, pair in ((1, [gradients[0], zero]), (2, [zero, gradients[0]])):
        if wanted[slot]:
            result[slot] = emit.reduced(emit.op("Where", [condition, *pair]), made, node.input[slot])
    return result


def _divide(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """d(a/b) = da/b - (a/b)/b db; shares the quotient of both sides."""
    a, b, made = node.input[0], node.input[1], node.output[0]
    result = ["", ""]
    quotient = emit.op("Div", [gradients[0], b])
    if wanted[0]:
        result[0] = emit.reduced(quotient, made, a)
    if wanted[1]:
        result[1] = emit.reduced(emit.op("Neg", [emit.op("Mul", [quotient, made])]), made, b)
    return result


def _power(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    a, b, made = node.input[0], node.input[1], node.output[0]
    if emit.types[a].elem_type != emit.types[b].elem_type:
        raise UnsupportedGradientError(
            f"node {node.name!r} (Pow): base and exponent have different types; cast the exponent", node.name
        )
    result = ["", ""]
    if wanted[0]:
        lower = emit.op("Pow", [a, emit.op("Sub", [b, emit.number_like(b, 1)])])
        result[0] = emit.reduced(emit.op("Mul", [gradients[0], emit.op("Mul", [b, lower])]), made, a)
    if wanted[1]:
        slope = emit.op("Mul", [made, emit.op("Log", [a])])
        result[1] = emit.reduced(emit.op("Mul", [gradients[0], slope]), made, b)
    return result


def _extremum(comparison: str) -> Rule:
    """Max and Min of two: where both are equal, the first gets the gradient, as in MXNet."""

    def rule(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
        first = emit.op(comparison, [node.input[0], node.input[1]])
        zero = emit.number_like(node.output[0], 0)
        result = ["", ""]
        for slot, pair in ((0, [gradients[0], zero]), (1, [zero, gradients[0]])):
            if wanted[slot]:
                result[slot] = emit.reduced(emit.op("Where", [first, *pair]), node.output[0], node.input[slot])
        return result

    return rule


def _sum(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    made = node.output[0]
    return [emit.reduced(gradients[0], made, n) if want else "" for n, want in zip(node.input, wanted, strict=True)]


def _spread(node: NodeProto, name: str, emit: Emitter) -> str:
    """A tensor of the shape of a reduction's output, viewed with the reduced axes at length one."""
    given = emit.types[node.input[0]]
    axes = {axis % len(given.shape) for axis in attributes(node).get("axes", range(len(given.shape)))}
    shape = [1 if i in axes else n for i, n in enumerate(given.shape)]
    return emit.op("Reshape", [name, emit.constant(shape, np.int64)])


def _reduce_product(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """Product over element, as in MXNet: not a number where an element is zero."""
    whole = _spread(node, emit.op("Mul", [gradients[0], node.output[0]]), emit)
    return [emit.op("Div", [whole, node.input[0]])]


def _reduce_extremum(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """Every element that equals the extremum gets the whole gradient, as in MXNet."""
    extremum, gradient = (_spread(node, name, emit) for name in (node.output[0], gradients[0]))
    mask = emit.op("Equal", [node.input[0], extremum])
    return [emit.op("Where", [mask, gradient, emit.number_like(node.input[0], 0)])]


def _softplus(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    return [emit.op("Mul", [gradients[0], emit.op("Sigmoid", [node.input[0]])])]


def _softsign(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """1 / (1 + |x|)^2."""
    root = emit.op("Add", [emit.op("Abs", [node.input[0]]), emit.number_like(node.input[0], 1)])
    return [emit.op("Div", [gradients[0], emit.op("Mul", [root, root])])]


def _elu(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    """y + alpha where x is not positive: alpha exp(x) without a second exp."""
    x, y = node.input[0], node.output[0]
    alpha = emit.number_like(x, attributes(node).get("alpha", 1.0))
    slope = emit.op("Mul", [gradients[0], emit.op("Add", [y, alpha])])
    return [emit.op("Where", [emit.op("Greater", [x, emit.number_like(x, 0)]), gradients[0], slope])]


def _layer_normalization(
    node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter
) -> Sequence[str]:
    inputs = [gradients[0], node.input[0], node.input[1], node.output[1], node.output[2]]
    options = {"axis": attributes(node).get("axis", -1), "epsilon": attributes(node).get("epsilon", 1e-5)}
    return emit.ops("LayerNormalizationGrad", inputs, list(wanted), MICROSOFT, **options)


def _batch_norm(node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter) -> Sequence[str]:
    inputs = [gradients[0], node.input[0], node.input[1], node.output[1], node.output[2]]
    return emit.ops("BatchNormGrad", inputs, list(wanted), DOMAIN)


def _batch_normalization(
    node: NodeProto, gradients: Sequence[str], wanted: Sequence[bool], emit: Emitter
) -> Sequence[str]:
    """With given statistics: linear in the data."""
    data, scale, _, mean, variance = node.input
    rank = len(emit.types[data].shape)
    axes = emit.constant([0, *range(2, rank)], np.int64)
    channels = emit.constant([-1, *[1] * (rank - 2)], np.int64)
    epsilon = emit.number_like(variance, attributes(node).get("epsilon", 1e-5))
    deviation = emit.op("Sqrt", [emit.op("Add", [variance, epsilon])])
    result = [""] * 5
    if wanted[0]:
        slope = emit.op("Reshape", [emit.op("Div", [scale, deviation]), channels])
        result[0] = emit.op("Mul", [gradients[0], slope])
    if wanted[1]:
        centered = emit.op("Sub", [data, emit.op("Reshape", [mean, channels])])
        weighted = emit.op("ReduceSum", [emit.op("Mul", [gradients[0], centered]), axes], keepdims=0)
        result[1] = emit.op("Div", [weighted, deviation])
    if wanted[2]:
        result[2] = emit.op("ReduceSum", [gradients[0], axes], keepdims=0)
    return result


RULES: dict[tuple[str, str], Rule] = {
    (DOMAIN, "SoftmaxOutput"): _softmax_output,
    (DOMAIN, "MakeLoss"): _make_loss,
    (DOMAIN, "LinearRegressionOutput"): _regression(""),
    (DOMAIN, "LogisticRegressionOutput"): _regression(""),
    (DOMAIN, "MAERegressionOutput"): _regression("Sign"),
    (DOMAIN, "SVMOutput"): _svm_output,
    (DOMAIN, "BatchNorm"): _batch_norm,
    **{(DOMAIN, name): _recurrence for name in _RECURRENCES},
    **{(DOMAIN, f"{name}Training"): _attention for name in ATTENTION},
    ("", "Split"): _split,
    ("", "Gather"): _gather,
    ("", "Where"): _where,
    ("", "Div"): _divide,
    ("", "Pow"): _power,
    ("", "Max"): _extremum("GreaterOrEqual"),
    ("", "Min"): _extremum("LessOrEqual"),
    ("", "Sum"): _sum,
    ("", "ReduceMax"): _reduce_extremum,
    ("", "ReduceMin"): _reduce_extremum,
    ("", "ReduceProd"): _reduce_product,
    ("", "Softplus"): _softplus,
    ("", "Softsign"): _softsign,
    ("", "Elu"): _elu,
    ("", "LayerNormalization"): _layer_normalization,
    ("", "BatchNormalization"): _batch_normalization,
    ("", "Conv"): windows.conv,
    ("", "ConvTranspose"): windows.conv_transpose,
    ("", "MaxPool"): windows.max_pool,
    ("", "AveragePool"): windows.average_pool,
    ("", "GlobalAveragePool"): windows.global_average_pool,
}


# Outputs that an active forward node must have, because its gradient reads them.
_KEPT_OUTPUTS = {
    ("", "LayerNormalization"): ("output", "mean", "inverse_deviation"),
    ("", "Dropout"): ("output", "mask"),
    (DOMAIN, "BatchNorm"): ("output", "mean", "inverse_deviation"),
    (DOMAIN, "LSTM"): ("sequence", "h_n", "c_n", "gates", "cells"),
    (DOMAIN, "GRU"): ("sequence", "h_n", "gates"),
    (DOMAIN, "RNN"): ("sequence", "h_n"),
    **{(DOMAIN, name): ("output", "statistics") for name in ATTENTION},
}


def prepare(node: NodeProto, fresh: Callable[[str], str]) -> NodeProto:
    """The form of an active forward node that keeps what its gradient reads.

    ``fresh`` turns a wished name into one that no tensor has. A recurrence becomes its training form.
    """
    labels = _KEPT_OUTPUTS.get((node.domain, node.op_type))
    if labels is None:
        return node
    given = [*node.output, *[""] * (len(labels) - len(node.output))]
    kept = [name or fresh(f"{node.name}_{label}") for name, label in zip(given, labels, strict=False)]
    outputs = [*kept, *given[len(labels) :]]
    op_type = f"{node.op_type}Training" if (node.domain, f"{node.op_type}Training") in RULES else node.op_type
    prepared = helper.make_node(op_type, list(node.input), outputs, name=node.name, domain=node.domain)
    prepared.attribute.extend(node.attribute)
    return prepared
