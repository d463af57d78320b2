"""Every operator that the compiler imports, compiled and compared with onnxruntime on the same graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from compiled_programs import CompiledProgram
from onnx import TensorProto, helper

from bucketmod.compiler.errors import CompileError
from bucketmod.compiler.program import IR_VERSION, OPSET, Program

F, I64, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RANDOM = np.random.RandomState(5)


def normal(*shape: int) -> np.ndarray:
    return RANDOM.randn(*shape).astype(np.float32)


def case(op: str, *inputs: np.ndarray, outputs: int = 1, constants: dict[int, object] | None = None, **attributes):
    """``constants``: values of the inputs that are part of the graph, by position."""
    return pytest.param(op, inputs, outputs, constants or {}, attributes,
                        id="-".join([op, *(f"{k}{v}" for k, v in attributes.items()),
                                     *("x".join(map(str, i.shape)) for i in inputs)]))  # fmt: skip


ints = lambda *values: np.array(values, np.int64)  # noqa: E731
pos = lambda *shape: np.abs(normal(*shape)) + 0.5  # noqa: E731

CASES = [
    *[case(op, normal(3, 37)) for op in ("Neg", "Exp", "Abs", "Erf", "Tanh", "Sigmoid", "Sign", "Floor", "Relu",
                                         "Softplus", "Softsign", "Identity", "Sin", "Cos", "Ceil")],
    *[case(op, pos(3, 37)) for op in ("Log", "Sqrt", "Reciprocal")],
    case("LeakyRelu", normal(5, 7), alpha=0.2), case("Elu", normal(5, 7), alpha=0.7),
    *[case(op, normal(4, 19), normal(4, 19)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    *[case(op, normal(4, 3, 19), normal(3, 1)) for op in ("Add", "Sub", "Mul")],
    case("Add", normal(4, 19), normal(19)), case("Mul", normal(1, 19), normal(4, 1)),
    case("Mul", normal(4, 19), constants={1: np.float32(2.5)}),
    case("Sub", normal(4, 19), constants={0: np.ones(1, np.float32)}),
    *[case("Pow", pos(4, 5), constants={1: np.float32(e)}) for e in (1, 2, 3, 0.5, -1, 1.7)],
    case("Sum", normal(2, 3), normal(2, 3), normal(2, 3)),
    case("Clip", normal(4, 9), constants={1: np.float32(-0.5), 2: np.float32(0.25)}),
    case("Where", normal(4, 9) > 0, normal(4, 9), normal(9)),
    case("Cast", normal(4, 9) * 5, to=I64), case("Cast", normal(4, 9) > 0, to=F),
    *[case(op, normal(4, 9), normal(4, 9)) for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")],
    case("Equal", np.round(normal(4, 9)), np.round(normal(4, 9))), case("Not", normal(3, 3) > 0),
    case("And", normal(3, 3) > 0, normal(3, 3) > 0), case("Or", normal(3, 3) > 0, normal(3, 3) > 0),
    case("Reshape", normal(4, 6, 5), constants={1: ints(0, -1)}), case("Flatten", normal(4, 6, 5), axis=2),
    case("Squeeze", normal(4, 1, 5), constants={1: ints(1)}),
    case("Unsqueeze", normal(4, 5), constants={1: ints(0, 3)}),
    case("Transpose", normal(4, 6, 5), perm=[2, 0, 1]), case("Transpose", normal(1, 6, 1, 5), perm=[2, 1, 0, 3]),
    case("Transpose", normal(33, 65)),
    case("Concat", normal(4, 6), normal(4, 3), axis=1), case("Concat", normal(4, 6), normal(2, 6), axis=0),
    case("Split", normal(4, 12), outputs=3, axis=1), case("Split", normal(6, 16), outputs=3, axis=0),
    case("Split", normal(6, 5), outputs=2, constants={1: ints(1, 5)}, axis=0),
    case("Slice", normal(8, 9), constants={1: ints(1, -7), 2: ints(6, 100), 3: ints(0, 1)}),
    case("Slice", normal(8, 9), constants={1: ints(-1), 2: ints(-(2**62)), 3: ints(0), 4: ints(-1)}),
    case("Slice", normal(8, 9), constants={1: ints(1), 2: ints(8), 3: ints(1), 4: ints(3)}),
    case("Expand", normal(3, 1), constants={1: ints(2, 3, 4)}), case("Tile", normal(2, 3), constants={1: ints(2, 2)}),
    case("Pad", normal(3, 4), constants={1: ints(1, 0, 0, 2)}),
    case("GatherElements", normal(4, 9), RANDOM.randint(0, 9, (4, 2)), axis=1),
    case("Gather", normal(11, 6), RANDOM.randint(0, 11, (3, 4)), axis=0),
    case("Gather", normal(4, 6), RANDOM.randint(0, 6, (3,)), axis=1),
    *[case(op, normal(3, 5, 7), axes=[1], keepdims=k) for op in ("ReduceMean", "ReduceMax", "ReduceMin")
      for k in (0, 1)],
    case("ReduceSum", normal(13, 37), constants={1: ints(0)}),
    case("ReduceSum", normal(13, 37), constants={1: ints(1)}),
    case("ReduceSum", normal(3, 5, 7), constants={1: ints(0, 1)}, keepdims=0),
    case("ReduceSum", normal(3, 5, 7), constants={1: ints(0, 2)}), case("ReduceSum", normal(3, 5)),
    *[case(op, normal(3, 5, 7), axis=1, keepdims=k) for op in ("ArgMax", "ArgMin") for k in (0, 1)],
    case("ReduceProd", normal(3, 5), axes=[1]), case("Mod", RANDOM.randint(-9, 9, (4, 5)), constants={1: ints(4)}),
    case("Mod", normal(4, 5), normal(4, 5), fmod=1),
    *[case(op, normal(5, 37), axis=-1) for op in ("Softmax", "LogSoftmax")],
    case("Softmax", normal(2, 5, 7), axis=1),
    case("LayerNormalization", normal(5, 37), normal(37), normal(37), axis=-1),
    *[case("Gemm", normal(*((7, 13) if ta else (13, 7))), normal(*((9, 7) if tb else (7, 9))), normal(9),
           transA=ta, transB=tb) for ta in (0, 1) for tb in (0, 1)],
    case("Gemm", normal(4, 5), normal(5, 6), normal(4, 1), alpha=0.5, beta=2.0),
    case("MatMul", normal(13, 7), normal(7, 9)), case("MatMul", normal(2, 3, 4), normal(4, 5)),
    case("MatMul", normal(6, 3, 4), normal(6, 4, 5)), case("MatMul", normal(2, 3, 4, 5), normal(2, 3, 5, 6)),
    case("MatMul", normal(3, 4), normal(6, 4, 5)), case("MatMul", normal(2, 1, 4, 5), normal(3, 5, 6)),
    case("Equal", normal(3, 3) > 0, normal(3, 3) > 0),
    case("Conv", normal(2, 3, 9, 20), normal(4, 3, 3, 3), normal(4), pads=[1, 1, 1, 2], strides=[2, 1]),
    case("Conv", normal(2, 4, 6, 7), normal(4, 1, 3, 3), group=4), case("Conv", normal(2, 3, 9), normal(4, 3, 2)),
    case("ConvTranspose", normal(2, 3, 4, 5), normal(3, 2, 3, 3), normal(2), strides=[2, 2], pads=[1, 0, 1, 2]),
    case("BatchNormalization", normal(2, 3, 5, 6), normal(3), normal(3), normal(3), pos(3), epsilon=1e-3),
    case("BatchNormalization", normal(5, 7), normal(7), normal(7), normal(7), pos(7)),
    case("MaxPool", normal(2, 3, 9, 20), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", normal(1, 2, 12, 12), kernel_shape=[9, 9]),  # more values than are written out one by one
    case("AveragePool", normal(2, 3, 9, 8), kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[1, 2]),
    *[case(op, normal(2, 3, 4, 5)) for op in ("GlobalAveragePool", "GlobalMaxPool")],
]  # fmt: skip


def build(op: str, inputs, outputs: int, constants, attributes) -> tuple[Program, dict[str, np.ndarray]]:
    feeds, names, initializers, arguments = {}, [], [], iter(inputs)
    for position in range(len(inputs) + len(constants)):
        name = f"x{position}"
        names.append(name)
        if position in constants:
            initializers.append(onnx.numpy_helper.from_array(np.asarray(constants[position]), name))
        else:
            feeds[name] = next(arguments)
    node = helper.make_node(op, names, [f"y{i}" for i in range(outputs)], name=f"the_{op.lower()}", **attributes)
    kind = lambda a: helper.np_dtype_to_tensor_dtype(a.dtype)  # noqa: E731
    graph_inputs = [helper.make_tensor_value_info(n, kind(a), a.shape) for n, a in feeds.items()]
    graph_outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "g", graph_inputs, graph_outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    return Program.of(model, {name: "data" for name in feeds}), feeds


@pytest.mark.parametrize("op, inputs, outputs, constants, attributes", CASES)
def test_compiled_operator_equals_onnxruntime(op, inputs, outputs, constants, attributes, tmp_path, target):
    program, feeds = build(op, inputs, outputs, constants, attributes)
    session = onnxruntime.InferenceSession(program.model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
    found = CompiledProgram(program, tmp_path, target=target).run(feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=3e-5, atol=3e-6, err_msg=f"{op} output {name}")


def test_unknown_operator_is_refused_by_the_name_of_its_node(tmp_path, target):
    program, _ = build("Det", [normal(3, 3)], 1, {}, {})
    with pytest.raises(CompileError, match=r"'the_det' \(Det\): this operator is not built yet"):
        CompiledProgram(program, tmp_path, target=target)
