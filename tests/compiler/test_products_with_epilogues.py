"""Products absorb what follows them, compute the same, and leave alone what something else still needs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from compiled_programs import CompiledProgram
from onnx import TensorProto, helper, numpy_helper
from reference_ops import as_float64, run_program

import bucketmod as mx
from bucketmod.compiler.gradient import differentiate
from bucketmod.compiler.graph.constants import fold_constants
from bucketmod.compiler.graph.epilogues import fuse_epilogues
from bucketmod.compiler.pipeline import graph_phase
from bucketmod.compiler.program import IR_VERSION, OPSET, Program
from bucketmod.export import export_symbol

ROWS, DEPTH, WIDTH = 13, 31, 37


class Case:
    """A forward graph: nodes are added in order, inputs declared where they are first used."""

    def __init__(self, *outputs: str):
        self.outputs, self.nodes, self.inputs, self.constants = outputs, [], {}, {}

    def input(self, name, *shape):
        self.inputs[name] = shape
        return name

    def constant(self, value, dtype=np.float32):
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def op(self, op, *inputs, to="", **attributes):
        made = to or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [made], name=f"n{len(self.nodes)}", **attributes))
        return made

    def gemm(self, a="a", w="w", bias="b", **attributes):
        self.input(a, ROWS, DEPTH)
        inputs = [a, self.input(w, WIDTH, DEPTH), *([self.input(bias, WIDTH)] if bias else [])]
        return self.op("Gemm", *inputs, transB=1, **attributes)

    def shaped(self, x, *shape):
        return self.op("Reshape", x, self.constant(shape, np.int64))

    def program(self) -> Program:
        value = lambda name, shape=None: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)  # noqa: E731
        constants = [numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "case", [value(*i) for i in self.inputs.items()],
                                  [value(o) for o in self.outputs], constants)  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        model = onnx.shape_inference.infer_shapes(model)
        return fold_constants(Program.of(model, dict.fromkeys(self.inputs, "data")))


def fused(program: Program) -> list[set[str]]:
    """What each fused product joins."""
    found = []
    for node in program.model.graph.node:
        if node.op_type == "FusedGemm":
            operands = dict(zip(["bias", "addend", "saved"], node.input[2:], strict=False))
            texts = [a.s.decode() for a in node.attribute if a.name == "activation"]
            found.append({*(name for name, tensor in operands.items() if tensor), *filter(None, texts)})
    return found


def bias_and_relu():
    case = Case("y")
    case.op("Relu", case.gemm(), to="y")
    return case, [{"bias", "relu"}]


def matmul_of_many_matrices():
    case = Case("y")
    x = case.op("MatMul", case.input("a", 2, 13, DEPTH), case.input("w", DEPTH, WIDTH))
    case.op("Tanh", case.op("Add", case.input("b", WIDTH), x), to="y")
    return case, [{"bias", "tanh"}]


def matmul_of_transposed_matrices():
    case = Case("y")
    a = case.op("Transpose", case.input("a", 2, DEPTH, 13), perm=[0, 2, 1])
    x = case.op("MatMul", a, case.op("Transpose", case.input("w", WIDTH, DEPTH), perm=[1, 0]))
    case.op("Sigmoid", x, to="y")
    return case, [{"sigmoid"}]


def residual_behind_a_view():
    case = Case("y")
    case.op("Add", case.input("r", 1, 13, WIDTH), case.shaped(case.gemm(), 1, 13, WIDTH), to="y")
    return case, [{"bias", "addend"}]


def addend_of_the_product_itself():
    case = Case("y")
    case.op("Gemm", case.input("a", ROWS, DEPTH), case.input("w", DEPTH, WIDTH), case.input("r", ROWS, WIDTH), to="y")
    return case, [{"addend"}]


def sum_of_products():
    case = Case("y")
    products = [case.gemm(f"a{i}", f"w{i}", "") for i in range(3)]
    case.op("Sum", *products, case.input("r", ROWS, WIDTH), to="y")
    return case, [{"addend"}] * 3


def gelu_as_exported():
    case = Case("y")
    x = case.gemm()
    error = case.op("Erf", case.op("Mul", x, case.constant(2**-0.5)))
    shifted = case.op("Add", error, case.constant(1))
    case.op("Mul", case.op("Mul", x, case.constant(0.5)), shifted, to="y")
    return case, [{"bias", "gelu"}]


def intermediate_is_an_output():
    case = Case("x", "y")
    case.nodes.append(helper.make_node("Identity", [case.gemm()], ["x"], name="named"))
    case.op("Relu", "x", to="y")
    return case, []


def intermediate_is_read_twice():
    case = Case("y")
    x = case.gemm()
    case.op("Mul", case.op("Relu", x), case.op("Exp", x), to="y")
    return case, []


def added_to_itself():
    case = Case("y")
    x = case.gemm()
    case.op("Add", x, x, to="y")
    return case, []


def columns_are_no_bias():
    case = Case("y")
    case.op("Add", case.gemm(bias=""), case.input("r", ROWS, 1), to="y")
    return case, []


def result_is_broadcast():
    case = Case("y")
    case.op("Add", case.gemm(bias=""), case.input("r", 3, ROWS, WIDTH), to="y")
    return case, []


def scaled_product():
    case = Case("y")
    case.op("Relu", case.gemm(alpha=0.5), to="y")
    return case, []


CASES = [bias_and_relu, matmul_of_many_matrices, matmul_of_transposed_matrices, residual_behind_a_view,
         addend_of_the_product_itself, sum_of_products, gelu_as_exported, intermediate_is_an_output,
         intermediate_is_read_twice, added_to_itself, columns_are_no_bias, result_is_broadcast,
         scaled_product]  # fmt: skip


@pytest.mark.parametrize("make", CASES, ids=lambda f: f.__name__)
def test_what_is_joined_and_that_it_computes_the_same(make, tmp_path, target):
    case, joined = make()
    program = case.program()
    assert fused(fuse_epilogues(program)) == joined
    rng = np.random.default_rng(0)
    inputs = {p.name: rng.standard_normal(p.shape).astype(np.float32) / 3 for p in program.inputs}
    want = run_program(program, inputs)
    got = CompiledProgram(program, tmp_path, target=target).run(inputs)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=3e-6, rtol=1e-5, err_msg=name)


def layers():
    """A block with a residual for each activation that has a slope, then three products of one tensor."""
    x = mx.sym.Variable("x")
    for i, kind in enumerate(("relu", "sigmoid", "tanh")):
        hidden = mx.sym.FullyConnected(x, num_hidden=51, flatten=False, name=f"in{i}")
        hidden = mx.sym.Activation(hidden, act_type=kind)
        x = x + mx.sym.FullyConnected(hidden, num_hidden=19, flatten=False, name=f"out{i}")
    heads = [mx.sym.FullyConnected(x, num_hidden=7, flatten=False, name=f"head{i}") for i in range(3)]
    y = mx.sym.broadcast_mul(heads[0], heads[1]) + heads[2]
    return mx.sym.make_loss(y)


def test_gradients_of_joined_layers(tmp_path, target):
    program = export_symbol(layers(), {"x": (3, 5, 19)}, data_names=["x"], label_names=[], is_train=True)
    wrt = [port.name for port in program.inputs]
    nodes = graph_phase(program, "train", wrt).model.graph.node
    slopes = [a.s.decode() for node in nodes for a in node.attribute if a.name == "slope_of" and a.s]
    assert sorted(slopes) == ["relu", "sigmoid", "tanh"]
    sums = {node.output[1] for node in nodes if node.op_type == "FusedGemm" and len(node.output) > 1}
    assert sums == {f"{name}_gradient" for name in wrt if name.endswith("bias")}
    left = {node.op_type for node in nodes} & {"Add", "Sum", "ReduceSum", "Relu", "ReluGrad", "SigmoidGrad", "TanhGrad"}
    assert not left
    rng = np.random.default_rng(0)
    inputs = {port.name: rng.standard_normal(port.shape).astype(np.float32) / 3 for port in program.inputs}
    want = run_program(as_float64(differentiate(fold_constants(program), wrt)), inputs)
    got = CompiledProgram(program, tmp_path, "train", wrt, target).run(inputs)
    assert set(got) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=3e-6 * np.abs(value).max(), rtol=1e-5, err_msg=name)
