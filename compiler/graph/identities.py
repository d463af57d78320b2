"""Nodes that do nothing, or the same as a simpler one, once shapes and constants are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import NodeProto, helper

from bucketmod.compiler.graph.shapes import MICROSOFT, TensorType, attributes
from bucketmod.compiler.graph.tensors import Tensors

# A rule answers with the name of a tensor that holds the node's only output already, with a simpler node, or with None.
_Rule = Callable[[NodeProto, Tensors], "str | NodeProto | None"]

_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}  # same elements in the same order


def simplify(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    """The tensor or the simpler node that replaces ``node``, None where it stays.

    The types of inputs and outputs must be known. A replacing node has the same name and outputs.
    """
    rule = _RULES.get((node.domain, node.op_type))
    if rule is None or tensors.type(node.output[0]) is None:
        return None
    return rule(node, tensors)


def _replace(node: NodeProto, op_type: str, inputs: list[str], **options: object) -> NodeProto:
    made = helper.make_node(op_type, inputs, list(node.output), name=node.name, **options)
    made.doc_string = node.doc_string
    return made


def _types(node: NodeProto, tensors: Tensors) -> tuple[TensorType, TensorType]:
    return tensors.types[node.input[0]], tensors.types[node.output[0]]


def _pass_through(node: NodeProto, tensors: Tensors) -> str | None:
    return node.input[0]


def _if_same_type(node: NodeProto, tensors: Tensors) -> str | None:
    given, made = _types(node, tensors)
    return node.input[0] if given == made else None


def _if_single(node: NodeProto, tensors: Tensors) -> str | None:
    return node.input[0] if len(node.input) == 1 else None


def _shape(tensors: Tensors, shape: tuple[int, ...]) -> str:
    return tensors.constant(np.array(shape, np.int64))


def _view(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    """Views of views become one; the shape of a Reshape becomes complete."""
    given, made = _types(node, tensors)
    source, before = node.input[0], tensors.producers.get(node.input[0])
    if before is not None and not before.domain and before.op_type in _VIEWS:
        source = before.input[0]
    if tensors.types[source] == made:
        return source
    if given == made:
        return node.input[0]
    if node.op_type != "Reshape" and source == node.input[0]:
        return None
    options = {"allowzero": 1} if 0 in made.shape else {}
    return _replace(node, "Reshape", [source, _shape(tensors, made.shape)], **options)


def _expand(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    given, made = _types(node, tensors)
    value = tensors.value(node.input[0])
    if given == made:
        return node.input[0]
    if value is not None and value.size == 1:
        filler = helper.make_tensor("value", given.elem_type, [1], value.reshape(-1).tolist())
        return _replace(node, "ConstantOfShape", [_shape(tensors, made.shape)], value=filler)
    return _replace(node, "Expand", [node.input[0], _shape(tensors, made.shape)])


def _transpose(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    given, _ = _types(node, tensors)
    order = attributes(node).get("perm") or list(range(len(given.shape)))[::-1]
    source, before = node.input[0], tensors.producers.get(node.input[0])
    if before is not None and before.op_type == "Transpose" and not before.domain:
        first = attributes(before)["perm"]
        source, order = before.input[0], [first[axis] for axis in order]
    if list(order) == list(range(len(order))):
        return source
    return _replace(node, "Transpose", [source], perm=list(order))


def _reduce_sum(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    """The axes become explicit, positive and ascending; a sum over axes of length one is a view."""
    given, made = _types(node, tensors)
    options = attributes(node)
    if len(node.input) > 1 and node.input[1]:
        axes = tensors.value(node.input[1])
        if axes is None:
            return None
        listed = sorted(int(a) % len(given.shape) for a in axes.reshape(-1))
    else:
        listed = []
    if not listed and not options.get("noop_with_empty_axes"):
        listed = list(range(len(given.shape)))
    if all(given.shape[axis] == 1 for axis in listed):
        if given == made:
            return node.input[0]
        return _replace(node, "Reshape", [node.input[0], _shape(tensors, made.shape)])
    axes_name = tensors.constant(np.array(listed, np.int64))
    return _replace(node, "ReduceSum", [node.input[0], axes_name], keepdims=options.get("keepdims", 1))


def _sum(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    if len(node.input) == 2:
        return _replace(node, "Add", list(node.input))
    return _if_single(node, tensors)


def _split(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    given, _ = _types(node, tensors)
    if len(node.output) == 1:
        return node.input[0]
    axis = attributes(node).get("axis", 0) % len(given.shape)
    sizes = tensors.constant(np.array([tensors.types[name].shape[axis] for name in node.output], np.int64))
    return _replace(node, "Split", [node.input[0], sizes], axis=axis)


def _slice(node: NodeProto, tensors: Tensors) -> str | None:
    given, made = _types(node, tensors)
    steps = tensors.value(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
    if given == made and steps is not None and bool(np.all(steps == 1)):
        return node.input[0]
    return None


def _neutral(value: float, positions: tuple[int, ...]) -> _Rule:
    """An operand filled with ``value`` does nothing in one of ``positions``."""

    def rule(node: NodeProto, tensors: Tensors) -> str | None:
        for position in positions:
            constant, other = tensors.value(node.input[position]), node.input[1 - position]
            if constant is not None and constant.size and tensors.type(other) == tensors.type(node.output[0]):
                if bool(np.all(constant == value)):
                    return other
        return None

    return rule


def _power(node: NodeProto, tensors: Tensors) -> str | NodeProto | None:
    exponent = tensors.value(node.input[1])
    given, made = _types(node, tensors)
    if exponent is None or exponent.size != 1 or given != made:
        return None
    if exponent.item() == 2:
        return _replace(node, "Mul", [node.input[0], node.input[0]])
    return node.input[0] if exponent.item() == 1 else None


def _dropout(node: NodeProto, tensors: Tensors) -> str | None:
    if len(node.output) > 1 and node.output[1]:
        return None
    training = tensors.value(node.input[2]) if len(node.input) > 2 and node.input[2] else np.array(False)
    ratio = tensors.value(node.input[1]) if len(node.input) > 1 and node.input[1] else np.array(0.5)
    idle = (training is not None and not training.any()) or (ratio is not None and not ratio.any())
    return node.input[0] if idle else None


def _scale(node: NodeProto, tensors: Tensors) -> NodeProto | None:
    """The gradient builder's product with a number of any type."""
    given, _ = _types(node, tensors)
    factor = tensors.value(node.input[1])
    if factor is None:
        return None
    value = 1.0 / float(factor.item()) if attributes(node).get("scale_down") else float(factor.item())
    dtype = helper.tensor_dtype_to_np_dtype(given.elem_type)
    return _replace(node, "Mul", [node.input[0], tensors.constant(np.array(value, dtype))])


_RULES: dict[tuple[str, str], _Rule] = {
    ("", "Identity"): _pass_through,
    ("", "Cast"): _if_same_type,
    **{("", name): _view for name in _VIEWS},
    ("", "Expand"): _expand,
    ("", "Transpose"): _transpose,
    ("", "ReduceSum"): _reduce_sum,
    ("", "Sum"): _sum,
    ("", "Concat"): _if_single,
    ("", "Split"): _split,
    ("", "Slice"): _slice,
    ("", "Mul"): _neutral(1, (0, 1)),
    ("", "Div"): _neutral(1, (1,)),
    ("", "Add"): _neutral(0, (0, 1)),
    ("", "Sub"): _neutral(0, (1,)),
    ("", "Pow"): _power,
    ("", "Dropout"): _dropout,
    (MICROSOFT, "Scale"): _scale,
}
