"""What recorded numbers do not show of the optimizers: noise, mended defects of MXNet, refusals."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

import bucketmod as mx


def updated(optimizer: mx.optimizer.Optimizer, weight: np.ndarray, *grads: np.ndarray) -> np.ndarray:
    updater, array = mx.optimizer.get_updater(optimizer), mx.nd.array(weight)
    for grad in grads:
        updater(0, mx.nd.array(grad), array)
    return array.asnumpy()


def test_sgld_adds_noise_of_the_learning_rates_variance():
    mx.random.seed(7)
    weight, grad = np.full(40_000, 2.0), np.full(40_000, 3.0)
    found = updated(mx.optimizer.SGLD(learning_rate=0.09, wd=0.5, rescale_grad=0.5, clip_gradient=1.0), weight, grad)
    np.testing.assert_allclose(found.mean(), 2.0 - 0.045 * (1.0 + 0.5 * 2.0), atol=4 * 0.3 / 200)
    np.testing.assert_allclose(found.std(), 0.3, rtol=0.02)
    assert abs(np.mean((found - found.mean()) ** 3)) < 0.002  # not skewed
    mx.random.seed(7)
    again = updated(mx.optimizer.SGLD(learning_rate=0.09, wd=0.5, rescale_grad=0.5, clip_gradient=1.0), weight, grad)
    assert np.array_equal(found, again)


def test_dcasgd_has_the_momentum_that_fails_in_mxnet():
    rng = np.random.RandomState(0)
    weight, momentum = rng.randn(5), np.zeros(5)
    previous, grads = weight.copy(), [rng.randn(5) for _ in range(3)]
    found = updated(mx.optimizer.DCASGD(momentum=0.9, lamda=0.5, learning_rate=0.1, wd=0.01), weight, *grads)
    for grad in grads:
        momentum = 0.9 * momentum - 0.1 * (grad + 0.01 * weight + 0.5 * grad * grad * (weight - previous))
        previous, weight = weight, weight + momentum
    np.testing.assert_allclose(found, weight, rtol=1e-5)


def test_signum_refuses_a_decay_that_it_would_not_apply():
    with pytest.raises(mx.MXNetError, match="wd_lh"):
        updated(mx.optimizer.Signum(momentum=0.0, wd_lh=0.1), np.ones(2), np.ones(2))


def test_lbsgd_gathers_gradients_that_are_written_in_place():
    optimizer = mx.optimizer.LBSGD(learning_rate=1.0, batch_scale=2, warmup_epochs=0)
    updater = mx.optimizer.get_updater(optimizer)
    weight, grad = mx.nd.zeros((1,)), mx.nd.array([1.0])
    updater(0, grad, weight)
    assert weight.asscalar() == 0
    grad[:] = 3.0  # as the next backward does
    updater(0, grad, weight)
    assert weight.asscalar() == -(1.0 + 3.0) / 2 * 2


def test_lbsgd_says_what_it_does(caplog):
    caplog.set_level(logging.INFO)
    mx.optimizer.LBSGD(batch_scale=4)
    assert caplog.messages[0] == "Running Large-Batch SGD Algorithm"
    assert caplog.messages[1].startswith("(Batch_scale=4.000000, warmup_epochs=5, warmup_strategy=linear")


def test_lbsgd_takes_states_with_a_float32_copy():
    optimizer = mx.optimizer.LBSGD(learning_rate=0.5, momentum=0.5, multi_precision=True, warmup_epochs=0)
    weight, grad = mx.nd.ones((2,), dtype="float16"), mx.nd.ones((2,), dtype="float16")
    state = optimizer.create_state(0, weight)
    for expected in (0.5, -0.25):
        optimizer.update(0, weight, grad, state)
        assert weight.dtype == np.float16 and weight.asnumpy().tolist() == [expected] * 2
        assert state[1].dtype == np.float32 and state[1].asnumpy().tolist() == [expected] * 2


def test_group_adagrad_has_a_sum_for_each_row():
    rng = np.random.RandomState(1)
    weight, grads = rng.randn(3, 4), [rng.randn(3, 4) for _ in range(2)]
    optimizer = mx.optimizer.create("groupadagrad", learning_rate=0.1, rescale_grad=0.5, clip_gradient=0.4)
    found = updated(optimizer, weight, *grads)
    history = np.zeros((3, 1))
    for grad in grads:
        grad = np.clip(0.5 * grad, -0.4, 0.4)
        history += np.mean(grad**2, axis=1, keepdims=True)
        weight = weight - 0.1 * grad / np.sqrt(history + 1e-5)
    np.testing.assert_allclose(found, weight, rtol=1e-5)
    with pytest.raises(AssertionError, match="matrices"):
        updated(mx.optimizer.contrib.GroupAdaGrad(), np.ones(3), np.ones(3))
    with pytest.raises(AssertionError, match="decay"):
        updated(mx.optimizer.contrib.GroupAdaGrad(wd=0.1), np.ones((3, 1)), np.ones((3, 1)))


def test_lars_leaves_rates_of_parameters_without_norms():
    for weight, grad in ((np.zeros(3), np.ones(3)), (np.ones(3), np.zeros(3))):
        found = updated(mx.optimizer.LARS(learning_rate=0.5), weight, grad)
        np.testing.assert_allclose(found, weight - 0.5 * grad)


def test_lamb_takes_plain_steps_from_zero():
    found = updated(mx.optimizer.LAMB(learning_rate=0.5, bias_correction=False), np.zeros(4), np.ones(4))
    np.testing.assert_allclose(found, -0.5 * 0.1 / (math.sqrt(0.001) + 1e-6), rtol=1e-5)


def test_adamax_without_gradient_is_not_a_number_as_in_mxnet():
    assert np.isnan(updated(mx.optimizer.Adamax(), np.ones(2), np.zeros(2))).all()


def test_adadelta_scales_the_gradient_itself():
    weight, grad = mx.nd.ones((3,)), mx.nd.ones((3,))
    mx.optimizer.get_updater(mx.optimizer.AdaDelta(rescale_grad=0.25, clip_gradient=0.1))(0, grad, weight)
    assert grad.asnumpy().tolist() == [0.25] * 3


@pytest.mark.parametrize("name", sorted(mx.optimizer.Optimizer.opt_registry))
def test_updates_need_ndarrays(name):
    optimizer = mx.optimizer.create(name)
    for arrays in ((np.ones(2), mx.nd.ones((2,))), (mx.nd.ones((2,)), np.ones(2))):
        with pytest.raises((AssertionError, TypeError)):
            optimizer.update(0, *arrays, None)


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "ftrl"])
def test_float64_parameters_are_updated_in_float64(name):
    weight = mx.nd.array([1.0, 2.0], dtype="float64")
    optimizer = mx.optimizer.create(name, learning_rate=0.1)
    optimizer.kernels = mx.optimizer.CompiledKernels(mx.binding.update_kernels())
    updater = mx.optimizer.get_updater(optimizer)
    updater(0, mx.nd.array([1e-9, 1.0], dtype="float64"), weight)
    assert weight.dtype == np.float64
    if name == "sgd":
        assert weight.asnumpy()[0] == 1.0 - 1e-10
