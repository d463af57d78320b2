"""Builds ONNX programs as cells unrolled over time give them, for tests of the graph passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bucketmod.compiler.functions import functions_for
from bucketmod.compiler.program import DOMAIN, IR_VERSION, OPSET, Program


class Builder:
    """Collects nodes; every method returns names of tensors."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: dict[str, tuple[tuple[int, ...], str, int]] = {}
        self.constants: dict[str, np.ndarray] = {}
        self._count = 0

    def name(self, hint: str) -> str:
        self._count += 1
        return f"{hint.lower()}{self._count}"

    def input(self, name: str, shape: Sequence[int], role="parameter", elem_type: int = TensorProto.FLOAT) -> str:
        if name not in self.inputs:
            self.inputs[name] = (tuple(shape), role, elem_type)
        return name

    def constant(self, value, dtype=np.float32) -> str:
        name = self.name("constant")
        self.constants[name] = np.asarray(value, dtype)
        return name

    def op(self, op, *inputs, outputs=1, name="", domain="", **attributes):
        name = name or self.name(op)
        made = [name] if outputs == 1 else [f"{name}_output{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, name=name, domain=domain, **attributes))
        return made[0] if outputs == 1 else made

    def zeros(self, *shape: int) -> str:
        return self.constant(np.zeros(shape))

    def steps_of(self, data: str, axis: int, length: int) -> list[str]:
        """SliceChannel with squeeze_axis."""
        pieces = self.op("Split", data, outputs=length, axis=axis)
        axes = self.constant([axis], np.int64)
        return [self.op("Squeeze", p, axes) for p in (pieces if length > 1 else [pieces])]

    def merge(self, tensors: Sequence[str], axis: int, name: str = "") -> str:
        axes = self.constant([axis], np.int64)
        rows = [self.op("Unsqueeze", t, axes) for t in tensors]
        return self.op("Concat", *rows, axis=axis, name=name)

    def reverse(self, data: str, axis: int) -> str:
        bounds = [self.constant([v], np.int64) for v in (-1, np.iinfo(np.int64).min, axis, -1)]
        return self.op("Slice", data, *bounds)

    def dropout(self, data: str, ratio: float = 0.5) -> str:
        name = self.name("dropout")
        inputs = [data, self.constant(ratio), self.constant(True, np.bool_)]
        self.nodes.append(helper.make_node("Dropout", inputs, [name, f"{name}_mask"], name=name, seed=self._count))
        return name

    def dense(self, data: str, prefix: str, units: int, size: int) -> str:
        weight = self.input(f"{prefix}_weight", (units, size))
        bias = self.input(f"{prefix}_bias", (units,))
        return self.op("Gemm", data, weight, bias, transB=1)

    def program(self, outputs: Sequence[str]) -> Program:
        inputs = [helper.make_tensor_value_info(n, t, s) for n, (s, _, t) in self.inputs.items()]
        initializers = [numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        unknown = [helper.make_value_info(n, onnx.TypeProto()) for n in outputs]
        graph = helper.make_graph(self.nodes, "test", inputs, unknown, initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
        functions = functions_for(self.nodes)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, functions=functions)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        return Program.of(model, {n: role for n, (_, role, _) in self.inputs.items()})


def lstm_step(b, prefix, x, h, c, sizes, swap=False):
    size, hidden = sizes
    i2h = b.dense(x, f"{prefix}_i2h", 4 * hidden, size)
    h2h = b.dense(h, f"{prefix}_h2h", 4 * hidden, hidden)
    i, f, g, o = b.op("Split", b.op("Add", *((h2h, i2h) if swap else (i2h, h2h))), outputs=4, axis=1)
    i, f, g, o = b.op("Sigmoid", i), b.op("Sigmoid", f), b.op("Tanh", g), b.op("Sigmoid", o)
    kept, written = b.op("Mul", *((c, f) if swap else (f, c))), b.op("Mul", *((g, i) if swap else (i, g)))
    c = b.op("Add", *((written, kept) if swap else (kept, written)))
    tanh = b.op("Tanh", c)
    return b.op("Mul", *((tanh, o) if swap else (o, tanh))), c


def gru_step(b, prefix, x, h, sizes, form="sub"):
    size, hidden = sizes
    i2h = b.op("Split", b.dense(x, f"{prefix}_i2h", 3 * hidden, size), outputs=3, axis=1)
    h2h = b.op("Split", b.dense(h, f"{prefix}_h2h", 3 * hidden, hidden), outputs=3, axis=1)
    r = b.op("Sigmoid", b.op("Add", i2h[0], h2h[0]))
    z = b.op("Sigmoid", b.op("Add", i2h[1], h2h[1]))
    new = b.op("Tanh", b.op("Add", i2h[2], b.op("Mul", r, h2h[2])))
    if form == "difference":
        return b.op("Add", b.op("Mul", b.op("Sub", h, new), z), new)
    if form == "sub":
        rest = b.op("Sub", b.constant(1.0), z)
    elif form == "neg":
        rest = b.op("Add", b.op("Neg", z), b.constant([1.0]))
    else:
        rest = b.op("Add", b.op("Mul", z, b.constant(-1.0)), b.constant(1.0))
    return b.op("Add", b.op("Mul", rest, new), b.op("Mul", z, h))


def rnn_step(b, prefix, x, h, sizes, activation="Tanh"):
    size, hidden = sizes
    i2h = b.dense(x, f"{prefix}_i2h", hidden, size)
    return b.op(activation, b.op("Add", i2h, b.dense(h, f"{prefix}_h2h", hidden, hidden)))


def unroll(b, kind, prefix, xs, batch, sizes, states=None, **how):
    """One cell over all of xs; returns its outputs and its last states."""
    states = list(states or [b.zeros(batch, sizes[1]) for _ in range(2 if kind == "lstm" else 1)])
    outputs = []
    for x in xs:
        if kind == "lstm":
            states = list(lstm_step(b, prefix, x, states[0], states[1], sizes, **how))
        else:
            states = [(gru_step if kind == "gru" else rnn_step)(b, prefix, x, states[0], sizes, **how)]
        outputs.append(states[0])
    return outputs, states


def feeds_of(program: Program, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs; integers stay below 3."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for port in program.inputs:
        if np.issubdtype(np.dtype(port.dtype), np.integer):
            feeds[port.name] = rng.integers(0, 3, port.shape).astype(port.dtype)
        else:
            feeds[port.name] = (rng.standard_normal(port.shape) * 0.5).astype(port.dtype)
    return feeds


def run(program: Program, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # one thread and no rewriting: the comparison is with the program as it stands
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnx.checker.check_model(program.model, full_check=True)
    session = onnxruntime.InferenceSession(program.to_bytes(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    read = {i.name for i in session.get_inputs()}
    return dict(zip(names, session.run(None, {n: v for n, v in feeds.items() if n in read}), strict=True))


def assert_same_numbers(before: Program, after: Program, tolerance: float = 2e-5) -> None:
    """Same ports, same outputs for random inputs, and a shape for every tensor."""
    assert after.inputs == before.inputs
    assert after.outputs == before.outputs
    feeds = feeds_of(before)
    want, got = run(before, feeds), run(after, feeds)
    assert list(want) == list(got)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance, err_msg=name)
    known = {v.name for v in (*after.model.graph.value_info, *after.model.graph.output)}
    missing = [n for node in after.model.graph.node for n in node.output if n and n not in known]
    assert not missing


def operators(program: Program) -> list[str]:
    return [node.op_type for node in program.model.graph.node]
