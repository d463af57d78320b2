"""Operators of the domain ``bucketmod`` as ONNX model-local functions.

The compiler knows these operators itself; their bodies, written in standard ONNX, are there so that ``onnx.checker``
accepts a forward program and any ONNX runtime can run it. A body serves every node of its operator: whatever differs
between nodes comes from the node's attributes, and a node must carry all of them (IR 8 functions have no defaults).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, helper, numpy_helper

from bucketmod.compiler.program import DOMAIN, OPSET

_INT_MAX = np.iinfo(np.int64).max
_INT_MIN = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Signature:
    """Formal inputs, outputs and attributes of an operator of the domain, in order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]


_RNN_INPUTS = ("X", "i2h_weight", "h2h_weight", "i2h_bias", "h2h_bias", "h0")
_SOFTMAX_OUTPUT_ATTRIBUTES = (
    "grad_scale", "ignore_label", "use_ignore", "multi_output", "preserve_shape", "normalization", "out_grad",
    "smooth_alpha",
)  # fmt: skip
_REGRESSIONS = ("LinearRegressionOutput", "MAERegressionOutput", "LogisticRegressionOutput")

_ATTENTION_ATTRIBUTES = (
    "scale", "joint", *(f"{operand}_{part}" for operand in "qkv" for part in ("columns", "shape", "perm")), "out_perm",
    "out_shape",
)  # fmt: skip

SIGNATURES: dict[str, Signature] = {
    "SoftmaxOutput": Signature(("data", "label"), ("prob",), _SOFTMAX_OUTPUT_ATTRIBUTES),
    "MakeLoss": Signature(("data",), ("out",), ("grad_scale", "valid_thresh", "normalization")),
    "BlockGrad": Signature(("data",), ("out",), ()),
    **{kind: Signature(("data", "label"), ("out",), ("grad_scale",)) for kind in _REGRESSIONS},
    "SVMOutput": Signature(("data", "label"), ("out",), ("margin", "regularization_coefficient", "use_linear")),
    "BatchNorm": Signature(("X", "gamma", "beta"), ("Y", "mean", "inv_std", "variance"), ("epsilon",)),
    "LSTM": Signature((*_RNN_INPUTS, "c0"), ("Y", "h_n", "c_n"), ("hidden_size", "reverse")),
    "GRU": Signature(_RNN_INPUTS, ("Y", "h_n"), ("hidden_size", "reverse")),
    "RNN": Signature(_RNN_INPUTS, ("Y", "h_n"), ("hidden_size", "reverse", "activation")),
    "Attention": Signature(("q", "k", "v"), ("out",), _ATTENTION_ATTRIBUTES),
    "BiasedAttention": Signature(("q", "k", "v", "mask"), ("out",), _ATTENTION_ATTRIBUTES),
    "MaskedAttention": Signature(("q", "k", "v", "mask"), ("out",), (*_ATTENTION_ATTRIBUTES, "fill")),
}


class _Body:
    """Nodes of a function under construction; every method returns the name of the tensor it made."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []

    def op(self, op_type: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        return self.ops(op_type, inputs, [output or f"{op_type}_{len(self.nodes)}"], **attributes)[0]

    def ops(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> list[str]:
        """``attributes`` whose value is an AttributeProto refer to an attribute of the function's node."""
        node = helper.make_node(op_type, inputs, outputs)
        for name, value in attributes.items():
            if isinstance(value, AttributeProto):
                reference = AttributeProto()
                reference.CopyFrom(value)
                reference.name = name
                node.attribute.append(reference)
            else:
                node.attribute.append(helper.make_attribute(name, value))
        self.nodes.append(node)
        return list(outputs)

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        return self.op("Constant", [], value=numpy_helper.from_array(np.asarray(value, dtype)))

    def flag(self, attribute: str) -> str:
        """An integer attribute of the node as a boolean scalar."""
        value = self.op("Constant", [], value_int=_reference(attribute, AttributeProto.INT))
        return self.op("Cast", [value], to=onnx.TensorProto.BOOL)


def _reference(attribute: str, kind: Any) -> AttributeProto:
    return AttributeProto(ref_attr_name=attribute, type=kind)


def _softmax_output(body: _Body) -> None:
    """Softmax over the middle axis of [outer, classes, inner]; which axes these are depends on the mode: axis 1
    (``multi_output``), the last one (``preserve_shape``), or all but the first one together."""
    shape = body.op("Shape", ["data"])
    last = body.op("Slice", [shape, body.constant([-1]), body.constant([_INT_MAX])])
    rows = body.op("Concat", [body.constant([-1]), last, body.constant([1])], axis=0)
    plain = body.op("Where", [body.flag("preserve_shape"), rows, body.constant([0, -1, 1])])
    view = body.op("Where", [body.flag("multi_output"), body.constant([0, 0, -1]), plain])
    probability = body.op("Softmax", [body.op("Reshape", ["data", view])], axis=1)
    body.op("Reshape", [probability, shape], "prob")


def _identity(body: _Body) -> None:
    body.op("Identity", ["data"], "out")


def _logistic(body: _Body) -> None:
    body.op("Sigmoid", ["data"], "out")


def _batch_norm(body: _Body) -> None:
    """X is [N, C, ...]; statistics of the batch over all axes but the second."""
    view = body.op("Reshape", ["X", body.constant([0, 0, -1])])

    def column(vector: str) -> str:
        return body.op("Reshape", [vector, body.constant([-1, 1])])

    average = body.op("ReduceMean", [view], axes=[0, 2], keepdims=1)
    distance = body.op("Sub", [view, average])
    spread = body.op("ReduceMean", [body.op("Mul", [distance, distance])], axes=[0, 2], keepdims=1)
    epsilon = body.op("Constant", [], value_float=_reference("epsilon", AttributeProto.FLOAT))
    inverse = body.op("Reciprocal", [body.op("Sqrt", [body.op("Add", [spread, epsilon])])])
    normal = body.op("Mul", [body.op("Mul", [distance, inverse]), column("gamma")])
    body.op("Reshape", [body.op("Add", [normal, column("beta")]), body.op("Shape", ["X"])], "Y")
    for value, name in ((average, "mean"), (inverse, "inv_std"), (spread, "variance")):
        body.op("Reshape", [value, body.constant([-1])], name)


def _regroup(body: _Body, gates: str, order: Sequence[int]) -> str:
    """Reorders the gate blocks along axis 0 from MXNet's order to ONNX's."""
    parts = body.ops("Split", [gates], [f"{gates}_gate{i}" for i in range(len(order))], axis=0)
    return body.op("Concat", [parts[i] for i in order], axis=0)


def _flipped(body: _Body, data: str, output: str = "") -> str:
    """The sequence with its time axis turned round where the node says ``reverse``."""
    reverse = body.flag("reverse")
    start = body.op("Where", [reverse, body.constant([-1]), body.constant([0])])
    end = body.op("Where", [reverse, body.constant([_INT_MIN]), body.constant([_INT_MAX])])
    step = body.op("Where", [reverse, body.constant([-1]), body.constant([1])])
    return body.op("Slice", [data, start, end, body.constant([0]), step], output)


def _recurrence_inputs(body: _Body, order: Sequence[int], states: Sequence[str]) -> list[str]:
    """Inputs of the standard operator: X, W, R, B, (no lengths), initial states, each with a direction axis."""

    def directed(value: str) -> str:
        return body.op("Unsqueeze", [value, body.constant([0])])

    w, r, wb, rb = (_regroup(body, name, order) for name in _RNN_INPUTS[1:5])
    bias = directed(body.op("Concat", [wb, rb], axis=0))
    return [_flipped(body, "X"), directed(w), directed(r), bias, "", *map(directed, states)]


def _recurrence_outputs(body: _Body, sequence: str, states: Sequence[str], names: Sequence[str]) -> None:
    """Drops the direction axes of Y[T, 1, N, H] and of the last states [1, N, H]."""
    _flipped(body, body.op("Squeeze", [sequence, body.constant([1])]), "Y")
    for state, name in zip(states, names, strict=True):
        body.op("Squeeze", [state, body.constant([0])], name)


def _hidden_size() -> AttributeProto:
    return _reference("hidden_size", AttributeProto.INT)


def _lstm(body: _Body) -> None:
    inputs = _recurrence_inputs(body, (0, 3, 1, 2), ["h0", "c0"])  # i,f,c,o -> i,o,f,c
    y, h, c = body.ops("LSTM", inputs, ["lstm_y", "lstm_h", "lstm_c"], hidden_size=_hidden_size())
    _recurrence_outputs(body, y, [h, c], ["h_n", "c_n"])


def _gru(body: _Body) -> None:
    inputs = _recurrence_inputs(body, (1, 0, 2), ["h0"])  # r,z,o -> z,r,h
    y, h = body.ops("GRU", inputs, ["gru_y", "gru_h"], hidden_size=_hidden_size(), linear_before_reset=1)
    _recurrence_outputs(body, y, [h], ["h_n"])


def _rnn(body: _Body) -> None:
    """Runs both activations and keeps the one asked for: the standard operator wants a list of strings there, which
    a function can't make of the node's one string. Opset 17 can't compare strings either; two are equal when the set
    of them has one element."""
    inputs = _recurrence_inputs(body, (0,), ["h0"])
    asked = body.op("Constant", [], value_string=_reference("activation", AttributeProto.STRING))
    relu = body.op("Constant", [], value_strings=["relu"])
    both = body.op("Concat", [relu, body.op("Reshape", [asked, body.constant([1])])], axis=0)
    different = body.op("Size", [body.op("Unique", [both])])
    is_relu = body.op("Equal", [different, body.constant(1)])
    runs = [
        body.ops("RNN", inputs, [f"{kind}_y", f"{kind}_h"], hidden_size=_hidden_size(), activations=[kind])
        for kind in ("Relu", "Tanh")
    ]
    y, h = (body.op("Where", [is_relu, a, b]) for a, b in zip(*runs, strict=True))
    _recurrence_outputs(body, y, [h], ["h_n"])


def _attention(body: _Body, mask: str = "") -> None:
    """softmax(scale q k' + mask) v for every head.

    ``columns`` [begin, end) of the last axis of an operand are its rows; in ``shape`` they lie there head by head, and
    ``perm`` brings these axes into the order batch, heads, rows, values.
    """

    def numbers(name: str) -> str:
        return body.op("Constant", [], value_ints=_reference(name, AttributeProto.INTS))

    def heads(operand: str) -> str:
        begin, end = body.ops("Split", [numbers(f"{operand}_columns")], [f"{operand}_begin", f"{operand}_end"], axis=0)
        rows = body.op("Slice", [operand, begin, end, body.constant([-1])])
        rows = body.op("Reshape", [rows, numbers(f"{operand}_shape")])
        return body.op("Transpose", [rows], perm=_reference(f"{operand}_perm", AttributeProto.INTS))

    q, k, v = (heads(operand) for operand in "qkv")
    scores = body.op("MatMul", [q, body.op("Transpose", [k], perm=[0, 1, 3, 2])])
    scores = body.op("Mul", [scores, body.op("Constant", [], value_float=_reference("scale", AttributeProto.FLOAT))])
    if mask == "added":
        scores = body.op("Add", [scores, "mask"])
    elif mask == "filled":
        fill = body.op("Constant", [], value_float=_reference("fill", AttributeProto.FLOAT))
        scores = body.op("Where", [body.op("Cast", ["mask"], to=onnx.TensorProto.BOOL), fill, scores])
    out = body.op("MatMul", [body.op("Softmax", [scores], axis=-1), v])
    out = body.op("Transpose", [out], perm=_reference("out_perm", AttributeProto.INTS))
    body.op("Reshape", [out, numbers("out_shape")], "out")


_BODIES: dict[str, Callable[[_Body], None]] = {
    "SoftmaxOutput": _softmax_output,
    "MakeLoss": _identity,
    "BlockGrad": _identity,
    "LinearRegressionOutput": _identity,
    "MAERegressionOutput": _identity,
    "LogisticRegressionOutput": _logistic,
    "SVMOutput": _identity,
    "BatchNorm": _batch_norm,
    "LSTM": _lstm,
    "GRU": _gru,
    "RNN": _rnn,
    "Attention": _attention,
    "BiasedAttention": lambda body: _attention(body, "added"),
    "MaskedAttention": lambda body: _attention(body, "filled"),
}


@functools.cache
def function(op_type: str) -> FunctionProto:
    """The function of an operator of the domain ``bucketmod``; the result is shared: copy it before a change.

    Raises KeyError for an operator without a body (gradient operators have none).
    """
    if op_type not in _BODIES:
        raise KeyError(f"operator {DOMAIN}::{op_type} has no function body; those with one: {', '.join(_BODIES)}")
    body, signature = _Body(), SIGNATURES[op_type]
    _BODIES[op_type](body)
    return helper.make_function(
        DOMAIN,
        op_type,
        signature.inputs,
        signature.outputs,
        body.nodes,
        [helper.make_opsetid("", OPSET)],
        signature.attributes,
    )


def functions_for(nodes: Iterable[NodeProto]) -> list[FunctionProto]:
    """The functions that the nodes call, each once, sorted by name."""
    used = {n.op_type for n in nodes if n.domain == DOMAIN}
    return [function(name) for name in sorted(used & _BODIES.keys())]
