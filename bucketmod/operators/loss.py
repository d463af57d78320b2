"""Heads that define a loss by their gradient, and the operators that stop or start gradients."""

from __future__ import annotations

from bucketmod.operators import parameters as p
from bucketmod.operators import shapes, types
from bucketmod.operators.registry import Attrs, register
from bucketmod.operators.shapes import Shape, unify


def _softmax_output(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    data, label = ins[0], ins[1]
    if data is None or (label == data and label is not None):  # a label like the data holds probabilities
        return
    if not attrs["multi_output"]:
        ins[1] = unify(label, data[:-1])
        return
    flat = (data[0], shapes.size(data[2:]))
    if label is None:
        ins[1] = flat
        return
    for form in (flat, (data[0], *data[2:]), (data[0], 1, *data[2:])):
        if len(form) == len(label) and all(x == y or 0 in (x, y) for x, y in zip(form, label, strict=True)):
            ins[1] = unify(label, form)
            return
    raise ValueError(f"label {label} does not fit data {data}: expected {flat} or {(data[0], *data[2:])}")


register(
    "SoftmaxOutput",
    ["data", "label"],
    [
        p.real("grad_scale", 1.0),
        p.real("ignore_label", -1.0),
        p.boolean("multi_output", False),
        p.boolean("use_ignore", False),
        p.boolean("preserve_shape", False),
        p.choice("normalization", ("batch", "null", "valid"), "null"),
        p.boolean("out_grad", False),
        p.real("smooth_alpha", 0.0),
    ],
    aliases=["Softmax"],
    shape=_softmax_output,
    type_rule=types.same,
    doc="Softmax of data; its gradient is that of the cross-entropy with label, whatever comes from above (unless "
    "out_grad). data (N, C), label (N,) class numbers or (N, C) probabilities; multi_output: classes on axis 1.",
)
register(
    "MakeLoss",
    params=[
        p.real("grad_scale", 1.0),
        p.real("valid_thresh", 0.0),
        p.choice("normalization", ("batch", "null", "valid"), "null"),
    ],
    shape=shapes.same,
    doc="The input; its gradient is grad_scale, divided by the batch or by the number of elements above "
    "valid_thresh as ``normalization`` says.",
)
register("make_loss", outputs=("loss",), shape=shapes.same, doc="The input; its gradient is 1.")
register("BlockGrad", aliases=["stop_gradient"], shape=shapes.same, doc="The input; no gradient passes back.")


def _regression_output(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    data, label = ins[0], ins[1]
    if data is None:
        return
    if label is None:
        ins[1] = data[:1] if len(data) == 2 and data[1] == 1 else data
    elif shapes.size(data) != shapes.size(label) or data[0] != label[0]:
        ins[1] = unify(label, data)


for _name, _doc in {
    "LinearRegressionOutput": "The input; its gradient is the difference from label",
    "MAERegressionOutput": "The input; its gradient is the sign of the difference from label",
    "LogisticRegressionOutput": "1 / (1 + exp(-data)); its gradient is the difference from label",
}.items():
    register(
        _name,
        ["data", "label"],
        [p.real("grad_scale", 1.0)],
        shape=_regression_output,
        doc=f"{_doc} times grad_scale, divided by the outputs of a sample. label (N, ...) like data; (N,) for (N, 1).",
    )


def _svm_output(attrs: Attrs, ins: list[Shape], outs: list[Shape]) -> None:
    ins[0] = outs[0] = unify(ins[0], outs[0])
    if ins[0] is not None:
        ins[1] = unify(ins[1], ins[0][:1])


register(
    "SVMOutput",
    ["data", "label"],
    [p.real("margin", 1.0), p.real("regularization_coefficient", 1.0), p.boolean("use_linear", False)],
    shape=_svm_output,
    doc="The input (N, C); its gradient is that of the squared hinge (use_linear: the hinge) of one class, label (N,), "
    "against all others, times regularization_coefficient.",
)
