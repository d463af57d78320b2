"""Layer normalization and its gradient against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from bucketmod.compiler.kernels.normalization import LayerNorm, LayerNormGrad

SHAPES = [(13, 307), (5, 1009), (3, 5), (1, 40), (300, 64)]
EPSILON = 1e-3


def draw(rows, cols):
    random = np.random.RandomState(rows)
    x, dy = (random.randn(rows, cols).astype(np.float32) for _ in range(2))
    gamma, beta = (random.randn(cols).astype(np.float32) for _ in range(2))
    return x + 3, dy, gamma, beta


def statistics(x):
    x = x.astype(np.float64)
    return x.mean(1, keepdims=True), 1 / np.sqrt(x.var(1, keepdims=True) + EPSILON)


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_layer_norm(run, rows, cols):
    x, _, gamma, beta = draw(rows, cols)
    mean, inv_std = statistics(x)
    y, found_mean, found_inv_std = run(LayerNorm(rows, cols, EPSILON), x, gamma, beta)
    np.testing.assert_allclose(found_mean, mean[:, 0], rtol=5e-6)
    np.testing.assert_allclose(found_inv_std, inv_std[:, 0], rtol=5e-6)
    np.testing.assert_allclose(y, (x - mean) * inv_std * gamma + beta, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("rows, cols", SHAPES)
def test_layer_norm_gradient(run, rows, cols):
    x, dy, gamma, _ = draw(rows, cols)
    mean, inv_std = statistics(x)
    normal, weighted = (x - mean) * inv_std, dy * gamma.astype(np.float64)
    average = weighted.mean(1, keepdims=True) + normal * (weighted * normal).mean(1, keepdims=True)
    single = [a[:, 0].astype(np.float32) for a in (mean, inv_std)]
    dx, dgamma, dbeta = run(LayerNormGrad(rows, cols), dy, x, gamma, *single)
    np.testing.assert_allclose(dx, inv_std * (weighted - average), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dgamma, (dy * normal).sum(0), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(dbeta, dy.sum(0), rtol=1e-4, atol=2e-5)
