"""``mx.nd.sgd_update`` and its like: MXNet 1.9.1's numbers, and optimizers that users write with them."""

from __future__ import annotations

import numpy as np
import pytest
from recorded_cases import FOLDER, recorder

import bucketmod as mx

RECORDED = np.load(FOLDER / "optimizers.npz")
CASES = [key.partition("/")[2] for key in RECORDED.files if key.startswith("function/")]


@pytest.fixture(scope="module")
def found():
    return recorder("optimizers").functions(mx)


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_mxnet(found, case):
    rtol = 1e-3 if "mp_" in case else 2e-6  # a last bit of float16
    np.testing.assert_allclose(found[case], RECORDED[f"function/{case}"], rtol=rtol, atol=1e-6)


def test_without_out_the_weight_stays():
    weight, grad = mx.nd.array([1.0, 2.0]), mx.nd.array([1.0, 1.0])
    result = mx.nd.sgd_update(weight, grad, lr=0.5)
    assert (result.asnumpy().tolist(), weight.asnumpy().tolist()) == ([0.5, 1.5], [1.0, 2.0])
    assert mx.nd.sgd_update(weight=weight, grad=grad, lr=0.5, out=weight) is weight
    assert weight.asnumpy().tolist() == [0.5, 1.5]
    other = mx.nd.zeros((2,))
    assert mx.nd.sgd_update(weight, grad, 0.5, out=other) is other
    assert other.asnumpy().tolist() == [0.0, 1.0]
    half = mx.nd.array([1.0], dtype="float16")
    assert mx.nd.mp_sgd_update(half, half, mx.nd.array([2.0]), lr=0.5).asscalar() == 1.5


def test_arguments_that_do_not_fit():
    weight = mx.nd.ones((2,))
    with pytest.raises(mx.MXNetError, match="lr is not given"):
        mx.nd.sgd_update(weight, weight)
    with pytest.raises(mx.MXNetError, match="grad"):
        mx.nd.sgd_update(weight, lr=1.0)
    with pytest.raises(TypeError, match="speed"):
        mx.nd.sgd_update(weight, weight, lr=1.0, speed=2)
    with pytest.raises(TypeError, match="arguments"):
        mx.nd.signsgd_update(*[weight] * 9)
    with pytest.raises(mx.MXNetError, match="2 parameters need 4 arrays"):
        mx.nd.multi_sgd_update(weight, weight, lrs=[1, 1], wds=[0, 0], num_weights=2)
    with pytest.raises(mx.MXNetError, match="num_arrays"):
        mx.nd.multi_sum_sq(weight, num_arrays=2)


class HandWritten(mx.optimizer.Optimizer):
    """As users write them: states by nd.zeros, arithmetic by nd."""

    def create_state(self, index, weight):
        return mx.nd.zeros(weight.shape, weight.context, dtype=weight.dtype), mx.nd.zeros(weight.shape, weight.context)

    def update(self, index, weight, grad, state):
        self._update_count(index)
        lr, wd = self._get_lr(index), self._get_wd(index)
        grad = mx.nd.clip(grad * self.rescale_grad, -1, 1)
        momentum, squares = state
        squares[:] += mx.nd.square(grad)
        momentum[:] = 0.9 * momentum - lr * (grad / mx.nd.sqrt(squares + 1e-7) + wd * weight)
        weight[:] += momentum


class FromFunctions(mx.optimizer.Optimizer):
    """Adam by the nd function."""

    def create_state(self, index, weight):
        return mx.nd.zeros(weight.shape), mx.nd.zeros(weight.shape)

    def update(self, index, weight, grad, state):
        self._update_count(index)
        mean, var = state
        mx.nd.adam_update(weight, grad, mean, var, out=weight, lr=self._get_lr(index), wd=self._get_wd(index),
                          rescale_grad=self.rescale_grad)  # fmt: skip


@pytest.mark.parametrize("klass", [HandWritten, FromFunctions])
def test_modules_train_by_optimizers_that_users_write(klass):
    hidden = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=5, name="hidden")
    module = mx.mod.Module(mx.sym.SoftmaxOutput(hidden, name="softmax"))
    module.bind([("data", (4, 7))], [("softmax_label", (4,))])
    module.init_params(mx.init.Uniform(0.5))
    rng = np.random.RandomState(0)
    batch = mx.io.DataBatch([mx.nd.array(rng.randn(4, 7))], [mx.nd.array([0, 1, 4, 2])])
    module.init_optimizer(optimizer=klass(learning_rate=0.1, rescale_grad=0.25))
    metric = mx.metric.CrossEntropy()
    losses = []
    for _ in range(12):
        metric.reset()
        module.forward_backward(batch)
        module.update_metric(metric, batch.label)
        module.update()
        losses.append(metric.get()[1])
    assert losses[-1] < 0.5 * losses[0]
