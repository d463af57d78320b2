"""What may be differentiated: operators and attributes whose gradient the tests have proven by finite differences.

The gradient builder is silently wrong in places; what is not listed here is refused by name, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto

from bucketmod.compiler.errors import UnsupportedGradientError
from bucketmod.compiler.gradient.activity import ATTENTION
from bucketmod.compiler.graph.shapes import TensorType, attributes
from bucketmod.compiler.program import DOMAIN


@dataclass(frozen=True)
class Surroundings:
    """What a check may look at beside the node."""

    types: Mapping[str, TensorType]
    constants: Mapping[str, np.ndarray]
    active: frozenset[str]  # tensors that get a gradient


Check = Callable[[NodeProto, Surroundings], str]  # what is not allowed and what to do instead; "" if all is well


def check_allowed(node: NodeProto, surroundings: Surroundings) -> None:
    """Raises UnsupportedGradientError, naming node, operator and attribute, unless the gradient is proven."""
    operator = f"{node.domain or 'ai.onnx'}::{node.op_type}"
    check = ALLOWED.get((node.domain, node.op_type))
    if check is None:
        reason = (
            "the operator has no proven gradient; write it with operators that have one, or put BlockGrad before it"
        )
    else:
        reason = _element_types(node, surroundings) or check(node, surroundings)
    if reason:
        raise UnsupportedGradientError(f"node {node.name!r} ({operator}): no gradient: {reason}", node.name)


def _element_types(node: NodeProto, around: Surroundings) -> str:
    for name in (*node.input, *node.output):
        if name in around.active and around.types[name].elem_type not in (TensorProto.FLOAT, TensorProto.DOUBLE):
            return (
                f"{name!r} has element type {TensorProto.DataType.Name(around.types[name].elem_type)}; cast to float32"
            )
    return ""


def _anything(node: NodeProto, around: Surroundings) -> str:
    return ""


def _constant_inputs(*positions: int) -> Check:
    """These inputs, where present, must be known when compiling."""

    def check(node: NodeProto, around: Surroundings) -> str:
        for position in positions:
            name = node.input[position] if position < len(node.input) else ""
            if name and name not in around.constants:
                return f"input {position} ({name!r}) is computed at run time; make it a constant"
        return ""

    return check


def _two_inputs(node: NodeProto, around: Surroundings) -> str:
    return "" if len(node.input) == 2 else f"it has {len(node.input)} inputs; chain operators of two inputs"


def _matrices(node: NodeProto, around: Surroundings) -> str:
    shapes = [around.types[name].shape for name in node.input]
    return "" if min(map(len, shapes)) >= 2 else f"inputs of shapes {shapes}; reshape vectors to matrices"


def _leaky_relu(node: NodeProto, around: Surroundings) -> str:
    alpha = attributes(node).get("alpha", 0.01)
    return "" if alpha >= 0 else f"attribute alpha is {alpha}; a slope must not be negative"


def _dropout(node: NodeProto, around: Surroundings) -> str:
    wrong = _constant_inputs(1, 2)(node, around)
    if wrong:
        return wrong
    training = around.constants.get(node.input[2]) if len(node.input) > 2 else None
    if training is None or not training.all():
        return "training_mode is not true; leave inactive Dropout out"
    ratio = float(around.constants[node.input[1]]) if node.input[1] else 0.5
    return "" if 0 <= ratio < 1 else f"ratio is {ratio}; it must be in [0, 1)"


def _layer_normalization(node: NodeProto, around: Surroundings) -> str:
    if attributes(node).get("stash_type", 1) != 1:
        return f"attribute stash_type is {attributes(node)['stash_type']}; only 1 (float32) is supported"
    if any(name in around.active for name in node.output[1:]):
        return "its Mean or InvStdDev is differentiated; compute them with ReduceMean"
    return ""


def _reduction(node: NodeProto, around: Surroundings) -> str:
    return _constant_inputs(1)(node, around)


def _softmax_output(node: NodeProto, around: Surroundings) -> str:
    normalization = attributes(node).get("normalization", "null")
    known = ("null", "batch", "valid")
    return "" if normalization in known else f"attribute normalization is {normalization!r}; expected one of {known}"


def _batch_norm(node: NodeProto, around: Surroundings) -> str:
    if any(name in around.active for name in node.output[1:]):
        return "its statistics are differentiated; compute them with ReduceMean"
    return ""


def _batch_normalization(node: NodeProto, around: Surroundings) -> str:
    if attributes(node).get("training_mode", 0):
        return "attribute training_mode is 1; batch statistics are those of the operator BatchNorm of bucketmod"
    if any(name in around.active for name in node.input[3:]):
        return "its statistics are differentiated; write it with Sub, Mul and Add"
    return ""


def _windows(node: NodeProto, around: Surroundings) -> str:
    axes = len(around.types[node.input[0]].shape) - 2
    if axes not in (1, 2):
        return f"its windows move along {axes} axes; one or two are supported"
    for name, plain in (("auto_pad", "NOTSET"), ("ceil_mode", 0), ("output_shape", None)):
        if attributes(node).get(name, plain) != plain:
            return f"attribute {name} is {attributes(node)[name]!r}; write its pads out"
    if len(node.output) > 1 and node.output[1]:
        return "the positions of its maxima are used"
    return ""


def _rnn(node: NodeProto, around: Surroundings) -> str:
    activation = attributes(node).get("activation", "tanh")
    return "" if activation in ("tanh", "relu") else f"attribute activation is {activation!r}; expected tanh or relu"


_ELEMENTWISE = (
    "Add Sub Mul Div Pow Neg Sqrt Exp Log Abs Reciprocal Erf Sin Cos Tanh Sigmoid Relu Elu Softplus Softsign Clip Where"
)
_REARRANGING = "Identity Flatten Transpose Concat Cast"

ALLOWED: dict[tuple[str, str], Check] = {
    **{("", name): _anything for name in f"{_ELEMENTWISE} {_REARRANGING} Sum Softmax LogSoftmax Gemm Gather".split()},
    **{("", name): _constant_inputs(1) for name in "Reshape Squeeze Unsqueeze Expand Split".split()},
    **{("", name): _reduction for name in "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd".split()},
    **{("", name): _two_inputs for name in ("Max", "Min")},
    ("", "Slice"): _constant_inputs(1, 2, 3, 4),
    ("", "MatMul"): _matrices,
    ("", "LeakyRelu"): _leaky_relu,
    ("", "Dropout"): _dropout,
    ("", "LayerNormalization"): _layer_normalization,
    (DOMAIN, "SoftmaxOutput"): _softmax_output,
    (DOMAIN, "MakeLoss"): _softmax_output,
    **{(DOMAIN, f"{kind}RegressionOutput"): _anything for kind in ("Linear", "MAE", "Logistic")},
    (DOMAIN, "SVMOutput"): _anything,
    (DOMAIN, "BatchNorm"): _batch_norm,
    ("", "BatchNormalization"): _batch_normalization,
    **{("", name): _windows for name in ("Conv", "ConvTranspose", "MaxPool", "AveragePool")},
    ("", "GlobalAveragePool"): _anything,
    **{(DOMAIN, name): _anything for name in ATTENTION},
    (DOMAIN, "LSTM"): _anything,
    (DOMAIN, "GRU"): _anything,
    (DOMAIN, "RNN"): _rnn,
}
