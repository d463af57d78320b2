"""Softmax, its gradient and the gradient of the loss head, against numpy and against MXNet's numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from kernel_runner import build, call, final_form

from bucketmod.compiler.kernels.softmax import Softmax, SoftmaxGrad, SoftmaxOutputGrad

RANDOM = np.random.RandomState(5)
# Rows of less than a vector, of an odd number of values, and longer than registers hold.
SHAPES = [(13, 307), (3, 1009), (5, 3), (7, 1), (4, 64), (2, 17)]
RECORDED = np.load(Path(__file__).parents[1] / "recorded" / "loss_heads.npz")
HEADS = {i: c for i, c in enumerate(json.loads(str(RECORDED["cases"]))) if c["operator"] == "SoftmaxOutput"}


def softmax(x):
    power = np.exp(x - x.max(-1, keepdims=True))
    return power / power.sum(-1, keepdims=True)


@pytest.mark.parametrize("rows, cols", SHAPES)
@pytest.mark.parametrize("log", [False, True])
def test_softmax(run, rows, cols, log):
    x = (RANDOM.randn(rows, cols) * 5).astype(np.float32)
    expected = softmax(x.astype(np.float64))
    (found,) = run(Softmax(rows, cols, log), x)
    np.testing.assert_allclose(found, np.log(expected) if log else expected, rtol=2e-6, atol=5e-6 if log else 1e-7)


@pytest.mark.parametrize("rows, cols", SHAPES)
@pytest.mark.parametrize("log", [False, True])
def test_softmax_gradient(run, rows, cols, log):
    dy = RANDOM.randn(rows, cols).astype(np.float32)
    p = softmax(RANDOM.randn(rows, cols))
    expected = dy - p * dy.sum(-1, keepdims=True) if log else (dy - (dy * p).sum(-1, keepdims=True)) * p
    y = (np.log(p) if log else p).astype(np.float32)
    (found,) = run(SoftmaxGrad(rows, cols, log), dy, y)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=5e-6)


def test_softmax_of_large_values_and_of_masked_ones(run):
    x = np.full((2, 40), -np.inf, np.float32)
    x[0, [3, 17]] = 1e30, 1e30
    x[1, 39] = -1e30
    (found,) = run(Softmax(2, 40), x)
    assert found[0, 3] == found[0, 17] == 0.5 and found[1, 39] == 1 and found.sum() == 2


def head_kernel(attributes, label, prob):
    shape, dense = prob.shape, label.shape == prob.shape
    outer, classes, inner = shape[0], math.prod(shape[1:]), 1
    if attributes.get("multi_output"):
        outer, classes, inner = shape[0], shape[1], math.prod(shape[2:])
    elif attributes.get("preserve_shape"):
        outer, classes = math.prod(shape[:-1]), shape[-1]
    used = ("grad_scale", "ignore_label", "use_ignore", "multi_output", "normalization", "smooth_alpha")
    options = {name: attributes[name] for name in used if name in attributes}
    labels = 0 if dense else label.size
    return SoftmaxOutputGrad(outer, classes, inner, labels=labels, batch=shape[0], dense_label=dense, **options)


def test_loss_head_gradients_are_those_of_mxnet(cpu_target):
    arrays = [[RECORDED[f"{i}.{name}"] for name in ("label", "output", "gradient")] for i in HEADS]
    kernels = [head_kernel(c["attributes"], *a[:2]) for c, a in zip(HEADS.values(), arrays, strict=True)]
    functions = [final_form(kernel, cpu_target) for kernel in kernels]
    cases = zip(HEADS.values(), arrays, kernels, functions, build(functions, cpu_target), strict=True)
    for case, (label, prob, gradient), kernel, function, built in cases:
        inputs = [x.reshape(shape) for x, (_, (shape, _)) in zip((prob, label), kernel.inputs, strict=True)]
        (found,) = call(function, cpu_target, inputs, 1, built)
        np.testing.assert_allclose(found.reshape(prob.shape), gradient, rtol=1e-5, atol=1e-6, err_msg=str(case))


@pytest.mark.parametrize("shape", [(13, 307), (5, 7, 33)])
@pytest.mark.parametrize("dense", [False, True])
def test_head_gradient_multiplies_the_loss_head(run, shape, dense):
    prob, head = (RANDOM.rand(*shape).astype(np.float32) for _ in range(2))
    outer, classes, inner = (*shape, 1)[:3]
    kernel = SoftmaxOutputGrad(outer, classes, inner, dense_label=dense, head_gradient=True, grad_scale=0.5)
    if dense:
        label = target = RANDOM.rand(*shape).astype(np.float32)
    else:
        label = RANDOM.randint(0, classes, outer * inner).astype(np.float32)
        target = (np.arange(classes)[:, None] == label.reshape(outer, 1, inner)).reshape(shape)
    (found,) = run(kernel, prob, label, head)
    np.testing.assert_allclose(found, (prob - target) * head * 0.5, rtol=1e-5, atol=1e-7)


def test_labels_out_of_range_stand_for_no_class(run):
    prob = RANDOM.rand(3, 20).astype(np.float32)
    (found,) = run(SoftmaxOutputGrad(3, 20), prob, np.array([-1, 20, 1e6], np.float32))
    np.testing.assert_array_equal(found, prob)
