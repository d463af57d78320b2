"""Batch normalization, its inference form and its gradient against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from bucketmod.compiler.kernels.batch_normalization import BatchNorm, BatchNormGrad, BatchNormInference

SHAPES = [(13, 5, 1), (40, 307, 1), (7, 128, 1), (3, 4, 49), (2, 3, 4), (5, 2, 100)]
EPSILON = 1e-3


def draw(outer, channels, inner):
    random = np.random.RandomState(channels)
    x, dy = (random.randn(outer, channels, inner) for _ in range(2))
    gamma, beta, mean = (random.randn(channels) for _ in range(3))
    x = x * random.uniform(0.2, 3, (channels, 1)) + 30 * mean[:, None]  # means large beside the deviations
    arrays = (x, dy, gamma, beta, mean, random.uniform(0.5, 2, channels))
    return [(a[..., 0] if a.ndim == 3 and inner == 1 else a).astype(np.float32) for a in arrays]


def wide(vector, x):
    """One value a channel, ready to broadcast over the data."""
    return vector.astype(np.float64).reshape(-1, *[1] * (x.ndim - 2))


def statistics(x):
    x = x.astype(np.float64)
    axes = (0, *range(2, x.ndim))
    return x.mean(axes), x.var(axes)


@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(run, shape):
    x, _, gamma, beta, _, _ = draw(*shape)
    mean, var = statistics(x)
    inv_std = 1 / np.sqrt(var + EPSILON)
    found = run(BatchNorm(*shape, EPSILON), x, gamma, beta)
    expected = (x - wide(mean, x)) * wide(inv_std * gamma, x) + wide(beta, x)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(found[1], mean, rtol=5e-6)
    np.testing.assert_allclose(found[2], inv_std, rtol=2e-5)
    np.testing.assert_allclose(found[3], var, rtol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_inference(run, shape):
    x, _, gamma, beta, mean, var = draw(*shape)
    (found,) = run(BatchNormInference(*shape, EPSILON), x, gamma, beta, mean, var)
    expected = (x - wide(mean, x)) * wide(gamma / np.sqrt(var + EPSILON), x) + wide(beta, x)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient(run, shape):
    x, dy, gamma, _, _, _ = draw(*shape)
    mean, var = statistics(x)
    inv_std = 1 / np.sqrt(var + EPSILON)
    axes = (0, *range(2, x.ndim))
    normal = (x - wide(mean, x)) * wide(inv_std, x)
    dgamma, dbeta = (dy * normal).sum(axes), dy.sum(axes, dtype=np.float64)
    count = x.size / len(gamma)
    dx = wide(gamma * inv_std, x) * (dy - wide(dbeta, x) / count - normal * wide(dgamma, x) / count)
    single = [a.astype(np.float32) for a in (mean, inv_std)]
    found = run(BatchNormGrad(*shape), dy, x, gamma, *single)
    for got, expected in zip(found, (dx, dgamma, dbeta), strict=True):
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=5e-5)
    without = run(BatchNormGrad(*shape, data=False), dy, x, gamma, *single)
    for got, expected in zip(without, found[1:], strict=True):
        np.testing.assert_array_equal(got, expected)
