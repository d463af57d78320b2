"""The head of a classifier over many classes: projection with softmax, and the products of its gradient."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_runner import run_kernel

from bucketmod.compiler.kernels.softmax_head.gradients import HeadDataGradient, HeadWeightGradient, LabelScale
from bucketmod.compiler.kernels.softmax_head.softmax_head import SoftmaxProjection

RANDOM = np.random.RandomState(8)
# rows, depth, classes: full blocks of rows and rests of them, panels of full width and rests.
SIZES = [(13 * 7, 37, 1009), (64, 16, 256), (5, 7, 307), (131, 20, 520)]


def draw(*shape):
    return RANDOM.randn(*shape).astype(np.float32)


def softmax(scores):
    power = np.exp(scores - scores.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


# The last one has more rows than a task takes at once, and classes whose rows start anywhere in a line.
@pytest.mark.parametrize("rows, depth, classes", [*SIZES, (40, 54, 150), (77, 33, 161), (18, 33, 136), (1300, 70, 135)])
@pytest.mark.parametrize("bias", [True, False])
def test_probabilities_are_the_softmax_of_the_projection(run, rows, depth, classes, bias):
    x, w, b = draw(rows, depth), draw(classes, depth), draw(classes)
    scores = x.astype(np.float64) @ w.T.astype(np.float64) + (b if bias else 0)
    (found,) = run(SoftmaxProjection(rows, depth, classes, bias), x, w, *[b] * bias)
    np.testing.assert_allclose(found, softmax(scores), rtol=3e-5, atol=1e-7)


@pytest.mark.parametrize("rows, depth, classes", [*SIZES, (40, 54, 150), (77, 33, 161)])
def test_probabilities_by_a_weight_that_was_packed_before_are_the_same(cpu_target, rows, depth, classes):
    kernel = SoftmaxProjection(rows, depth, classes)
    x, w, b = draw(rows, depth), draw(classes, depth), draw(classes)
    split = kernel.with_packed_weight(cpu_target.cpu, once=True)
    if split is None:
        assert kernel.by_tiles(cpu_target.cpu), "vector registers read packed weights"
        pytest.skip("tile registers have an order of their own")
    _, pack, rest = split
    (packed,) = run_kernel(pack, cpu_target, "final", w)
    (found,) = run_kernel(rest, cpu_target, "final", x, packed, b)
    (together,) = run_kernel(kernel, cpu_target, "final", x, w, b)
    np.testing.assert_array_equal(found, together)


def test_large_scores_and_forbidden_classes_give_exact_probabilities(run):
    rows, depth, classes = 33, 8, 300
    x, w, b = np.zeros((rows, depth), np.float32), np.zeros((classes, depth), np.float32), draw(classes)
    b[:] = -np.inf
    b[[7, 250]] = 3e4  # far apart: the first panel of classes says nothing of the largest score
    b[299] = -3e4
    (found,) = run(SoftmaxProjection(rows, depth, classes), x, w, b)
    expected = np.zeros((rows, classes))
    expected[:, [7, 250]] = 0.5
    np.testing.assert_array_equal(found, expected)


def test_scores_that_rise_far_beyond_the_first_ones(run):
    rows, depth, classes = 40, 5, 600
    x, w, b = draw(rows, depth), draw(classes, depth), np.linspace(-500, 500, classes).astype(np.float32)
    scores = x.astype(np.float64) @ w.T.astype(np.float64) + b
    (found,) = run(SoftmaxProjection(rows, depth, classes), x, w, b)
    np.testing.assert_allclose(found, softmax(scores), rtol=2e-4, atol=1e-7)


@pytest.mark.parametrize("classes", [320, 301])
def test_rows_with_scores_beyond_any_power_among_others(run, classes):
    rows, depth = 70, 40
    x, w, b = draw(rows, depth), draw(classes, depth), draw(classes)
    x[::9] *= 1000
    x[5::9] = -1e30  # infinite scores of one sign in products of parts
    w[:, 0] = np.abs(w[:, 0])
    x[5::9, 1:] = 0
    scores = x.astype(np.float64) @ w.T.astype(np.float64) + b
    (found,) = run(SoftmaxProjection(rows, depth, classes), x, w, b)
    likely = softmax(scores)
    ordinary = np.setdiff1d(np.arange(rows), [*range(0, rows, 9), *range(5, rows, 9)])
    np.testing.assert_allclose(found[ordinary], likely[ordinary], rtol=3e-5, atol=1e-7)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.argmax(1), likely.argmax(1))


def case(rows, depth, classes, uniform=False):
    prob = softmax(draw(rows, classes)).astype(np.float32)
    label = RANDOM.randint(0, classes, rows).astype(np.float32)
    label[::7] = label[0]  # several rows with one label
    label[-1], label[-2] = -1, classes  # no class at all
    scale = np.full(rows, 0.3, np.float32) if uniform else RANDOM.rand(rows).astype(np.float32)
    onehot = (label[:, None] == np.arange(classes)).astype(np.float64)
    return prob, label, scale, (prob - onehot) * scale[:, None]


@pytest.mark.parametrize("rows, depth, classes", SIZES)
def test_gradient_of_the_data(run, rows, depth, classes):
    prob, label, scale, gradient = case(rows, depth, classes)
    w = draw(classes, depth)
    (found,) = run(HeadDataGradient(rows, depth, classes), prob, w, label, scale)
    np.testing.assert_allclose(found, gradient @ w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows, depth, classes", SIZES)
@pytest.mark.parametrize("uniform", [False, True])
def test_gradients_of_weight_and_bias(run, rows, depth, classes, uniform):
    prob, label, scale, gradient = case(rows, depth, classes, uniform)
    x = draw(rows, depth)
    dw, db = run(HeadWeightGradient(rows, depth, classes, uniform), prob, x * scale[:, None], scale, label)
    np.testing.assert_allclose(dw, gradient.T @ x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(db, gradient.sum(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use_ignore", [False, True])
@pytest.mark.parametrize("count_valid", [False, True])
def test_scale_of_each_row(run, use_ignore, count_valid):
    label = np.array([3, 0, 0, 7, 0, 2, 0], np.float32)
    (found,) = run(LabelScale(5, 7, 2.5, 0, use_ignore, count_valid), label)
    scale = 2.5 / 3 if count_valid else 2.5
    np.testing.assert_allclose(found, [0 if use_ignore and c == 0 else scale for c in label[:5]], rtol=1e-6)
