"""Matrix products of every form against NumPy, at the vector widths of both CPU levels."""

import math

import numpy as np
import pytest
from kernel_runner import build, call

from bucketmod.compiler.kernels import emission as emit
from bucketmod.compiler.kernels.products.choice import takes_tiles
from bucketmod.compiler.kernels.products.epilogue import ACTIVATIONS, SLOPES
from bucketmod.compiler.kernels.products.gemm import Gemm, Plan, plan
from bucketmod.compiler.kernels.products.tile_emission import emit_tile_product
from bucketmod.compiler.kernels.products.tile_plan import candidates, tile_plan
from bucketmod.compiler.target import host_level, parse_target

tvm = pytest.importorskip("tvm")

LEVELS = ["x86-64-v3", "x86-64-v4", "x86-64-v4-amx"]
SIZES = [(1, 1, 1), (2, 3, 5), (13, 307, 33), (32, 200, 80), (61, 129, 67), (150, 17, 100), (7, 600, 200)]


def target_for(level):
    if level > host_level():
        pytest.skip(f"this CPU is {host_level()}")
    return parse_target(f"cpu:{level}")


def operands(gemm):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(dtype) for shape, dtype in gemm.inputs]


def run(function, inputs, gemm, target):
    return call(function, target, inputs, len(gemm.outputs))


ACTIVATED = {
    "": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x * 0.5**0.5)) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
}
SLOPED = {"": lambda y: 1, "relu": lambda y: y > 0, "sigmoid": lambda y: y * (1 - y), "tanh": lambda y: 1 - y * y}


def expected(gemm, inputs):
    named = dict(zip(gemm.arguments, (x.astype(np.float64) for x in inputs), strict=False))
    a, b = named["A"], named["B"]
    if gemm.shift > 0:
        b = np.concatenate([named["edge"], b])[: gemm.k]
    elif gemm.shift < 0:
        b = np.concatenate([b, named["edge"]])[-gemm.shift :]
    a = np.swapaxes(a, -1, -2) if gemm.trans_a else a
    b = np.swapaxes(b, -1, -2) if gemm.trans_b else b
    c = ACTIVATED[gemm.activation](a @ b + named.get("bias", 0) + named.get("addend", 0))
    return [c * SLOPED[gemm.slope_of](named.get("saved")), *([a.sum(-1)] if gemm.column_sums else [])]


def forms(gemm, cpu):
    """What the compiler takes; then tiles with either operand on the left, in many blocks, whether they pay or not."""
    yield gemm.tuned(cpu)
    for swap in (False, True) if cpu.tiles else ():
        plans = [p for p in candidates(gemm, cpu) if p.swap == swap]
        p = max(plans, key=lambda p: (p.tasks(gemm), -p.depth))
        yield emit.build_named(gemm.name, gemm.arguments, lambda buffers, p=p: emit_tile_product(gemm, p, buffers))


def check(gemm, level):
    target = target_for(level)
    inputs = operands(gemm)
    wanted = expected(gemm, inputs)
    functions = list(forms(gemm, target.cpu))
    for number, (function, built) in enumerate(zip(functions, build(functions, target), strict=True)):
        for result, want in zip(call(function, target, inputs, len(gemm.outputs), built), wanted, strict=True):
            np.testing.assert_allclose(result, want, atol=3e-6 * np.sqrt(gemm.k) + 1e-6, rtol=1e-5,
                                       err_msg=f"{gemm}, form {number}")  # fmt: skip


@pytest.mark.parametrize("lanes, vectors", [(8, 1), (8, 2), (8, 3), (8, 4), (16, 3), (16, 4)])
def test_panels_cover_every_column_once(lanes, vectors):
    for n in range(1, 10 * lanes):
        cut = Plan(lanes, 3, vectors, 1, 1, 1, False, False).panels(Gemm(3, 1, n))
        starts = [segment.first + i * segment.size for segment in cut for i in range(segment.count)]
        numbers = [segment.start + i for segment in cut for i in range(segment.count)]
        assert starts == sorted(set(starts)) and starts[0] == 0 and numbers == list(range(len(starts)))
        assert all(0 < segment.size <= vectors * lanes and segment.count > 0 for segment in cut)
        assert sum(segment.count * segment.size for segment in cut) == n


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("trans_a", [False, True])
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_transpose_and_remainder(level, trans_a, trans_b, size):
    check(Gemm(*size, trans_a, trans_b, bias=size[0] % 2 == 1), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shared", [(True, True), (False, True), (True, False)], ids=["own", "one_a", "one_b"])
@pytest.mark.parametrize("trans", [(False, False), (False, True), (True, False)], ids=["nn", "nt", "tn"])
def test_batches_with_own_and_shared_operands(level, shared, trans):
    check(Gemm(13, 21, 35, *trans, batch=5, batch_a=shared[0], batch_b=shared[1]), level)
    if not any(trans):
        check(Gemm(33, 1009, 35, batch=2, batch_a=shared[0], batch_b=shared[1]), level)  # in several blocks of K


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shift", [3, -3, 8, -8])
@pytest.mark.parametrize("trans_a", [False, True])
def test_shifted_rows_begin_at_the_edge(level, shift, trans_a):
    check(Gemm(20, 8, 37, trans_a, shift=shift), level)
    check(Gemm(40, 800, 37, trans_a, shift=shift), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "gemm",
    [Gemm(270, 700, 330, False, True, bias=True), Gemm(700, 1200, 50, True), Gemm(64, 3000, 130)],
    ids=lambda g: g.name,
)
def test_products_of_many_blocks_run_in_parallel_and_agree(level, gemm):
    assert plan(gemm, target_for(level).cpu).parallel
    check(gemm, level)


@pytest.mark.parametrize(
    "gemm",
    [
        Gemm(9, 17, 5, True, True, bias=True, column_sums=True),
        Gemm(3, 4, 5, batch=3, batch_b=False, addend=True, slope_of="tanh"),
        Gemm(6, 8, 5, True, shift=-2),
        *(Gemm(3, 4, 5, bias=True, addend=True, activation=name) for name in ACTIVATIONS),
        *(Gemm(3, 4, 5, activation="tanh", slope_of=name) for name in SLOPES),
    ],
    ids=lambda g: g.name,
)
def test_portable_form_computes_the_same(gemm):
    inputs = operands(gemm)
    got = run(gemm.portable(), inputs, gemm, parse_target("cpu:x86-64-v3"))
    for result, want in zip(got, expected(gemm, inputs), strict=True):
        np.testing.assert_allclose(result, want, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("trans_b", [False, True])
@pytest.mark.parametrize("size", [*SIZES, (270, 700, 330)], ids=str)
def test_products_with_a_weight_that_was_packed_before(level, trans_b, size):
    target = target_for(level)
    gemm = Gemm(*size, trans_b=trans_b, bias=True, addend=True, activation="relu")
    split = gemm.with_packed_weight(target.cpu, once=True)
    if split is None:
        assert takes_tiles(gemm, target.cpu), "vector registers read packed weights"
        pytest.skip("tile registers have an order of their own")
    index, pack, rest = split
    inputs = operands(gemm)
    (packed,) = run(pack.tuned(target.cpu), [inputs[index]], pack, target)
    given = [*inputs[:index], packed, *inputs[index + 1 :]]
    (result,) = run(rest.tuned(target.cpu), given, rest, target)
    np.testing.assert_allclose(result, expected(gemm, inputs)[0], atol=3e-6 * np.sqrt(gemm.k) + 1e-6, rtol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("options", [{"column_sums": True}, {"shift": 13}, {"shift": -13}], ids=str)
@pytest.mark.parametrize("size", [(707, 1009, 307), (1000, 1300, 202)], ids=str)
def test_a_large_right_operand_is_packed_as_a_whole(level, options, size):
    gemm, cpu = Gemm(*size, True, **options), target_for(level).cpu
    assert plan(gemm, cpu).pack_all, "several blocks of rows read all of it"
    check(gemm, level)


@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_one_packed_weight_serves_any_number_of_rows(level):
    cpu = parse_target(f"cpu:{level}").cpu
    weights = {Gemm(m, 200, 800, trans_b=True).with_packed_weight(cpu, once=True)[1] for m in (1, 13, 320, 1920)}
    assert len(weights) == 1, "each bucket would keep a copy"


def test_weights_are_packed_before_only_where_that_pays():
    cpu = parse_target("cpu:x86-64-v3").cpu
    assert Gemm(13, 200, 800, trans_b=True).with_packed_weight(cpu, once=False) is None
    assert Gemm(1920, 200, 800, trans_b=True).with_packed_weight(cpu, once=False) is not None
    for other in (Gemm(13, 200, 800, shift=3), Gemm(13, 200, 800, batch=3), Gemm(13, 200, 800, trans_a=True)):
        assert other.with_packed_weight(cpu, once=True) is None


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_the_finished_product(level, activation):
    check(Gemm(91, 307, 37, False, True, bias=True, activation=activation), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("slope_of", SLOPES)
def test_gradients_pass_the_activation_before(level, slope_of):
    check(Gemm(91, 1009, 37, addend=True, slope_of=slope_of), level)  # in several blocks of K


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("options", [{}, {"bias": True}, {"bias": True, "activation": "relu"}], ids=str)
@pytest.mark.parametrize("size", [(91, 307, 37), (13, 1009, 307)], ids=str)
def test_addend_of_the_shape_of_the_product(level, size, options):
    check(Gemm(*size, False, True, addend=True, **options), level)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [(91, 307, 37), (307, 1009, 307)], ids=str)
def test_product_written_over_its_addend(level, size):
    gemm, target = Gemm(*size, bias=True, addend=True, activation="relu"), target_for(level)
    inputs = operands(gemm)
    function = gemm.tuned(target.cpu).with_attr("global_symbol", "main").with_attr("tirx.noalias", False)
    tensors = [tvm.runtime.tensor(x) for x in inputs]
    over = tensors[gemm.in_place[0]]
    build([function], target)[0](*tensors, over)
    np.testing.assert_allclose(over.numpy(), expected(gemm, inputs)[0], atol=1e-4, rtol=1e-5)


def test_options_of_every_matrix_of_a_batch():
    check(Gemm(13, 21, 35, batch=5, batch_b=False, addend=True, activation="relu", slope_of="relu"), "x86-64-v3")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("size", [(1, 91, 5), (307, 91, 50), (1009, 91, 307), (13, 1009, 700)], ids=str)
def test_column_sums_of_the_left_operand(level, size):
    check(Gemm(*size, True, column_sums=True), level)


def test_column_sums_go_with_a_shift():
    check(Gemm(28, 91, 7, True, shift=13, column_sums=True), "x86-64-v3")


def test_code_does_not_grow_with_the_shape():
    cpu = parse_target("cpu:x86-64-v4").cpu
    sizes = [len(Gemm(m, k, n, True).tuned(cpu).script()) for m, k, n in [(403, 701, 203), (1999, 7001, 2003)]]
    assert max(sizes) < 1.5 * min(sizes)  # how many kinds of tile there are at the borders does depend on it


def test_tile_products_share_k_where_c_is_small():
    cpu = parse_target("cpu:x86-64-v4-amx").cpu
    assert tile_plan(Gemm(320, 10000, 200), cpu).splits > 1, "each task would split all of B for few rows"
    assert tile_plan(Gemm(320, 10000, 200, batch=3), cpu).splits == 1, "the matrices are enough for the threads"
    check(Gemm(77, 1999, 45, trans_a=True, column_sums=True), "x86-64-v4-amx")


@pytest.mark.parametrize("level", LEVELS)
def test_infinite_values_stay_in_their_rows_and_columns(level):
    target = target_for(level)
    gemm = Gemm(14, 9, 19, False, True)
    a, b = operands(gemm)
    a[3, 2], b[17, 1] = np.inf, np.nan
    bad = np.zeros((14, 19), bool)
    bad[3], bad[:, 17] = True, True
    for function in forms(gemm, target.cpu):
        (got,) = run(function, [a, b], gemm, target)
        assert np.array_equal(~np.isfinite(got), bad)


def test_tile_products_are_as_exact_as_float32():
    target = target_for("x86-64-v4-amx")
    gemm = Gemm(64, 1024, 64)
    rng = np.random.default_rng(3)
    # Values of all sizes, and sums in which large products cancel.
    a, b = (rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 6, shape) for shape, _ in gemm.inputs)
    a, b = a.astype(np.float32), b.astype(np.float32)
    exact, size = a.astype(np.float64) @ b, np.abs(a).astype(np.float64) @ np.abs(b)
    function = list(forms(gemm, target.cpu))[1]
    (got,) = run(function, [a, b], gemm, target)
    rounded = np.max(np.abs(a @ b - exact) / size)  # by float32 itself, 4e-7
    assert np.max(np.abs(got - exact) / size) < 3 * rounded, "sums of parts round as float32 sums do"


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(batch=3, shift=1), "shift"),
        (dict(column_sums=True), "transposed"),
        (dict(trans_a=True, batch=3, column_sums=True), "column sums"),
        (dict(activation="softplus"), "activation"),
        (dict(slope_of="gelu"), "slope"),
        (dict(trans_b=True, panel=16), "packed"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        Gemm(2, 2, 2, **options)
