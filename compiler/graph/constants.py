"""Folds shape arithmetic into constants and takes out what then does nothing.

Shapes are static, so whatever a graph computes from shapes is known. After this pass the axes of a reduction, the shape
of a Reshape, the sizes of a Split and the like are constant initializers, every tensor has a type, nothing is dead, and
no node only passes its input on, except for an output of the program that is also an input, a constant, or another
output under a second name.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from bucketmod.compiler.errors import CompileError, UnsupportedOperatorError
from bucketmod.compiler.graph.evaluation import can_evaluate, evaluate, shape_only
from bucketmod.compiler.graph.identities import simplify
from bucketmod.compiler.graph.parts import is_backward
from bucketmod.compiler.graph.shapes import MICROSOFT, ShapeInference, TensorType, declared_types
from bucketmod.compiler.graph.tensors import SMALL, Tensors
from bucketmod.compiler.program import DOMAIN, IR_VERSION, OPSET, Program

# Operators whose outputs from this index on may be absent.
OPTIONAL_OUTPUTS = {
    ("", "Dropout"): 1,
    ("", "LayerNormalization"): 1,
    (MICROSOFT, "LayerNormalizationGrad"): 0,
    (DOMAIN, "BatchNorm"): 1,
    (DOMAIN, "BatchNormGrad"): 0,
    **{(DOMAIN, kind + form): 0 for kind in ("LSTM", "GRU", "RNN") for form in ("Training", "Grad")},
}


def fold_constants(program: Program) -> Program:
    """The same function of the same inputs, without shape arithmetic, no-ops and dead code.

    Names of inputs and outputs stay; a remaining node keeps its name. Raises CompileError where a declared shape
    contradicts the inferred one, UnsupportedOperatorError for operators of which the type cannot be told.
    """
    folding = _Folding(program)
    for node in program.model.graph.node:
        folding.visit(node)
    return folding.result()


class _Folding:
    """State of one walk over the graph, in its order."""

    def __init__(self, program: Program):
        self._program = program
        graph = program.model.graph
        self._opset = next((o.version for o in program.model.opset_import if o.domain in ("", "ai.onnx")), OPSET)
        self._declared = declared_types(graph)
        self._tensors = Tensors(graph)
        self._tensors.types.update({v.name: self._declared[v.name] for v in graph.input if v.name in self._declared})
        self._outputs = [v.name for v in graph.output]
        self._nodes: list[NodeProto] = []
        self._inference = ShapeInference(self._opset)

    def visit(self, original: NodeProto) -> None:
        node = self._resolved(original)
        types = [self._tensors.type(name) for name in node.input]
        values = self._values(node, types)
        if values is not None:
            for name, value in zip(node.output, values, strict=False):
                self._tensors.aliases[name] = self._tensors.constant(value)
            return
        self._type_outputs(node, types)
        simpler = simplify(node, self._tensors)
        if isinstance(simpler, str):
            self._tensors.aliases[node.output[0]] = simpler
            return
        node = node if simpler is None else simpler
        self._nodes.append(node)
        self._tensors.producers.update({name: node for name in node.output if name})

    def _resolved(self, original: NodeProto) -> NodeProto:
        """A copy that reads tensors by their first names."""
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in original.attribute):
            raise UnsupportedOperatorError(
                f"node {original.name!r}: {original.op_type} holds a graph of its own; control flow is not supported: "
                "export the model with fixed control flow",
                original.name,
            )
        node = NodeProto()
        node.CopyFrom(original)
        for index, name in enumerate(node.input):
            node.input[index] = self._tensors.aliases.get(name, name)
        return node

    def _values(self, node: NodeProto, types: list[TensorType | None]) -> list[np.ndarray] | None:
        """Outputs of the node where they are known and worth keeping as data."""
        if node.op_type == "Constant" and not node.domain:
            return evaluate(node, [], self._opset)
        if any(name in self._outputs for name in node.output):
            return None  # an output of the program needs a node that makes it
        known = shape_only(node, types) if node.input else None
        if known is not None:
            return known
        constants = self._tensors.constants
        if not can_evaluate(node) or not all(name in constants for name in node.input if name):
            return None
        self._type_outputs(node, types)
        made = sum(self._tensors.types[name].size for name in node.output if name in self._tensors.types)
        if made > max(SMALL, sum(t.size for t in types if t is not None)):
            return None
        return evaluate(node, [self._tensors.value(name) for name in node.input], self._opset)

    def _type_outputs(self, node: NodeProto, types: list[TensorType | None]) -> None:
        for name, inferred in zip(node.output, self._infer(node, types), strict=False):
            stated = self._declared.get(name)
            if name and inferred is not None and stated is not None and inferred != stated:
                raise CompileError(
                    f"node {node.name!r} ({node.op_type}): output {name!r} is declared as {_describe(stated)}, but "
                    f"follows from the inputs {[_describe(t) for t in types if t]} as {_describe(inferred)}",
                    node.name,
                )
            found = inferred or stated
            if name and found is not None:
                self._tensors.types[name] = found

    def _infer(self, node: NodeProto, types: list[TensorType | None]) -> list[TensorType | None]:
        values = [self._tensors.value(name) for name in node.input]
        try:
            return self._inference.infer(node, types, [None if v is None or v.size > SMALL else v for v in values])
        except UnsupportedOperatorError:
            if all(name in self._declared for name in node.output if name):
                return [None] * len(node.output)  # the graph states what cannot be inferred
            raise

    # ---- the new graph

    def result(self) -> Program:
        self._name_outputs()
        nodes = _live(self._nodes, self._outputs)
        model = onnx.ModelProto()
        model.CopyFrom(self._program.model)
        graph = model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(nodes)
        constants = self._tensors.constants
        used = {name: None for node in nodes for name in node.input if name in constants}
        graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in used)
        graph.value_info.extend(self._value_infos(nodes))
        domains = _keep_functions(model)
        del model.opset_import[:]
        model.opset_import.extend(
            helper.make_opsetid(domain, 1 if domain else self._opset) for domain in sorted({"", *domains})
        )
        model.ir_version = min(model.ir_version, IR_VERSION)
        return Program(model, list(self._program.inputs), list(self._program.outputs))

    def _name_outputs(self) -> None:
        """Gives a tensor that is an output by another name that output's name; copies where that cannot be."""
        fixed = {v.name for v in self._program.model.graph.input} | set(self._tensors.constants) | set(self._outputs)
        parts = {name: node.doc_string for node in self._program.model.graph.node for name in node.output}
        renamed: dict[str, str] = {}
        for output in self._outputs:
            source = self._tensors.aliases.get(output, output)
            if source == output:
                continue
            self._tensors.types[output] = self._tensors.types[source]
            if source in fixed or source in renamed:
                copy = helper.make_node("Identity", [renamed.get(source, source)], [output], name=f"{output}_copy")
                copy.doc_string = parts[output]
                self._insert(copy)
            else:
                renamed[source] = output
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name in renamed:
                        names[index] = renamed[name]

    def _insert(self, copy: NodeProto) -> None:
        """At the end of the part of the program that the copy belongs to."""
        place = len(self._nodes)
        while not is_backward(copy) and place and is_backward(self._nodes[place - 1]):
            place -= 1
        self._nodes.insert(place, copy)

    def _value_infos(self, nodes: Iterable[NodeProto]) -> Iterable[onnx.ValueInfoProto]:
        for node in nodes:
            for name in node.output:
                if not name or name in self._outputs:
                    continue
                if name not in self._tensors.types:
                    raise CompileError(
                        f"node {node.name!r} ({node.op_type}): the shape of output {name!r} is not known; every shape "
                        "must be static",
                        node.name,
                    )
                yield helper.make_value_info(name, self._tensors.types[name].proto())


def _describe(found: TensorType) -> str:
    return f"{helper.tensor_dtype_to_np_dtype(found.elem_type)}{list(found.shape)}"


def _live(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Nodes that the outputs need; optional outputs that nobody reads become absent."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if not any(name in needed for name in node.output):
            continue
        if (node.domain, node.op_type) in OPTIONAL_OUTPUTS:
            first = OPTIONAL_OUTPUTS[node.domain, node.op_type]
            names = [n if n in needed or i < first else "" for i, n in enumerate(node.output)]
            while not names[-1]:
                names.pop()
            del node.output[:]
            node.output.extend(names)
        while node.input and not node.input[-1]:
            node.input.pop()
        needed.update(name for name in node.input if name)
        kept.append(node)
    return kept[::-1]


def _keep_functions(model: onnx.ModelProto) -> set[str]:
    """Drops model-local functions that no node uses; the domains that the model needs."""
    used = {(node.domain, node.op_type) for node in model.graph.node}
    functions = [f for f in model.functions if (f.domain, f.name) in used]
    used |= {(node.domain, node.op_type) for f in functions for node in f.node}
    del model.functions[:]
    model.functions.extend(functions)
    return {"" if domain == "ai.onnx" else domain for domain, _ in used}
