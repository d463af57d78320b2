"""Functions that Relax legalizes, scheduled for CPUs: right, vectorised, and free of calls into the C library."""

from __future__ import annotations

import functools
import tempfile
from math import erf
from pathlib import Path

import numpy as np
import pytest
import tvm
from kernel_runner import TARGETS, build, call, on_threads, scheduled
from tvm import relax, te, tirx

from bucketmod.compiler.kernels.kernel import TUNED
from bucketmod.compiler.passes.schedule_cpu import schedule_cpu
from bucketmod.compiler.passes.vector_math import vector_math

op = relax.op
V3 = TARGETS[0]


def legalized(build_body, *shapes):
    """The single function that fusion leaves of ``build_body(emit, *inputs)``."""
    builder = relax.BlockBuilder()
    inputs = [relax.Var(f"x{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(shapes)]
    with builder.function("main", inputs):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(build_body(builder.normalize, *inputs)))
        builder.emit_func_output(result)
    module = builder.get()
    for name in ("LegalizeOps", "AnnotateTIROpPattern", "FuseOps", "FuseTIR"):
        module = getattr(relax.transform, name)()(module)
    (function,) = [f for f in module.functions.values() if isinstance(f, tirx.PrimFunc)]
    return function


def softmax(x):
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


def normalized(x, g, b):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * g + b


def double(emit, x):
    return emit(op.add(x, x))


CASES = {
    "bias and tanh": (lambda n, x, b: op.tanh(n(op.add(x, b))), lambda x, b: np.tanh(x + b), (4, 13, 307), (307,)),
    "large addition": (lambda n, x, y: op.add(x, y), np.add, (300, 1009), (300, 1009)),
    "long vector": (lambda n, x: op.exp(x), np.exp, (100_003,)),
    "scalar broadcast": (lambda n, x, y: op.multiply(x, y), np.multiply, (13, 307), (13, 1)),
    "swish": (lambda n, x: op.multiply(x, n(op.sigmoid(x))), lambda x: x / (1 + np.exp(-x)), (13, 307)),
    "row sums": (lambda n, x: op.sum(x, axis=[-1]), lambda x: x.sum(-1), (13, 1009)),
    "row maxima": (lambda n, x: op.max(x, axis=[-1], keepdims=True), lambda x: x.max(-1, keepdims=True), (13, 307)),
    "short row minima": (lambda n, x: op.min(x, axis=[-1]), lambda x: x.min(-1), (13, 3)),
    "row products": (lambda n, x: op.prod(x, axis=[-1]), lambda x: x.prod(-1), (13, 19)),
    "column sums": (lambda n, x: op.sum(x, axis=[0]), lambda x: x.sum(0), (700, 307)),
    "sums over two axes": (lambda n, x: op.sum(x, axis=[0, 1]), lambda x: x.sum((0, 1)), (60, 32, 20)),
    "sums over the middle": (lambda n, x: op.sum(x, axis=[1]), lambda x: x.sum(1), (6, 32, 307)),
    "sums around the middle": (lambda n, x: op.sum(x, axis=[0, 2]), lambda x: x.sum((0, 2)), (6, 5, 37)),
    "sum of everything": (lambda n, x: op.sum(x), lambda x: x.sum(), (480, 1009)),
    "sum over one element": (lambda n, x: op.sum(x, axis=[1]), lambda x: x.sum(1), (37, 1)),
    "variance": (lambda n, x: op.variance(x, axis=[-1]), lambda x: x.var(-1), (13, 307)),
    "softmax": (lambda n, x: op.nn.softmax(x), softmax, (13, 307)),
    "log softmax": (lambda n, x: op.nn.log_softmax(x), lambda x: np.log(softmax(x)), (13, 307)),
    "layer norm": (
        lambda n, x, g, b: op.nn.layer_norm(x, g, b, axes=[-1]), normalized, (13, 307), (307,), (307,)
    ),
    "transposition": (lambda n, x: op.permute_dims(n(op.negative(x))), lambda x: -x.T, (130, 307)),
    "outer transposition": (lambda n, x: op.permute_dims(x, [1, 0, 2]), lambda x: x.transpose(1, 0, 2), (13, 5, 307)),
    "concatenation": (
        lambda n, x, y: op.tanh(n(op.concat([x, y], axis=1))),
        lambda x, y: np.tanh(np.concatenate([x, y], 1)),
        (13, 200),
        (13, 307),
    ),
    "reshape": (lambda n, x: op.exp(n(op.reshape(x, (39, 5, 307)))), lambda x: np.exp(x).reshape(39, 5, 307),
                (13, 15, 307)),
    "slice": (lambda n, x: op.strided_slice(x, [1], [5], [300]), lambda x: x[:, 5:300], (13, 307)),
    "padding": (lambda n, x: op.nn.pad(x, (1, 2, 3, 4)), lambda x: np.pad(x, ((1, 2), (3, 4))), (13, 307)),
    "choice": (lambda n, x, y: op.where(n(op.greater(x, y)), x, y), np.maximum, (13, 307), (13, 307)),
    "comparison": (
        lambda n, x, y: op.astype(n(op.greater(x, y)), "float32"), np.greater, (13, 307), (13, 307)
    ),
    "product of matrices": (lambda n, x, y: op.matmul(x, y), np.matmul, (3, 13, 37), (3, 37, 47)),
    "position of the largest": (
        lambda n, x: op.astype(n(op.argmax(x, axis=1)), "float32"), lambda x: x.argmax(1), (13, 307)
    ),
    "repeated doubling": (
        lambda n, x: functools.reduce(lambda y, _: double(n, y), range(12), x), lambda x: x * 4096.0, (9, 31)
    ),
    "elements far apart": (lambda n, x: op.strided_slice(x, [1], [0], [300], [3]), lambda x: x[:, :300:3], (13, 307)),
    "gelu": (lambda n, x: op.nn.gelu(x), None, (13, 307)),
}  # fmt: skip


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def draw(shapes):
    random = np.random.RandomState(2)
    return [(random.rand(*shape) * 2 + 0.1).astype(np.float32) for shape in shapes]


def test_scheduled_functions_give_the_results_of_numpy(cpu_target):
    functions = {name: scheduled(legalized(case[0], *case[2:]), cpu_target) for name, case in CASES.items()}
    for (name, function), built in zip(functions.items(), build(functions.values(), cpu_target), strict=True):
        inputs = draw(CASES[name][2:])
        reference = CASES[name][1] or gelu
        (found,) = call(function, cpu_target, inputs, 1, built)
        expected = reference(*(x.astype(np.float64) for x in inputs))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5, err_msg=name)
        assert function.attrs[TUNED], name


def test_sums_do_not_depend_on_the_number_of_threads(cpu_target):
    names = ["column sums", "sum of everything", "sums over the middle", "sums over two axes"]
    shapes = [(4 * rows, *rest) for rows, *rest in (CASES[name][2] for name in names)]
    pairs = zip(names, shapes, strict=True)
    functions = [scheduled(legalized(CASES[name][0], shape), cpu_target) for name, shape in pairs]
    for function, built in zip(functions, build(functions, cpu_target), strict=True):
        assert "T.parallel" in function.script()
        inputs = draw([tuple(map(int, function.params[0].shape))])
        run = functools.partial(call, function, cpu_target, inputs, 1, built)
        np.testing.assert_array_equal(on_threads(1, run)[0], on_threads(3, run)[0])


def test_small_work_stays_on_one_thread():
    assert "T.parallel" not in scheduled(legalized(CASES["bias and tanh"][0], (4, 3, 307), (307,)), V3).script()


def test_elementwise_chains_become_one_loop_without_intermediates():
    for name in ("bias and tanh", "concatenation", "gelu"):
        assert "alloc_buffer" not in scheduled(legalized(CASES[name][0], *CASES[name][2:]), V3).script()


def test_inlining_does_not_double_an_expression_without_end():
    assert len(scheduled(legalized(CASES["repeated doubling"][0], (9, 31)), V3).script()) < 60_000


def test_vectors_are_as_wide_as_the_target(cpu_target):
    script = scheduled(legalized(CASES["large addition"][0], (30, 1009), (30, 1009)), cpu_target).script()
    assert f"vectorized(T.int64({cpu_target.cpu.lanes}))" in script


@pytest.mark.parametrize("rewritten_before", [False, True])
def test_chains_of_elementary_functions_call_nothing_and_compile_fast(rewritten_before):
    function = legalized(lambda n, x: op.sigmoid(n(op.tanh(n(op.log(n(op.erf(n(op.exp(x))))))))), (13, 307))
    final = schedule_cpu(vector_math(function) if rewritten_before else function, V3.cpu)
    machine_code = object_code(final)
    assert b"kernel" in machine_code
    for name in (b"expf", b"tanhf", b"logf", b"erff"):
        assert name not in machine_code
    (x,) = draw([(13, 307)])
    (found,) = call(final, V3, [x], 1)
    inner = np.tanh(np.log(np.vectorize(erf)(np.exp(x.astype(np.float64)))))
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-inner)), rtol=1e-5)


def object_code(function):
    """The object file of ``function``, with the names of the symbols that it needs."""
    module = tvm.compile(tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")}), target=V3.tvm())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        module.mod.write_to_file(str(path), "o")
        return path.read_bytes()


def test_other_types_keep_their_functions():
    x = te.placeholder((9,), "float64", name="x")
    function = te.create_prim_func([x, te.compute((9,), lambda i: te.exp(x[i]))])
    values = np.linspace(-2, 2, 9)
    (found,) = call(scheduled(function, V3), V3, [values], 1)
    np.testing.assert_allclose(found, np.exp(values), rtol=1e-14)


def test_a_tuned_function_is_returned_as_it_is():
    function = legalized(CASES["softmax"][0], (13, 307)).with_attr(TUNED, True)
    assert schedule_cpu(function, V3.cpu).same_as(function)


def test_a_function_of_unknown_extents_is_left_correct():
    n = tirx.Var("n", "int64")
    x = te.placeholder((n, 37), name="x")
    function = te.create_prim_func([x, te.compute((n, 37), lambda i, j: te.exp(x[i, j]), name="y")])
    final = scheduled(function, V3)
    assert TUNED not in final.attrs
    (built,) = build([final], V3)
    (values,) = draw([(5, 37)])
    out = tvm.runtime.tensor(np.zeros((5, 37), np.float32))
    built(tvm.runtime.tensor(values), out)
    np.testing.assert_allclose(out.numpy(), np.exp(values), rtol=1e-6)
