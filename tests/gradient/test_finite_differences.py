"""Every operator and attribute that may be differentiated, against finite differences in float64, and the same training
program in onnxruntime against the numpy reference."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from gradient_cases import check_gradients, float_input, forward_program
from reference_ops import run_program

from bucketmod.compiler.gradient.activity import LOSS_HEADS
from bucketmod.compiler.gradient.allowed import ALLOWED
from bucketmod.compiler.program import DOMAIN

INT = np.int64


@dataclass(frozen=True)
class Case:
    """One operator between inputs and outputs; ``positive`` inputs are drawn from [0.5, 2]."""

    label: str
    operator: str
    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    attributes: dict = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)  # integer and boolean inputs
    order: tuple[str, ...] = ()  # inputs of the node, if not inputs and then values and constants
    positive: bool = False
    made: tuple[str, ...] = ()  # outputs of the node, if it has some that the program does not

    def arguments(self) -> list[str]:
        return list(self.order or (*self.inputs, *self.values, *self.constants))


def unary(operator: str, positive: bool = False, **attributes) -> Case:
    label = "-".join([operator, *(f"{k}={v}" for k, v in attributes.items())])
    return Case(label, operator, {"a": (3, 4)}, {"y": (3, 4)}, attributes, positive=positive)


def binary(operator: str, a: tuple, b: tuple, positive: bool = False) -> Case:
    shape = np.broadcast_shapes(a, b)
    return Case(f"{operator}-{a}-{b}", operator, {"a": a, "b": b}, {"y": shape}, positive=positive)


def ints(*values: int) -> np.ndarray:
    return np.array(values, INT)


def matmul(a: tuple, b: tuple) -> Case:
    made = np.matmul(np.zeros(a), np.zeros(b)).shape
    return Case(f"MatMul-{a}-{b}", "MatMul", {"a": a, "b": b}, {"y": made})


def gemm(trans_a: int, trans_b: int, c: tuple | None, **scales: float) -> Case:
    shapes = {"a": (4, 3) if trans_a else (3, 4), "b": (5, 4) if trans_b else (4, 5)}
    if c is not None:
        shapes["c"] = c
    label = f"Gemm-{trans_a}{trans_b}-{c}-{scales}"
    return Case(label, "Gemm", shapes, {"y": (3, 5)}, {"transA": trans_a, "transB": trans_b, **scales})


def reduction(operator: str, axes: list[int] | None, keepdims: int) -> Case:
    kept = set(range(3)) if axes is None else {a % 3 for a in axes}
    shape = (2, 3, 4)
    made = tuple(1 if i in kept else n for i, n in enumerate(shape) if keepdims or i not in kept)
    case = Case(f"{operator}-{axes}-{keepdims}", operator, {"a": shape}, {"y": made}, {"keepdims": keepdims})
    if axes is not None and operator == "ReduceSum":
        case.constants["axes"] = ints(*axes)
    elif axes is not None:
        case.attributes["axes"] = axes
    return case


def recurrence(kind: str, made: tuple[str, ...], **attributes) -> Case:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind] * 5
    inputs = {"x": (4, 2, 3), "wi": (gates, 3), "wh": (gates, 5), "bi": (gates,), "bh": (gates,), "h0": (2, 5)}
    if kind == "LSTM":
        inputs["c0"] = (2, 5)
    shapes = {"y": (4, 2, 5), "h": (2, 5), "c": (2, 5)}
    label = f"{kind}-{made}-{attributes}"
    return Case(label, f"{DOMAIN}::{kind}", inputs, {n: shapes[n] for n in made if n},
                {"hidden_size": 5, "reverse": 0, **attributes}, made=made)  # fmt: skip


def attention(kind: str, joint: int, **options) -> Case:
    """Two sequences, two heads, three queries; one tensor for q, k and v, or time first with two keys."""
    rows = {"columns": [0, 8], "shape": [3, 2, 2, 4], "perm": [1, 2, 0, 3]}
    keys = {**rows, "shape": [2, 2, 2, 4]}
    inputs = {"q": (3, 2, 8), "k": (2, 2, 8), "v": (2, 2, 8)}
    operands = {"q": rows, "k": keys, "v": keys}
    if joint:
        inputs = {"qkv": (2, 3, 24)}
        part = {"shape": [2, 3, 2, 4], "perm": [0, 2, 1, 3]}
        operands = {label: {**part, "columns": [8 * i, 8 * i + 8]} for i, label in enumerate("kqv")}
    places = {f"{label}_{name}": value for label, place in operands.items() for name, value in place.items()}
    made = {"out_perm": [0, 2, 1, 3], "out_shape": [2, 3, 8]}
    mask = {} if kind == "Attention" else {"mask": np.array([[0.5, 0], [0, 0], [-0.25, 1]], np.float32)[None, None]}
    order = (*(["qkv"] * 3 if joint else "qkv"), *mask)
    return Case(f"{kind}-{joint}", f"{DOMAIN}::{kind}", inputs, {"y": (2, 3, 8)},
                {"scale": 0.7, "joint": joint, **places, **made, **options}, mask, order=order)  # fmt: skip


def windows(operator: str, shape: tuple, made: tuple, filters: tuple = (), **attributes) -> Case:
    """``filters``: the weight of a convolution, which has a bias then too."""
    inputs = {"a": shape, "w": filters} if filters else {"a": shape}
    label = f"{operator}-{shape}-{filters}-{attributes}"
    if not filters:
        attributes = {"kernel_shape": [2] * (len(shape) - 2), **attributes}
    elif "group" not in attributes:
        inputs["b"] = (made[1],)
    return Case(label, operator, inputs, {"y": made}, attributes)


PAIRS = [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (3, 4)), ((2, 1, 4), (3, 1)), ((3, 4), ()), ((1,), (2, 3))]
CASES = [
    *(binary(op, a, b) for op in ("Add", "Sub", "Mul", "Max", "Min") for a, b in PAIRS),
    *(binary(op, a, b, positive=True) for op in ("Div", "Pow") for a, b in PAIRS),
    *(unary(op) for op in "Neg Exp Abs Erf Sin Cos Tanh Sigmoid Relu LeakyRelu Elu Softplus Softsign Identity".split()),
    *(unary(op, positive=True) for op in ("Sqrt", "Log", "Reciprocal")),
    unary("LeakyRelu", alpha=0.25), unary("LeakyRelu", alpha=0.0), unary("Elu", alpha=0.25), unary("Cast", to=1),
    *(Case(f"Pow-constant-{e}", "Pow", {"a": (3, 4)}, {"y": (3, 4)}, constants={"e": np.float32(e)}, positive=True)
      for e in (1.0, 2.0, 3.0, 0.5, -1.0)),
    Case("Clip-both", "Clip", {"a": (3, 4)}, {"y": (3, 4)}, constants={"lo": np.float32(-0.5), "hi": np.float32(0.4)}),
    Case("Clip-upper", "Clip", {"a": (3, 4)}, {"y": (3, 4)}, constants={"hi": np.float32(0.4)}, order=("a", "", "hi")),
    Case("Clip-lower", "Clip", {"a": (3, 4)}, {"y": (3, 4)}, constants={"lo": np.float32(0.1)}),
    *(Case(f"Where-{a}-{b}", "Where", {"a": a, "b": b}, {"y": (3, 4)}, order=("condition", "a", "b"),
           values={"condition": np.array([[True], [False], [True]])})
      for a, b in [((3, 4), (3, 4)), ((3, 4), (4,)), ((), (3, 4)), ((1, 4), (3, 1))]),
    Case("Sum-3", "Sum", {"a": (3, 4), "b": (3, 4), "c": (4,)}, {"y": (3, 4)}),
    *(Case(f"{op}-{axis}", op, {"a": (2, 3, 4)}, {"y": (2, 3, 4)}, {"axis": axis})
      for op in ("Softmax", "LogSoftmax") for axis in (-1, 1, 0)),
    Case("LayerNormalization", "LayerNormalization", {"a": (2, 3, 4), "w": (4,), "b": (4,)}, {"y": (2, 3, 4)},
         {"axis": -1, "epsilon": 1e-3}),
    Case("LayerNormalization-no-bias", "LayerNormalization", {"a": (3, 4), "w": (4,)}, {"y": (3, 4)}, {"axis": 1}),
    Case("LayerNormalization-two-axes", "LayerNormalization", {"a": (2, 3, 4), "w": (3, 4), "b": (3, 4)},
         {"y": (2, 3, 4)}, {"axis": 1}),
    *(Case(f"BatchNorm-{shape}", f"{DOMAIN}::BatchNorm", {"a": shape, "w": (3,), "b": (3,)}, {"y": shape},
           {"epsilon": 1e-3}) for shape in ((5, 3), (4, 3, 2), (2, 3, 2, 2))),
    *(Case(f"BatchNormalization-{shape}", "BatchNormalization", {"a": shape, "w": (3,), "b": (3,)}, {"y": shape},
           {"epsilon": 1e-3},
           values={"m": np.array([0.1, 1, -1], np.float32), "v": np.array([0.5, 1, 2], np.float32)})
      for shape in ((5, 3), (4, 3, 2), (2, 3, 2, 2))),
    windows("Conv", (2, 3, 4, 5), (2, 4, 2, 4), (4, 3, 3, 2)),
    windows("Conv", (2, 2, 5, 6), (2, 4, 3, 3), (4, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    windows("Conv", (2, 4, 5, 6), (2, 6, 3, 4), (6, 2, 2, 2), group=2, dilations=[2, 2]),
    windows("Conv", (3, 3, 4, 4), (3, 2, 4, 4), (2, 3, 1, 1)),
    windows("Conv", (2, 2, 7), (2, 3, 4), (3, 2, 3), strides=[2], pads=[1, 1]),
    windows("ConvTranspose", (2, 3, 3, 2), (2, 2, 5, 4), (3, 2, 3, 3)),
    windows("ConvTranspose", (2, 3, 3, 2), (2, 2, 6, 4), (3, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1],
            output_padding=[1, 1]),
    windows("ConvTranspose", (2, 4, 3, 3), (2, 4, 7, 7), (4, 2, 3, 3), strides=[2, 2], group=2),
    windows("MaxPool", (2, 2, 4, 5), (2, 2, 3, 4)),
    windows("MaxPool", (2, 1, 5, 5), (2, 1, 3, 3), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    windows("MaxPool", (2, 2, 6), (2, 2, 3), strides=[2]),
    windows("AveragePool", (2, 2, 4, 5), (2, 2, 3, 4)),
    windows("AveragePool", (2, 1, 5, 5), (2, 1, 3, 3), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    windows("AveragePool", (2, 1, 5, 5), (2, 1, 3, 3), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
            count_include_pad=1),
    Case("GlobalAveragePool", "GlobalAveragePool", {"a": (2, 3, 4, 5)}, {"y": (2, 3, 1, 1)}),
    *(gemm(ta, tb, (5,)) for ta in (0, 1) for tb in (0, 1)),
    *(gemm(0, 1, c) for c in (None, (3, 5), (1, 5), (3, 1), ())), gemm(1, 0, (5,), alpha=0.5, beta=2.0),
    *(matmul(a, b) for a, b in [
        ((3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((1, 3, 4), (5, 4, 2)),
        ((2, 5, 3, 4), (2, 5, 4, 2)), ((2, 5, 3, 4), (5, 4, 2)), ((2, 1, 3, 4), (1, 5, 4, 2)), ((2, 3, 3, 4), (4, 2)),
    ]),
    Case("Gather-0", "Gather", {"a": (6, 4)}, {"y": (2, 3, 4)}, {"axis": 0},
         values={"i": np.array([[1, 5, 1], [0, 1, 3]])}),
    Case("Gather-1", "Gather", {"a": (3, 6)}, {"y": (3, 2)}, {"axis": 1}, values={"i": ints(4, 4)}),
    Case("Gather-inner", "Gather", {"a": (2, 5, 3)}, {"y": (2, 2, 2, 3)}, {"axis": -2},
         values={"i": np.array([[4, 0], [4, 4]])}),
    Case("Gather-one-last", "Gather", {"a": (3, 5)}, {"y": (3,)}, {"axis": 1}, values={"i": np.array(2)}),
    Case("Gather-one", "Gather", {"a": (6, 4)}, {"y": (4,)}, {"axis": 0}, values={"i": np.array(2)}),
    Case("Reshape", "Reshape", {"a": (2, 6)}, {"y": (3, 4)}, constants={"s": ints(3, -1)}),
    Case("Reshape-zero", "Reshape", {"a": (2, 6)}, {"y": (2, 3, 2)}, constants={"s": ints(0, 3, 2)}),
    Case("Flatten", "Flatten", {"a": (2, 3, 2)}, {"y": (2, 6)}),
    Case("Flatten-2", "Flatten", {"a": (2, 3, 2)}, {"y": (6, 2)}, {"axis": 2}),
    Case("Transpose", "Transpose", {"a": (2, 3, 4)}, {"y": (4, 2, 3)}, {"perm": [2, 0, 1]}),
    Case("Transpose-default", "Transpose", {"a": (2, 3, 4)}, {"y": (4, 3, 2)}),
    Case("Squeeze", "Squeeze", {"a": (2, 1, 4)}, {"y": (2, 4)}, constants={"x": ints(1)}),
    Case("Squeeze-default", "Squeeze", {"a": (2, 1, 4)}, {"y": (2, 4)}),
    Case("Unsqueeze", "Unsqueeze", {"a": (2, 4)}, {"y": (1, 2, 4, 1)}, constants={"x": ints(0, -1)}),
    Case("Expand", "Expand", {"a": (3, 1)}, {"y": (2, 3, 4)}, constants={"s": ints(2, 3, 4)}),
    Case("Expand-partly", "Expand", {"a": (3, 1)}, {"y": (3, 4)}, constants={"s": ints(1, 4)}),
    *(Case(f"Concat-{axis}", "Concat", {"a": (2, 4), "b": b}, {"y": y}, {"axis": axis})
      for axis, b, y in [(0, (3, 4), (5, 4)), (1, (2, 3), (2, 7)), (-1, (2, 1), (2, 5))]),
    Case("Split-all", "Split", {"a": (2, 4)}, {"y": (2, 1), "z": (2, 3)}, {"axis": 1}, constants={"s": ints(1, 3)}),
    Case("Split-equal", "Split", {"a": (4, 2)}, {"y": (2, 2), "z": (2, 2)}, {"axis": 0}),
    Case("Split-some", "Split", {"a": (2, 6)}, {"z": (2, 2)}, {"axis": -1}, made=("y", "z", "w"),
         constants={"s": ints(1, 2, 3)}),
    Case("Slice", "Slice", {"a": (5, 4)}, {"y": (2, 4)}, constants={"s": ints(1), "e": ints(3), "x": ints(0)}),
    Case("Slice-no-axes", "Slice", {"a": (5, 4)}, {"y": (2, 3)}, constants={"s": ints(1, 0), "e": ints(3, -1)}),
    Case("Slice-step", "Slice", {"a": (5, 4)}, {"y": (5, 2)},
         constants={"s": ints(0), "e": ints(9), "x": ints(-1), "t": ints(2)}),
    Case("Slice-reversed", "Slice", {"a": (5, 4)}, {"y": (5, 4)},
         constants={"s": ints(-1), "e": ints(-(2**63)), "x": ints(0), "t": ints(-1)}),
    *(reduction(op, axes, keep) for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
      for axes in ([1], [0, -1], None) for keep in (0, 1)),
    *(Case(f"Dropout-{r}", "Dropout", {"a": (5, 6)}, {"y": (5, 6)}, {"seed": 3},
           constants={"r": np.float32(r), "t": np.array(True)}) for r in (0.3, 0.75)),
    *(recurrence(kind, made, reverse=reverse) for kind in ("LSTM", "GRU", "RNN") for reverse in (0, 1)
      for made in (("y", "h"), ("y",), ("", "h"))),
    *(recurrence("LSTM", made, reverse=reverse) for reverse in (0, 1) for made in (("y", "h", "c"), ("", "", "c"))),
    recurrence("RNN", ("y", "h"), activation="relu"),
    attention("Attention", 0), attention("Attention", 1),
    attention("BiasedAttention", 0), attention("MaskedAttention", 0, fill=-1.5),
]  # fmt: skip


def program_of(case: Case):
    inputs = [float_input(name, shape) for name, shape in case.inputs.items()]
    inputs += [float_input(name, value.shape, "data", value.dtype.name) for name, value in case.values.items()]
    step = (case.operator, case.arguments(), list(case.made or case.outputs), case.attributes)
    return forward_program([step], inputs, case.outputs, case.constants)


def values_of(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    draw = (lambda shape: rng.uniform(0.5, 2, shape)) if case.positive else (lambda shape: rng.normal(size=shape))
    return {**{n: np.asarray(draw(s), np.float32) for n, s in case.inputs.items()}, **case.values}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_gradient_equals_finite_difference(case):
    check_gradients(program_of(case), list(case.inputs), values_of(case))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_each_input_can_be_differentiated_alone(case):
    for name in case.inputs:
        check_gradients(program_of(case), [name], values_of(case))


GRADIENTS_OF_OUR_OWN = ("Dropout", "Conv", "ConvTranspose", "MaxPool", "AveragePool")
IN_ONNXRUNTIME = [case for case in CASES if DOMAIN not in case.operator and case.operator not in GRADIENTS_OF_OUR_OWN]


@pytest.mark.parametrize("case", IN_ONNXRUNTIME, ids=lambda case: case.label)
def test_onnxruntime_agrees_with_the_reference(case):
    session_of = pytest.importorskip("onnxruntime").InferenceSession
    from bucketmod.compiler.gradient import differentiate

    training = differentiate(program_of(case), list(case.inputs))
    values = values_of(case)
    rng = np.random.default_rng(2)
    heads = {p.name: rng.normal(size=p.shape).astype(np.float32) for p in training.by_role("head_gradient")}
    feeds = {**values, **heads}
    for node in training.model.graph.node:
        if node.op_type == "LayerNormalizationGrad":  # its kernel wants all three outputs
            node.output.extend(f"unused_{i}" for i in range(len(node.output), 3))
    session = session_of(training.model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [port.name for port in training.outputs]
    expected = run_program(training, feeds)
    for name, found in zip(names, session.run(names, feeds), strict=True):
        np.testing.assert_allclose(found, expected[name], rtol=2e-4, atol=2e-5, err_msg=name)


def test_every_allowed_operator_has_a_case():
    heads = {(DOMAIN, name) for name in LOSS_HEADS}  # no derivative of their output: compared with MXNet
    proven = {tuple(case.operator.rpartition("::")[::2]) for case in CASES}
    assert set(ALLOWED) - heads == proven
