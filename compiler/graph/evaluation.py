"""Values of nodes whose inputs are constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import NodeProto, helper
from onnx.reference import ReferenceEvaluator

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.graph.shapes import MICROSOFT, TensorType, attributes

Arrays = Sequence["np.ndarray | None"]

# Not functions of their inputs, or with a body of their own to look into.
_NOT_CONSTANT = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial",
                 "Dropout", "If", "Loop", "Scan"}  # fmt: skip


def can_evaluate(node: NodeProto) -> bool:
    """Whether :func:`evaluate` has a value for a node once its inputs are known."""
    if node.domain in ("", "ai.onnx"):
        return node.op_type not in _NOT_CONSTANT
    return (node.domain, node.op_type) in _FAST


def shape_only(node: NodeProto, types: Sequence[TensorType | None]) -> list[np.ndarray] | None:
    """Values of a node that looks at the shapes of its inputs only; None for other nodes and unknown shapes."""
    if node.op_type not in ("Shape", "Size") or node.domain or types[0] is None:
        return None
    if node.op_type == "Size":
        return [np.array(types[0].size, np.int64)]
    options = attributes(node)
    return [np.array(types[0].shape, np.int64)[options.get("start", 0) : options.get("end", None)]]


def evaluate(node: NodeProto, inputs: Arrays, opset: int) -> list[np.ndarray]:
    """The outputs of ``node``; ``inputs`` holds None for absent optional inputs. Raises CompileError on failure."""
    try:
        fast = _FAST.get((node.domain, node.op_type))
        with np.errstate(all="ignore"):
            return [np.asarray(v) for v in (fast(node, inputs) if fast else _reference(node, inputs, opset))]
    except Exception as error:  # whatever numpy or the reference says, the node is what the reader needs
        raise CompileError(f"node {node.name!r} ({node.op_type}) on constants: {error}", node.name) from error


def _reference(node: NodeProto, inputs: Arrays, opset: int) -> list[np.ndarray]:
    given = {name: value for name, value in zip(node.input, inputs, strict=True) if name and value is not None}
    ports = [helper.make_value_info(name, TensorType.of_array(value).proto()) for name, value in given.items()]
    results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", ports, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, given)


def _elementwise(function: Callable) -> Callable:
    def run(node: NodeProto, inputs: Arrays) -> list[np.ndarray]:
        return [np.asarray(function(*inputs)).astype(np.asarray(inputs[0]).dtype)]

    return run


def _divide(node: NodeProto, inputs: Arrays) -> list[np.ndarray]:
    a, b = np.asarray(inputs[0]), np.asarray(inputs[1])
    if a.dtype.kind == "f":
        return [a / b]
    return [np.trunc(a / b).astype(a.dtype)]  # integer division of ONNX rounds towards zero


def _scale(node: NodeProto, inputs: Arrays) -> list[np.ndarray]:
    data, factor = np.asarray(inputs[0]), np.asarray(inputs[1]).astype(np.asarray(inputs[0]).dtype)
    return [data / factor if attributes(node).get("scale_down") else data * factor]


def _broadcast_gradient_axes(node: NodeProto, inputs: Arrays) -> list[np.ndarray]:
    """Axes along which each of two operands was broadcast, given their shapes."""
    a, b = (tuple(int(v) for v in np.asarray(shape)) for shape in inputs)
    rank = max(len(a), len(b))
    padded = [(1,) * (rank - len(s)) + s for s in (a, b)]
    return [
        np.array([i for i in range(rank) if mine[i] == 1 and (other[i] != 1 or i < rank - len(shape))], np.int64)
        for shape, mine, other in ((a, *padded), (b, *padded[::-1]))
    ]


def _gather(node: NodeProto, inputs: Arrays) -> list[np.ndarray]:
    return [np.take(np.asarray(inputs[0]), np.asarray(inputs[1]), axis=attributes(node).get("axis", 0))]


def _concat(node: NodeProto, inputs: Arrays) -> list[np.ndarray]:
    return [np.concatenate([np.asarray(v) for v in inputs], axis=attributes(node)["axis"])]


_FAST: dict[tuple[str, str], Callable[[NodeProto, Arrays], list[np.ndarray]]] = {
    ("", "Add"): _elementwise(np.add),
    ("", "Sub"): _elementwise(np.subtract),
    ("", "Mul"): _elementwise(np.multiply),
    ("", "Neg"): _elementwise(np.negative),
    ("", "Identity"): _elementwise(np.asarray),
    ("", "Div"): _divide,
    ("", "Gather"): _gather,
    ("", "Concat"): _concat,
    (MICROSOFT, "Scale"): _scale,
    (MICROSOFT, "BroadcastGradientArgs"): _broadcast_gradient_axes,
}
