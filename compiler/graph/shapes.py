"""Static shape and element type of every tensor, for the operators of ONNX, of the gradient builder and of our own.

ONNX's inference does not know the last two kinds, and a training program must have a type for every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.program import DOMAIN

MICROSOFT = "com.microsoft"
_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class TensorType(NamedTuple):
    """Element type (an ONNX number) and static shape."""

    elem_type: int
    shape: tuple[int, ...]

    @property
    def is_float(self) -> bool:
        return self.elem_type in _FLOAT_TYPES

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def proto(self) -> onnx.TypeProto:
        return helper.make_tensor_type_proto(self.elem_type, self.shape)

    @staticmethod
    def of_array(array: np.ndarray) -> TensorType:
        return TensorType(helper.np_dtype_to_tensor_dtype(array.dtype), tuple(array.shape))

    @staticmethod
    def of_proto(proto: onnx.TypeProto) -> TensorType | None:
        """None unless the proto is a tensor of known element type and static shape."""
        if not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
            return None
        dims = proto.tensor_type.shape.dim
        if not proto.tensor_type.elem_type or any(not d.HasField("dim_value") for d in dims):
            return None
        return TensorType(proto.tensor_type.elem_type, tuple(d.dim_value for d in dims))


def attributes(node: NodeProto) -> dict:
    """Attributes as Python values; strings decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def declared_types(graph: onnx.GraphProto) -> dict[str, TensorType]:
    """Types that the graph states: inputs, initializers, value_info, outputs."""
    types = {i.name: TensorType(i.data_type, tuple(i.dims)) for i in graph.initializer}
    for value in (*graph.value_info, *graph.output, *graph.input):
        found = TensorType.of_proto(value.type)
        if found is not None:
            types[value.name] = found
    return types


Inputs = Sequence["TensorType | None"]
Constants = Sequence["np.ndarray | None"]


class ShapeInference:
    """Infers the types of a node's outputs; equal questions are answered from memory (unrolled graphs repeat)."""

    def __init__(self, opset: int):
        self._opset = opset
        self._imports = [helper.make_opsetid("", opset)]
        self._known: dict[tuple, list[TensorType | None]] = {}

    def infer(self, node: NodeProto, inputs: Inputs, constants: Constants) -> list[TensorType | None]:
        """One type for each output of ``node``, None where the output is absent or its type cannot be told.

        ``inputs``: one type for each input, None for absent ones; ``constants``: the value where it is known.
        Raises CompileError where the inputs contradict the operator, UnsupportedOperatorError for unknown ones.
        """
        key = (
            node.domain,
            node.op_type,
            tuple(a.SerializeToString(deterministic=True) for a in node.attribute),
            tuple(inputs),
            tuple(None if c is None else (c.dtype.str, c.shape, c.tobytes()) for c in constants),
            tuple(map(bool, node.output)),
        )
        if key not in self._known:
            self._known[key] = self._infer(node, inputs, constants)
        return self._known[key]

    def _infer(self, node: NodeProto, inputs: Inputs, constants: Constants) -> list[TensorType | None]:
        rule = _RULES.get((node.domain, node.op_type))
        if rule is None:
            return self._standard(node, inputs, constants)
        types = list(rule(node, inputs, constants))
        types += [None] * (len(node.output) - len(types))
        return [t if name else None for t, name in zip(types, node.output, strict=False)]

    def _standard(self, node: NodeProto, inputs: Inputs, constants: Constants) -> list[TensorType | None]:
        if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
            raise UnsupportedOperatorError(
                f"node {node.name!r}: operator {node.domain or 'ai.onnx'}::{node.op_type} is not known", node.name
            )
        schema = onnx.defs.get_schema(node.op_type, self._opset)
        types = {n: t.proto() for n, t in zip(node.input, inputs, strict=True) if n and t is not None}
        data = {
            n: numpy_helper.from_array(c) for n, c in zip(node.input, constants, strict=True) if n and c is not None
        }
        try:
            found = onnx.shape_inference.infer_node_outputs(schema, node, types, data, opset_imports=self._imports)
        except Exception as error:  # onnx raises InferenceError, RuntimeError or ValidationError by operator
            raise CompileError(
                f"node {node.name!r} ({node.op_type}): inputs {list(inputs)}: {error}", node.name
            ) from error
        return [TensorType.of_proto(found[name]) if name in found else None for name in node.output]


Rule = Callable[[NodeProto, Inputs, Constants], Sequence["TensorType | None"]]


def _known(node: NodeProto, inputs: Inputs, index: int) -> TensorType:
    found = inputs[index] if index < len(inputs) else None
    if found is None:
        raise CompileError(f"node {node.name!r} ({node.op_type}): the type of input {index} is not known", node.name)
    return found


def _like(*positions: int) -> Rule:
    """Outputs have the types of these inputs."""

    def rule(node: NodeProto, inputs: Inputs, constants: Constants) -> Sequence[TensorType | None]:
        return [inputs[p] if p < len(inputs) else None for p in positions]

    return rule


def _shape_from_constant(shape: int, data: int) -> Rule:
    """The output's shape is the value of input ``shape``, its element type that of input ``data``."""

    def rule(node: NodeProto, inputs: Inputs, constants: Constants) -> Sequence[TensorType | None]:
        value = constants[shape]
        if value is None:
            return [None]
        return [TensorType(_known(node, inputs, data).elem_type, tuple(int(v) for v in value))]

    return rule


def _fused_matmul(node: NodeProto, inputs: Inputs, constants: Constants) -> Sequence[TensorType | None]:
    a, b = _known(node, inputs, 0), _known(node, inputs, 1)
    options = attributes(node)
    if options.get("transBatchA") or options.get("transBatchB") or min(len(a.shape), len(b.shape)) < 2:
        raise UnsupportedOperatorError(f"node {node.name!r}: FusedMatMul on {a.shape}, {b.shape}, {options}", node.name)
    rows, inner = a.shape[-2:][::-1] if options.get("transA") else a.shape[-2:]
    inner_b, columns = b.shape[-2:][::-1] if options.get("transB") else b.shape[-2:]
    if inner != inner_b:
        raise CompileError(f"node {node.name!r}: FusedMatMul of {a.shape} and {b.shape} with {options}", node.name)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return [TensorType(a.elem_type, (*batch, rows, columns))]


def _broadcast_gradient_axes(node: NodeProto, inputs: Inputs, constants: Constants) -> Sequence[TensorType | None]:
    return [None, None]  # always folded: both inputs are shapes


def _recurrence(kind: str) -> Rule:
    """Types of LSTM, GRU, RNN and their training forms: sequence, last states, then what backward needs."""
    gates = {"LSTM": 4, "GRU": 4, "RNN": 0}[kind]

    def rule(node: NodeProto, inputs: Inputs, constants: Constants) -> Sequence[TensorType | None]:
        x, h2h = _known(node, inputs, 0), _known(node, inputs, 2)
        steps, batch, hidden = *x.shape[:2], h2h.shape[1]
        sequence = TensorType(x.elem_type, (steps, batch, hidden))
        state = TensorType(x.elem_type, (batch, hidden))
        types = [sequence, state] + [state] * (kind == "LSTM")
        if node.op_type.endswith("Training") and gates:
            types.append(TensorType(x.elem_type, (steps, batch, gates * hidden)))
            types += [sequence] * (kind == "LSTM")
        return types

    return rule


def _attention(node: NodeProto, inputs: Inputs, constants: Constants) -> Sequence[TensorType | None]:
    """The heads side by side, then the statistics of the softmax, [batch, heads, queries]."""
    options, kind = attributes(node), _known(node, inputs, 0).elem_type
    rows = [options["q_shape"][i] for i in options["q_perm"][:3]]
    return [TensorType(kind, tuple(options["out_shape"])), TensorType(kind, tuple(rows))]


_ATTENTION = ("Attention", "BiasedAttention", "MaskedAttention")
_SAME_AS_FIRST = (
    "SigmoidGrad TanhGrad ReluGrad LeakyReluGrad GeluGrad FastGeluGrad QuickGeluGrad SoftmaxGrad_13 LogSoftmaxGrad_13 "
    "DropoutGrad Scale Gelu FastGelu QuickGelu"
)
_HEADS = (
    "SoftmaxOutput SoftmaxOutputGrad MakeLoss MakeLossGrad BlockGrad LinearRegressionOutput MAERegressionOutput "
    "LogisticRegressionOutput SVMOutput"
)

_RULES: dict[tuple[str, str], Rule] = {
    **{(MICROSOFT, name): _like(0) for name in _SAME_AS_FIRST.split()},
    (MICROSOFT, "DivGrad"): _like(1, 2),
    (MICROSOFT, "LayerNormalizationGrad"): _like(1, 2, 2),
    (MICROSOFT, "FusedMatMul"): _fused_matmul,
    (MICROSOFT, "GatherGrad"): _shape_from_constant(0, 2),
    (MICROSOFT, "SliceGrad"): _shape_from_constant(1, 0),
    (MICROSOFT, "GatherElementsGrad"): _shape_from_constant(1, 0),
    (DOMAIN, "ConvWeightGrad"): _shape_from_constant(2, 0),
    (DOMAIN, "AveragePoolGrad"): _shape_from_constant(1, 0),
    (DOMAIN, "MaxPoolGrad"): _like(1),
    (MICROSOFT, "BroadcastGradientArgs"): _broadcast_gradient_axes,
    **{(DOMAIN, name): _like(0) for name in _HEADS.split()},
    (DOMAIN, "BatchNorm"): _like(0, 1, 1, 1),
    (DOMAIN, "BatchNormGrad"): _like(1, 2, 2),
    **{(DOMAIN, kind + form): _recurrence(kind) for kind in ("LSTM", "GRU", "RNN") for form in ("", "Training")},
    **{(DOMAIN, kind + form): _attention for kind in _ATTENTION for form in ("", "Training")},
    **{(DOMAIN, f"{kind}Grad"): _like(1, 2, 3) for kind in _ATTENTION},
    (DOMAIN, "LSTMGrad"): _like(0, 1, 2, 3, 4, 5, 6),
    (DOMAIN, "GRUGrad"): _like(0, 1, 2, 3, 4, 5),
    (DOMAIN, "RNNGrad"): _like(0, 1, 2, 3, 4, 5),
}
