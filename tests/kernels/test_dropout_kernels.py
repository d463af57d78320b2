"""Dropout: the generator against its published test vector, masks that depend on seed, step, stream and position."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_runner import TARGETS, run_kernel, skip_without

from bucketmod.compiler.kernels.dropout import ROUNDS, Dropout, DropoutGrad

SEED = np.array([12345678901, 77], np.int64)


def philox(counter, key):
    """Philox4x32 in numpy: 64-bit arithmetic on arrays of 32-bit words."""
    c, k, low = [np.asarray(x, np.uint64) for x in counter], [np.uint64(x) for x in key], np.uint64(2**32 - 1)
    for number in range(ROUNDS):
        a, b = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        keys = [(x + np.uint64(w * number)) & low for x, w in zip(k, (0x9E3779B9, 0xBB67AE85), strict=True)]
        c = [(b >> np.uint64(32)) ^ c[1] ^ keys[0], b & low, (a >> np.uint64(32)) ^ c[3] ^ keys[1], a & low]
    return c


def expected_mask(count, ratio, stream, seed=SEED):
    i = np.arange(count)
    (seed_low, seed_high), (step_low, step_high) = ((int(x) & (2**32 - 1), int(x) >> 32) for x in seed)
    number = i // 64 * 16 + i % 16
    words = philox([np.full(count, step_low), number, np.full(count, step_high), np.full(count, stream)],
                   [seed_low, seed_high])  # fmt: skip
    return np.choose(i % 64 // 16, words) >= round(ratio * 2**32)


def test_reference_gives_the_published_numbers():
    """Counter and key 0, from the known answers of the Random123 library."""
    assert [int(w) for w in philox([0, 0, 0, 0], [0, 0])] == [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]


@pytest.mark.parametrize(
    "count, ratio, stream", [(1009, 0.5, 0), (7, 0.3, 1), (3001, 0.2, 2), (129, 0.7, 3), (64, 0, 0)]
)
def test_dropout_and_its_gradient(run, count, ratio, stream):
    x = np.random.RandomState(count).randn(count).astype(np.float32)
    expected = expected_mask(count, ratio, stream)
    y, mask = run(Dropout(count, ratio, stream), x, SEED)
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(y, np.where(expected, x / (1 - ratio), 0), rtol=1e-6)
    (dx,) = run(DropoutGrad(count, ratio), x, expected)
    np.testing.assert_allclose(dx, y, rtol=1e-6)


def test_masks_differ_between_seeds_steps_and_streams():
    target = TARGETS[0]
    skip_without(target)
    x = np.ones(4096, np.float32)

    def mask(seed, step, stream):
        return run_kernel(Dropout(4096, 0.5, stream), target, "final", x, np.array([seed, step]))[1]

    base = mask(1, 1, 0)
    assert 0.45 < base.mean() < 0.55
    for other in (mask(2, 1, 0), mask(1, 2, 0), mask(1, 1, 1), mask(1 + 2**32, 1, 0), mask(1, 1 + 2**32, 0)):
        assert 0.45 < (other != base).mean() < 0.55


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_ratio_that_drops_everything_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        Dropout(8, ratio)
