"""Matrix products of every form against NumPy, at the vector widths of both CPU levels."""

import numpy as np
import pytest

from bucketmod.compiler.kernels.gemm import Gemm, Plan, plan
from bucketmod.compiler.target import host_level, parse_target

tvm = pytest.importorskip("tvm")

LEVELS = ["x86-64-v3", "x86-64-v4"]
SIZES = [(1, 1, 1), (2, 3, 5), (13, 307, 33), (32, 200, 80), (61, 129, 67), (150, 17, 100), (7, 600, 200)]


def target_for(level):
    if level > host_level():
        pytest.skip(f"this CPU is {host_level()}")
    return parse_target(f"cpu:{level}")


def operands(gemm):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(dtype) for shape, dtype in gemm.inputs]


def run(function, inputs, gemm, target):
    built = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target=target.tvm())
    (shape, dtype) = gemm.outputs[0]
    out = tvm.runtime.tensor(np.full(shape, np.nan, dtype))
    built["main"](*[tvm.runtime.tensor(x) for x in inputs], out)
    return out.numpy()


def expected(gemm, inputs):
    a, b = (x.astype(np.float64) for x in inputs[:2])
    if gemm.shift > 0:
        b = np.concatenate([inputs[2], b])[: gemm.k]
    elif gemm.shift < 0:
        b = np.concatenate([b, inputs[2]])[-gemm.shift :]
    a = np.swapaxes(a, -1, -2) if gemm.trans_a else a
    b = np.swapaxes(b, -1, -2) if gemm.trans_b else b
    return a @ b + (inputs[-1] if gemm.bias else 0)


def check(gemm, level):
    target = target_for(level)
    inputs = operands(gemm)
    got = run(gemm.tuned(target.cpu), inputs, gemm, target)
    want = expected(gemm, inputs)
    np.testing.assert_allclose(got, want, atol=3e-6 * np.sqrt(gemm.k) + 1e-6, rtol=1e-5)
    return got


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
    [Gemm(9, 17, 5, True, True, bias=True), Gemm(3, 4, 5, batch=3, batch_b=False), Gemm(6, 8, 5, True, shift=-2)],
    ids=lambda g: g.name,
)
def test_portable_form_computes_the_same(gemm):
    inputs = operands(gemm)
    got = run(gemm.portable(), inputs, gemm, parse_target("cpu:x86-64-v3"))
    np.testing.assert_allclose(got, expected(gemm, inputs), atol=1e-5)


def test_code_does_not_grow_with_the_shape():
    cpu = parse_target("cpu:x86-64-v4").cpu
    sizes = [len(Gemm(m, k, n, True).tuned(cpu).script()) for m, k, n in [(403, 701, 203), (1999, 7001, 2003)]]
    assert max(sizes) < 1.5 * min(sizes)  # how many kinds of tile there are at the borders does depend on it


def test_infinite_values_stay_in_their_rows_and_columns():
    target = target_for("x86-64-v3")
    gemm = Gemm(14, 9, 19, False, True)
    a, b = operands(gemm)
    a[3, 2], b[17, 1] = np.inf, np.nan
    got = run(gemm.tuned(target.cpu), [a, b], gemm, target)
    bad = np.zeros((14, 19), bool)
    bad[3], bad[:, 17] = True, True
    assert np.array_equal(~np.isfinite(got), bad)


def test_shift_of_a_batch_is_refused():
    with pytest.raises(ValueError, match="shift"):
        Gemm(2, 2, 2, batch=3, shift=1)
