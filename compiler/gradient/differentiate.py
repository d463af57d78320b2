"""Forward program in, training program out: the way of cut and stitch.

The gradient builder only sees standard operators. The graph is cut at every node that has a rule of ours (loss heads,
recurrences, operators that the builder lacks): their inputs become outputs of what the builder gets, their outputs
become inputs. The builder then gives, for free names that stand for the gradients of those outputs, the gradients of
those inputs, and the rules' nodes connect the two. The whole graph is cut this way at once, so one call of the builder
serves any number of heads. Whatever carries no gradient is not shown to the builder at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from bucketmod.compiler.errors import CompileError, UnsupportedGradientError
from bucketmod.compiler.gradient.activity import Activity, differentiable_inputs, find_activity, is_loss_head
from bucketmod.compiler.gradient.allowed import Surroundings, check_allowed
from bucketmod.compiler.gradient.builder import build_gradient
from bucketmod.compiler.gradient.canonical import AT_ONCE, BackwardNode, CanonicalBackward, Names, canonical_backward
from bucketmod.compiler.gradient.emitter import Emitter
from bucketmod.compiler.gradient.rules import RULES, prepare
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.parts import BACKWARD
from bucketmod.compiler.graph.shapes import TensorType, declared_types
from bucketmod.compiler.graph.slices import split_slices
from bucketmod.compiler.program import IR_VERSION, OPSET, Program


def differentiate(program: Program, wrt: Sequence[str]) -> Program:
    """The training program of a forward program: its nodes, then the backward nodes.

    ``wrt`` names inputs of the program (parameters or data). The result has an output ``<input>_gradient`` (role
    ``gradient``) of the input's shape for each of them, zero where no head depends on it, and an input
    ``<output>_head_gradient`` (role ``head_gradient``) of the output's shape for each output whose incoming gradient
    matters: loss heads, blocked outputs and outputs that do not depend on ``wrt`` have none. Several heads add up.
    Backward nodes are marked (:func:`bucketmod.compiler.graph.parts.is_backward`); shape arithmetic is folded.

    The same program and ``wrt`` give the same bytes in every process. Raises UnsupportedGradientError, naming the node,
    for an operator or attribute whose gradient is not proven; CompileError for names that are no inputs; ImportError
    where onnxruntime has no gradient builder.
    """
    forward = fold_constants(program)
    joined = split_slices(forward)
    return _Differentiation(forward if joined is forward else fold_constants(joined), list(wrt)).result()


class _Differentiation:
    def __init__(self, program: Program, wrt: list[str]):
        self._program = program
        self._wrt = wrt
        graph = program.model.graph
        self._types: dict[str, TensorType] = declared_types(graph)
        self._constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
        self._outputs = [port.name for port in program.outputs if port.role == "output"]
        self._taken = set(self._types) | set(self._constants)
        self._check_wrt()
        self._head_gradients: dict[str, str] = {}
        self._activity: Activity = find_activity(graph.node, self._types, self._outputs, wrt)
        around = Surroundings(self._types, self._constants, self._activity.tensors)
        self._nodes = []
        for position, node in enumerate(graph.node):
            if position in self._activity.nodes:
                check_allowed(node, around)
                node = prepare(node, self._fresh)
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.doc_string = ""
            self._nodes.append(copy)

    def _check_wrt(self) -> None:
        inputs = [port.name for port in self._program.inputs]
        for name in self._wrt:
            if name not in inputs:
                raise CompileError(f"cannot differentiate with respect to {name!r}: not among the inputs {inputs}")
            if self._wrt.count(name) > 1:
                raise CompileError(f"cannot differentiate with respect to {name!r} twice")
        for name in (*(f"{n}_gradient" for n in self._wrt), *(f"{n}_head_gradient" for n in self._outputs)):
            if name in self._taken:
                raise CompileError(f"a tensor of the program is called {name!r}, which is the name of a gradient")
            self._taken.add(name)

    def _fresh(self, wish: str) -> str:
        name, count = wish, 0
        while name in self._taken:
            count += 1
            name = f"{wish}_{count}"
        self._taken.add(name)
        return name

    # ---- backward

    def result(self) -> Program:
        cut = _cut(self._nodes, self._activity, self._wrt, self._outputs)
        nodes, constants = self._build(cut)
        emitter = Emitter(self._types)
        self._stitch(cut, emitter)
        nodes += [BackwardNode(position, node) for position, node in emitter.nodes]
        constants.update(emitter.constants)
        found = [name for name in self._wrt if name in self._activity.tensors]
        wishes = {_gradient(name): f"{name}_gradient" for name in self._activity.tensors}
        names = Names(lambda position: self._nodes[position].name, wishes, self._fresh)
        backward = canonical_backward(nodes, constants, [_gradient(name) for name in found], names)
        return fold_constants(self._assembled(backward))

    def _build(self, cut: _Cut) -> tuple[list[BackwardNode], dict[str, np.ndarray]]:
        """The builder's backward nodes, speaking of forward tensors by their names here."""
        if not cut.nodes:
            return [BackwardNode(AT_ONCE, _identity(_head(n), _gradient(n))) for n in cut.outputs if n in cut.wrt], {}
        model, short = self._cut_model(cut)
        built = build_gradient(model, [f"o{short[n]}" for n in cut.outputs], [short[n] for n in cut.wrt])
        return _read_builder(built, model, short, cut)

    def _cut_model(self, cut: _Cut) -> tuple[onnx.ModelProto, dict[str, str]]:
        """What the builder gets, under short names: none of its names can meet one of the user's."""
        tensors = dict.fromkeys(n for p in cut.nodes for n in (*self._nodes[p].input, *self._nodes[p].output) if n)
        tensors.update(dict.fromkeys(cut.outputs))
        short = {name: f"t{i}" for i, name in enumerate(tensors)}
        short[""] = ""
        nodes = []
        for position in cut.nodes:
            node = NodeProto()
            node.CopyFrom(self._nodes[position])
            node.name = f"n{position}"
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = short[name]
            nodes += [*_read_once(node), node]
        made = {name for p in cut.nodes for name in self._nodes[p].output}
        nodes += [helper.make_node("Identity", [short[n]], [f"o{short[n]}"], name=f"o{short[n]}") for n in cut.outputs]
        known = made.intersection(self._types)
        constants = [n for n in tensors if n in self._constants]
        free = [n for n in tensors if n not in made and n not in self._constants]
        graph = helper.make_graph(
            nodes,
            "cut",
            [helper.make_value_info(short[n], self._types[n].proto()) for n in free],
            [helper.make_value_info(f"o{short[n]}", self._types[n].proto()) for n in cut.outputs],
            [numpy_helper.from_array(self._constants[n], short[n]) for n in constants],
            value_info=[helper.make_value_info(short[n], self._types[n].proto()) for n in tensors if n in known],
        )
        opset = next((o.version for o in self._program.model.opset_import if not o.domain), OPSET)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION), short

    def _stitch(self, cut: _Cut, emitter: Emitter) -> None:
        """Nodes of the rules, last forward node first, then the sums of what flows into each cut."""
        flows: dict[str, list[str]] = {name: [] for name in cut.outputs}
        for output in self._outputs:
            if output in self._activity.tensors:
                self._head_gradients[output] = f"{output}_head_gradient"
                flows[output].append(self._head_gradients[output])
        for position in reversed(cut.ruled):
            node = self._nodes[position]
            emitter.position = position
            gradients = [_gradient(n) if n in self._activity.tensors else "" for n in node.output]
            slots = differentiable_inputs(node)
            wanted = [i in slots and n in self._activity.tensors for i, n in enumerate(node.input)]
            made = RULES[node.domain, node.op_type](node, gradients, wanted, emitter)
            for name, want, gradient in zip(node.input, wanted, made, strict=True):
                if want:
                    flows[name].append(gradient)
        for name, parts in flows.items():
            emitter.nodes.append((AT_ONCE, helper.make_node("Sum", parts, [_head(name)])))

    # ---- the training program

    def _assembled(self, backward: CanonicalBackward) -> Program:
        model = onnx.ModelProto()
        model.CopyFrom(self._program.model)
        graph = model.graph
        del graph.node[:], graph.value_info[:], graph.output[:]
        states = self._kept_states()
        graph.output.extend(v for v in self._program.model.graph.output if v.name in states or v.name in self._outputs)
        graph.node.extend([*self._nodes, *backward.nodes])
        graph.value_info.extend(v for v in self._program.model.graph.value_info)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in backward.constants.items())
        for output, name in self._head_gradients.items():
            graph.input.append(helper.make_value_info(name, self._types[output].proto()))
        for wrt in self._wrt:
            graph.node.append(self._result_node(wrt, backward, graph))
            graph.output.append(helper.make_value_info(f"{wrt}_gradient", self._types[wrt].proto()))
        inputs = {port.name: port.role for port in self._program.inputs}
        inputs.update(dict.fromkeys(self._head_gradients.values(), "head_gradient"))
        outputs = {p.name: (p.role, p.of) for p in self._program.outputs if p.role == "output" or p.name in states}
        outputs.update({f"{name}_gradient": ("gradient", name) for name in self._wrt})
        partners = {port.name: port.of for port in self._program.inputs if port.of}
        partners.update({name: output for output, name in self._head_gradients.items()})
        return Program.of(model, inputs, outputs, partners)

    def _kept_states(self) -> set[str]:
        """Auxiliary outputs but for those of normalizations without a backward pass, whose moving statistics stay."""
        makers = {name: position for position, node in enumerate(self._nodes) for name in node.output if name}
        kept = set()
        for port in self._program.outputs:
            if port.role != "auxiliary":
                continue
            found, ahead = [], [port.name]
            while ahead:
                position = makers.get(ahead.pop())
                if position is None:
                    continue
                if self._nodes[position].op_type == "BatchNorm":
                    found.append(position)
                else:
                    ahead.extend(self._nodes[position].input)
            if not found or self._activity.nodes.intersection(found):
                kept.add(port.name)
        return kept

    def _result_node(self, wrt: str, backward: CanonicalBackward, graph: onnx.GraphProto) -> NodeProto:
        name = f"{wrt}_gradient"
        if wrt in self._activity.tensors:
            node = _identity(backward.finals[_gradient(wrt)], name)
        else:
            kind = self._types[wrt]
            shape = self._fresh(f"{name}_shape")
            graph.initializer.append(numpy_helper.from_array(np.array(kind.shape, np.int64), shape))
            node = helper.make_node("ConstantOfShape", [shape], [name])
            node.attribute.append(helper.make_attribute("value", helper.make_tensor("value", kind.elem_type, [1], [0])))
        node.name, node.doc_string = name, BACKWARD
        return node


@dataclass
class _Cut:
    """Positions of the nodes that the builder gets and of those that have rules; tensors at the border."""

    nodes: list[int]
    ruled: list[int]
    outputs: list[str]
    wrt: list[str]


def _cut(nodes: Sequence[NodeProto], activity: Activity, wrt: Sequence[str], outputs: Sequence[str]) -> _Cut:
    built, ruled = [], []
    ends = {name: None for name in outputs if name in activity.tensors}
    starts = {name: None for name in wrt if name in activity.tensors}
    for position in sorted(activity.nodes):
        node = nodes[position]
        if (node.domain, node.op_type) not in RULES:
            built.append(position)
            continue
        ruled.append(position)
        ends.update({node.input[s]: None for s in differentiable_inputs(node) if node.input[s] in activity.tensors})
        if not is_loss_head(node):
            starts.update({name: None for name in node.output if name in activity.tensors})
    return _Cut(built, ruled, list(ends), list(starts))


def _read_once(node: NodeProto) -> list[NodeProto]:
    """Copies for a node that reads one tensor twice: the builder defines the gradient of that tensor twice."""
    copies = []
    for index, name in enumerate(node.input):
        if name and name in list(node.input)[:index]:
            copies.append(helper.make_node("Identity", [name], [f"{name}{_COPY}{index}{node.name}"]))
            copies[-1].name = node.input[index] = copies[-1].output[0]
    return copies


_COPY = "_copy"
_BUILDER = "\0builder "  # working names start with a character that no name of a user holds
_FORWARD_NODE = re.compile(r"n(\d+)_Grad/")


def _read_builder(
    built: onnx.ModelProto, model: onnx.ModelProto, short: Mapping[str, str], cut: _Cut
) -> tuple[list[BackwardNode], dict[str, np.ndarray]]:
    """Sorts the backward nodes from the forward ones and gives forward tensors their names back."""
    long = {value: key for key, value in short.items()}
    for node in model.graph.node:
        if _COPY in node.name:
            long[node.output[0]] = long[node.input[0]]
    forward = {name for node in model.graph.node for name in node.output}
    old = {i.name for i in model.graph.initializer}
    for name in cut.outputs:
        long[f"o{short[name]}_grad"] = _head(name)
    for name in short:
        long.setdefault(f"{short[name]}_grad", _gradient(name))
    made = {name for node in built.graph.node for name in node.output}
    nodes = []
    for node in built.graph.node:
        if any(name in forward for name in node.output):
            continue
        match = _FORWARD_NODE.match(node.name)
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = long.get(name, f"{_BUILDER}{name}" if name else "")
        nodes.append(BackwardNode(int(match.group(1)) if match else AT_ONCE, node))
    constants = {f"{_BUILDER}{i.name}": numpy_helper.to_array(i) for i in built.graph.initializer if i.name not in old}
    dangling = sorted(
        name for n in nodes for name in n.proto.input
        if name.startswith(_BUILDER) and name not in constants and name.removeprefix(_BUILDER) not in made
    )  # fmt: skip
    if dangling:
        raise UnsupportedGradientError(f"the gradient builder left gradients undefined: {dangling}")
    return nodes, constants


def _gradient(tensor: str) -> str:
    """Working name of the gradient of a forward tensor."""
    return f"\0gradient {tensor}"


def _head(tensor: str) -> str:
    """Working name of what flows into a tensor from behind the cut."""
    return f"\0head {tensor}"


def _identity(source: str, name: str) -> NodeProto:
    return helper.make_node("Identity", [source], [name])
