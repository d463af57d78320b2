"""Brings what other exporters write into the forms that the compiler reads: one opset, no sequences, no functions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, inliner, numpy_helper, version_converter

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.program import DOMAIN, IR_VERSION, OPSET

_DOMAINS = ("", "ai.onnx", "com.microsoft", DOMAIN)
_ASIDE = "bucketmod.unconverted"  # domain of nodes that onnx's converter has to leave as they are


def standard_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model in opset 17 and IR 8, without doc strings (ours mean something), nodes without names, control
    flow, sequences and model-local functions of others. Raises UnsupportedOperatorError or CompileError otherwise."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    others = [(f.domain, f.name) for f in copy.functions if f.domain != DOMAIN]
    if others:
        copy = inliner.inline_selected_functions(copy, others)
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        node.doc_string = ""
        del node.metadata_props[:]
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{index}"
        taken.add(node.name)
    _refuse_external_data(copy.graph)  # first: reading such a tensor would open whatever file the model names
    _replace_sequences(copy.graph)
    _refuse(copy.graph)
    version = next((o.version for o in copy.opset_import if o.domain in ("", "ai.onnx")), OPSET)
    if version != OPSET:
        copy = _converted(copy, version)
    copy.ir_version = IR_VERSION
    return copy


def constant_tensors(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values of initializers and Constant nodes."""
    tensors = {t.name: t for t in graph.initializer}
    made = [n for n in graph.node if n.op_type == "Constant"]
    tensors |= {n.output[0]: a.t for n in made for a in n.attribute if a.name == "value"}
    return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}


def _refuse(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise UnsupportedOperatorError(
                f"node {node.name!r} ({node.op_type}): control flow is not supported; export the model with the loop "
                "unrolled and the branch decided",
                node.name,
            )
        if node.domain not in _DOMAINS or node.op_type.startswith(("Sequence", "Optional", "SplitToSequence")):
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise UnsupportedOperatorError(f"node {node.name!r}: operator {operator} is not supported", node.name)
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise UnsupportedOperatorError(f"initializer {name!r} is sparse; make it dense before exporting")


def _refuse_external_data(graph: onnx.GraphProto) -> None:
    attributes = (a for node in graph.node for a in node.attribute)
    for tensor in (*graph.initializer, *(t for a in attributes for t in (a.t, *a.tensors))):
        if tensor.data_location == TensorProto.EXTERNAL:
            raise CompileError(
                f"tensor {tensor.name!r} lies in another file; read the model with onnx.load(path), which brings "
                "such files along, or export with external_data=False"
            )


# ---- opsets


def _converted(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """By onnx's converter, which knows no way back for some operators that did not change as they are used here."""
    aside = [node for node in model.graph.node if version > OPSET and _is_unchanged(node)]
    for node in aside:
        node.domain = _ASIDE
    if aside:
        model.opset_import.append(helper.make_opsetid(_ASIDE, 1))
    try:
        converted = version_converter.convert_version(model, OPSET)
    except Exception as error:  # the converter raises RuntimeError, or its own kinds, by operator
        raise UnsupportedOperatorError(
            f"the model is of opset {version} and can't be converted to opset {OPSET}: {error}; export it with "
            f"opset_version={OPSET}"
        ) from error
    kept = [o for o in converted.opset_import if o.domain != _ASIDE]
    del converted.opset_import[:]
    converted.opset_import.extend(kept)
    for node in converted.graph.node:
        if node.domain == _ASIDE:
            node.domain = ""
    return converted


def _is_unchanged(node: NodeProto) -> bool:
    """Whether the node, written for a later opset, means the same in ours. Changes a Split into equal parts."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Split":  # equal parts need no number of parts: it has that many outputs
        kept = [a for a in node.attribute if a.name != "num_outputs"]
        del node.attribute[:]
        node.attribute.extend(kept)
        return True
    return node.op_type == "Pad" and len(node.input) <= 3


# ---- sequences


def _replace_sequences(graph: onnx.GraphProto) -> None:
    """SplitToSequence, where its parts are taken out one by one, is a Split."""
    if not any(node.op_type == "SplitToSequence" for node in graph.node):
        return
    constants = constant_tensors(graph)
    lengths = {}
    for value in (*graph.input, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        lengths[value.name] = [d.dim_value if d.HasField("dim_value") else 0 for d in dims]
    lengths |= {t.name: list(t.dims) for t in graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    replaced: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type == "SplitToSequence":
            takers = readers.get(node.output[0], [])
            sizes = _part_sizes(node, constants, lengths.get(node.input[0], []))
            if sizes and all(t.op_type == "SequenceAt" and t.input[1] in constants for t in takers):
                places = [int(constants[t.input[1]]) % len(sizes) for t in takers]
                replaced[node.name] = _as_split(graph, node, sizes, places, takers)
                replaced |= {taker.name: [] for taker in takers}
    nodes = [new for node in graph.node for new in replaced.get(node.name, [node])]
    del graph.node[:]
    graph.node.extend(nodes)


def _part_sizes(node: NodeProto, constants: dict[str, np.ndarray], shape: list[int]) -> list[int]:
    """Length of each part, nothing where it can't be told."""
    sizes = constants.get(node.input[1]) if len(node.input) > 1 else None
    if sizes is None:
        return []
    if sizes.ndim == 1:
        return [int(size) for size in sizes]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    whole, part = shape[axis] if -len(shape) <= axis < len(shape) else 0, int(sizes)
    return [min(part, whole - start) for start in range(0, whole, part)]


def _as_split(
    graph: onnx.GraphProto, node: NodeProto, sizes: list[int], places: list[int], takers: list[NodeProto]
) -> list[NodeProto]:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    known = f"{node.output[0]}_sizes"
    graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), known))
    names = [f"{node.output[0]}_part{i}" for i in range(len(sizes))]
    split = helper.make_node("Split", [node.input[0], known], names, name=node.name, axis=axis)
    # the names that the parts had before stay: one of them may be an output of the model
    copies = [
        helper.make_node("Identity", [names[place]], [taker.output[0]], name=taker.name)
        for place, taker in zip(places, takers, strict=True)
    ]
    return [split, *copies]
