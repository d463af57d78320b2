"""Embedding, its gradient and column sums: both forms against numpy, at odd sizes and both vector widths."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import tirx

from bucketmod.compiler.kernels.embedding import Embedding, EmbeddingGrad
from bucketmod.compiler.kernels.reduction import ColumnSum
from bucketmod.compiler.target import parse_target
from bucketmod.runtime.cpu import host_flags

TARGETS = [parse_target(f"cpu:x86-64-{level}") for level in ("v3", "v4")]
RANDOM = np.random.RandomState(3)


@pytest.fixture(params=[(t, form) for t in TARGETS for form in ("tuned", "portable")],
                ids=lambda p: f"{p[0].arch}-{p[1]}")  # fmt: skip
def run(request):
    target, form = request.param
    missing = set(target.cpu.flags) - host_flags()
    if missing:
        pytest.skip(f"this machine has no {', '.join(sorted(missing))}")

    def call(kernel, *inputs):
        function = kernel.tuned(target.cpu) if form == "tuned" else kernel.portable()
        module = tvm.IRModule({"kernel": function.with_attr("global_symbol", "kernel")})
        assert isinstance(function, tirx.PrimFunc)
        compiled = tvm.compile(module, target=target.tvm())["kernel"]
        outputs = [tvm.runtime.tensor(np.full(shape, np.nan, dtype)) for shape, dtype in kernel.outputs]
        compiled(*map(tvm.runtime.tensor, inputs), *outputs)
        return outputs[0].numpy()

    return call


@pytest.mark.parametrize("rows, cols", [(13, 307), (1, 5), (300, 1), (37, 1024), (5, 129)])
def test_column_sum(run, rows, cols):
    x = RANDOM.randn(rows, cols).astype(np.float32)
    np.testing.assert_allclose(run(ColumnSum(rows, cols), x), x.sum(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
@pytest.mark.parametrize("vocab, dim, count", [(11, 307, 13), (1009, 16, 40), (5, 3, 7)])
def test_embedding_and_its_gradient(run, vocab, dim, count, dtype):
    ids = RANDOM.randint(0, vocab, count).astype(dtype)
    weight, dy = (RANDOM.randn(n, dim).astype(np.float32) for n in (vocab, count))
    np.testing.assert_array_equal(run(Embedding(vocab, dim, count, dtype), ids, weight), weight[ids.astype(int)])
    expected = np.zeros_like(weight)
    np.add.at(expected, ids.astype(int), dy)
    np.testing.assert_allclose(run(EmbeddingGrad(vocab, dim, count, dtype), ids, dy), expected, rtol=1e-5, atol=1e-6)


def test_numbers_out_of_range_mean_the_nearest_row(run):
    ids = np.array([-3, 99, 1e30, -np.inf, 2.9], np.float32)
    weight = RANDOM.randn(5, 4).astype(np.float32)
    np.testing.assert_array_equal(run(Embedding(5, 4, 5), ids, weight), weight[[0, 4, 4, 0, 2]])
