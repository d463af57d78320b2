"""Embedding, its gradient and column sums: both forms against numpy, at odd sizes and both vector widths."""

from __future__ import annotations

import numpy as np
import pytest

from bucketmod.compiler.kernels.embedding import Embedding, EmbeddingGrad
from bucketmod.compiler.kernels.reduction import ColumnSum

RANDOM = np.random.RandomState(3)


@pytest.mark.parametrize("rows, cols", [(13, 307), (1, 5), (300, 1), (37, 1024), (5, 129), (1009, 307)])
def test_column_sum(run, rows, cols):
    x = RANDOM.randn(rows, cols).astype(np.float32)
    np.testing.assert_allclose(run(ColumnSum(rows, cols), x)[0], x.sum(0, dtype=np.float64), rtol=1e-5, atol=5e-5)


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
@pytest.mark.parametrize("vocab, dim, count", [(11, 307, 13), (1009, 16, 40), (5, 3, 7)])
def test_embedding_and_its_gradient(run, vocab, dim, count, dtype):
    ids = RANDOM.randint(0, vocab, count).astype(dtype)
    weight, dy = (RANDOM.randn(n, dim).astype(np.float32) for n in (vocab, count))
    np.testing.assert_array_equal(run(Embedding(vocab, dim, count, dtype), ids, weight)[0], weight[ids.astype(int)])
    expected = np.zeros_like(weight)
    np.add.at(expected, ids.astype(int), dy)
    np.testing.assert_allclose(run(EmbeddingGrad(vocab, dim, count, dtype), ids, dy)[0], expected, rtol=1e-5, atol=1e-6)


def test_numbers_out_of_range_mean_the_nearest_row(run):
    ids = np.array([-3, 99, 1e30, -np.inf, 2.9], np.float32)
    weight = RANDOM.randn(5, 4).astype(np.float32)
    np.testing.assert_array_equal(run(Embedding(5, 4, 5), ids, weight)[0], weight[[0, 4, 4, 0, 2]])
