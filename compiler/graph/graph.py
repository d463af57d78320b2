"""An editable view of a program's graph: who makes each tensor, who reads it, what shape it has.

Everything is indexed once, so that a pass over thousands of nodes stays linear; the model is written back once.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bucketmod.compiler.functions import functions_for
from bucketmod.compiler.program import DOMAIN, Program

Shape = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Node:
    """``op`` is the operator's name, with the domain in front (``bucketmod::LSTM``) unless it is ONNX's own.
    ``order`` is the place in the program that this node would like to keep."""

    op: str
    name: str
    inputs: list[str]
    outputs: list[str]
    order: int
    attributes: dict[str, Any]
    removed: bool = False

    def to_proto(self) -> onnx.NodeProto:
        domain, _, op_type = self.op.rpartition("::")
        proto = helper.make_node(op_type, self.inputs, self.outputs, name=self.name, domain=domain)
        # sorted: the bytes of a program must not depend on the order in which a pass wrote the attributes
        proto.attribute.extend(helper.make_attribute(k, v) for k, v in sorted(self.attributes.items()))
        return proto


@dataclass
class Graph:
    """Built by :meth:`of`. Tensors are names; ``elem_types`` are ONNX's numbers."""

    program: Program
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    elem_types: dict[str, int] = field(default_factory=dict)
    outputs: set[str] = field(default_factory=set)
    _slots: dict[str, tuple[Node, int]] = field(default_factory=dict)
    _readers: dict[str, list[Node]] = field(default_factory=dict)
    _initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _arrays: dict[str, np.ndarray] = field(default_factory=dict)
    _names: set[str] = field(default_factory=set)
    _node_names: set[str] = field(default_factory=set)

    @staticmethod
    def of(program: Program) -> Graph:
        """Raises ValueError where a node's output has no static shape in ``value_info``, even after inference."""
        graph = Graph(program)
        proto = _with_shapes(program.model).graph
        for value in (*proto.input, *proto.output, *proto.value_info):
            graph._declare(value)
        for tensor in proto.initializer:
            graph._initializers[tensor.name] = tensor
            graph.shapes[tensor.name] = tuple(tensor.dims)
            graph.elem_types[tensor.name] = tensor.data_type
        graph.outputs = {v.name for v in proto.output}
        for order, node in enumerate(proto.node):
            graph._insert(_read_node(node, order))
        graph._names.update(graph.shapes, graph._slots, graph._readers)
        graph._node_names.update(n.name for n in graph.nodes)
        return graph

    def _declare(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        if all(d.HasField("dim_value") for d in tensor.shape.dim) and tensor.HasField("shape"):
            self.shapes[value.name] = tuple(d.dim_value for d in tensor.shape.dim)
            self.elem_types[value.name] = tensor.elem_type

    def _insert(self, node: Node) -> None:
        self.nodes.append(node)
        for index, name in enumerate(node.outputs):
            if name:
                self._slots[name] = (node, index)
        for name in dict.fromkeys(node.inputs):
            if name:
                self._readers.setdefault(name, []).append(node)

    def slot(self, tensor: str) -> tuple[Node | None, int]:
        """The node that makes the tensor and which of its outputs it is; (None, 0) for inputs and constants."""
        return self._slots.get(tensor, (None, 0))

    def producer(self, tensor: str) -> Node | None:
        return self._slots.get(tensor, (None, 0))[0]

    def readers(self, tensor: str) -> list[Node]:
        """Each node that reads the tensor once, in order; a copy, so that the caller may edit while it walks."""
        return list(self._readers.get(tensor, ()))

    def shape(self, tensor: str) -> Shape:
        return self.shapes[tensor]

    def constant(self, tensor: str) -> np.ndarray | None:
        """The value of an initializer or of a Constant node, None for everything else."""
        if tensor not in self._arrays:
            proto = self._initializers.get(tensor)
            node = self.producer(tensor)
            if proto is None and node is not None and node.op == "Constant":
                proto = node.attributes.get("value")
            if proto is None:
                return None
            self._arrays[tensor] = numpy_helper.to_array(proto)
        return self._arrays[tensor]

    def same(self, a: str, b: str) -> bool:
        """One tensor under both names: the same name, or small constants of equal value."""
        if a == b:
            return True
        if not a or not b or self.shapes.get(a) != self.shapes.get(b) or len(self.shapes[a]) > 1:
            return False
        left, right = self.constant(a), self.constant(b)
        return left is not None and right is not None and left.dtype == right.dtype and np.array_equal(left, right)

    def fresh(self, hint: str) -> str:
        """A name that no tensor has yet: the hint itself where it is free."""
        return _fresh(hint, self._names)

    def add_constant(self, value: Any, hint: str, dtype: Any = np.int64) -> str:
        array = np.asarray(value, dtype)
        name = self.fresh(hint)
        self._initializers[name] = numpy_helper.from_array(array, name)
        self._arrays[name] = array
        self.shapes[name], self.elem_types[name] = tuple(array.shape), self._initializers[name].data_type
        return name

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        shapes: Sequence[Sequence[int]],
        name: str,
        order: int,
        *,
        outputs: Sequence[str] = (),
        elem_types: Sequence[int] = (),
        attributes: dict[str, Any] | None = None,
    ) -> Node:
        """A new node. Unless given, ``outputs`` are named after it and ``elem_types`` those of the first input."""
        name = _fresh(name, self._node_names)
        made = list(outputs) or [self.fresh(f"{name}_output{i or ''}") for i in range(len(shapes))]
        types = list(elem_types) or [self.elem_types[inputs[0]]] * len(made)
        for tensor, shape, elem_type in zip(made, shapes, types, strict=True):
            self.shapes[tensor], self.elem_types[tensor] = tuple(shape), elem_type
        node = Node(op, name, list(inputs), made, order, dict(attributes or {}))
        self._insert(node)
        return node

    def remove(self, node: Node) -> None:
        """Its outputs lose their maker; whoever still reads them must be given another one."""
        node.removed = True
        self._node_names.discard(node.name)
        for name in node.outputs:
            if self._slots.get(name, (None, 0))[0] is node:
                del self._slots[name]
        for name in dict.fromkeys(node.inputs):
            if name:
                self._readers[name].remove(node)

    def take_name(self, node: Node) -> str:
        """The node's name, for another one that does its work; should it stay, it goes by a new name."""
        name, node.name = node.name, _fresh(f"{node.name}_replaced", self._node_names)
        self._node_names.discard(name)
        return name

    def redirect(self, old: str, new: str) -> None:
        """Everything that read ``old`` reads ``new``; an output of the graph keeps its name through an Identity."""
        for reader in self._readers.pop(old, []):
            reader.inputs = [new if name == old else name for name in reader.inputs]
            if reader not in self._readers.setdefault(new, []):
                self._readers[new].append(reader)
        if old in self.outputs:
            self.add("Identity", [new], [self.shape(old)], f"{old}_identity", len(self.nodes), outputs=[old])

    def rename_output(self, node: Node, index: int, name: str) -> None:
        """Gives an output of the node another name, and its readers with it."""
        old = node.outputs[index]
        node.outputs[index] = name
        self._slots.pop(old, None)
        self._slots[name] = (node, index)
        self.shapes[name], self.elem_types[name] = self.shapes[old], self.elem_types[old]
        for reader in self._readers.pop(old, []):
            reader.inputs = [name if n == old else n for n in reader.inputs]
            self._readers.setdefault(name, []).append(reader)

    def bypass_no_ops(self) -> None:
        """Takes out nodes that hand their input on unchanged, unless they name an output of the graph."""
        for node in self.nodes:
            if self._is_no_op(node) and not self.outputs.intersection(node.outputs):
                self.remove(node)
                self.redirect(node.outputs[0], node.inputs[0])
        self.nodes = [n for n in self.nodes if not n.removed]

    def _is_no_op(self, node: Node) -> bool:
        if node.op == "Identity":
            return True
        if node.op in ("Reshape", "Flatten", "Expand"):
            return self.shape(node.inputs[0]) == self.shape(node.outputs[0])
        alone = len(node.inputs) == 1 if node.op == "Concat" else node.op == "Split" and len(node.outputs) == 1
        return alone and self.shape(node.inputs[0]) == self.shape(node.outputs[0])

    def drop_dead(self) -> None:
        """Takes out nodes that no output of the graph needs."""
        live: set[Node] = set()
        queue = [self.producer(t) for t in self.outputs]
        while queue:
            node = queue.pop()
            if node is not None and node not in live:
                live.add(node)
                queue.extend(self.producer(t) for t in node.inputs)
        for node in self.nodes:
            if node not in live and not node.removed:
                self.remove(node)

    def to_program(self) -> Program:
        """The edited program: nodes in topological order, only the constants that are read, the same ports."""
        model = onnx.ModelProto()
        source = self.program.model
        nodes = [node.to_proto() for node in self._topological()]
        read = {name for node in nodes for name in node.input} | self.outputs
        graph = onnx.GraphProto(name=source.graph.name, doc_string=source.graph.doc_string)
        graph.node.extend(nodes)
        graph.input.extend(source.graph.input)
        graph.output.extend(source.graph.output)
        graph.initializer.extend(t for name, t in self._initializers.items() if name in read)
        ports = self.outputs | {v.name for v in source.graph.input}
        made = (name for node in nodes for name in node.output if name and name not in ports)
        graph.value_info.extend(
            helper.make_tensor_value_info(name, self.elem_types[name], self.shapes[name])
            for name in made if name in self.shapes
        )  # fmt: skip
        _copy_header(source, model)
        model.graph.CopyFrom(graph)
        known = {(f.domain, f.name) for f in source.functions}
        model.functions.extend(source.functions)
        model.functions.extend(f for f in functions_for(nodes) if (f.domain, f.name) not in known)
        if model.functions and all(o.domain != DOMAIN for o in model.opset_import):
            model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return Program(model, list(self.program.inputs), list(self.program.outputs))

    def _topological(self) -> Iterable[Node]:
        """Kahn's order, earliest place first, so that untouched parts of the program keep theirs."""
        nodes = [n for n in self.nodes if not n.removed]
        makers = {name: i for i, node in enumerate(nodes) for name in node.outputs if name}
        after: list[list[int]] = [[] for _ in nodes]
        missing = [0] * len(nodes)
        for i, node in enumerate(nodes):
            for maker in {makers[name] for name in node.inputs if name in makers}:
                after[maker].append(i)
                missing[i] += 1
        ready = [(node.order, i) for i, node in enumerate(nodes) if not missing[i]]
        heapq.heapify(ready)
        done = []
        while ready:
            _, i = heapq.heappop(ready)
            done.append(nodes[i])
            for j in after[i]:
                missing[j] -= 1
                if not missing[j]:
                    heapq.heappush(ready, (nodes[j].order, j))
        if len(done) != len(nodes):
            stuck = next(n.name for i, n in enumerate(nodes) if missing[i])
            raise AssertionError(f"a graph pass made a cycle through node {stuck!r}")
        return done


def _fresh(hint: str, taken: set[str]) -> str:
    name, number = hint, 0
    while name in taken:
        number += 1
        name = f"{hint}_{number}"
    taken.add(name)
    return name


def _read_node(proto: onnx.NodeProto, order: int) -> Node:
    op = f"{proto.domain}::{proto.op_type}" if proto.domain not in ("", "ai.onnx") else proto.op_type
    attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
    return Node(op, proto.name, list(proto.input), list(proto.output), order, attributes)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself where every tensor has its shape already, as the exporter writes it."""
    known = {v.name for v in (*model.graph.value_info, *model.graph.output)}
    if all(name in known for node in model.graph.node for name in node.output if name):
        return model
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _copy_header(source: onnx.ModelProto, target: onnx.ModelProto) -> None:
    target.ir_version = source.ir_version
    target.producer_name, target.producer_version = source.producer_name, source.producer_version
    target.doc_string = source.doc_string
    target.opset_import.extend(source.opset_import)
    target.metadata_props.extend(source.metadata_props)
