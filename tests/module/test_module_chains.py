"""SequentialModule, PythonModule and PythonLossModule: numbers of MXNet 1.9.1 (tests/recorded/record_module_chains.py),
and the rules of their members."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import pytest

import bucketmod as mx

RECORDED = Path(__file__).parents[1] / "recorded"
sys.path.insert(0, str(RECORDED))

from module_chain_cases import (  # noqa: E402
    BATCH,
    CHAINS,
    CLASSES,
    FEATURES,
    first_half,
    initial,
    iterator,
    second_half,
    softmax_gradient,
    train,
    two_modules,
    values,
)

SHAPES = [("data", (BATCH, FEATURES))], [("softmax_label", (BATCH,))]


@pytest.mark.parametrize("make", CHAINS, ids=[make.__name__ for make in CHAINS])
def test_training_gives_the_numbers_of_mxnet(make):
    prefix = f"{make.__name__}/"
    with np.load(RECORDED / "module_chains.npz") as archive:
        expected = {name.removeprefix(prefix): archive[name] for name in archive.files if name.startswith(prefix)}
    found = train(mx, make(mx))
    assert found.keys() == expected.keys() and expected
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def twice(make):
    return mx.mod.SequentialModule().add(make(mx)).add(make(mx), auto_wiring=True)


def bound(chain, **options):
    chain.bind(*SHAPES, **options)
    return chain


def ready(chain, **options):
    bound(chain, **options).init_params(arg_params=initial(mx), allow_missing=True)
    return chain


def test_members_show_the_ends_of_the_chain():
    chain = two_modules(mx)
    assert (chain.data_names, chain.output_names) == (["data"], ["softmax_output"])
    with pytest.raises(AssertionError):
        chain.data_shapes  # noqa: B018
    ready(chain, inputs_need_grad=True)
    assert chain.data_shapes == SHAPES[0] and chain.label_shapes == SHAPES[1]
    assert chain.output_shapes == [("softmax_output", (BATCH, CLASSES))]
    assert set(chain.get_params()[0]) == {"fc1_weight", "fc1_bias", "fc2_weight", "fc2_bias"}
    batch = next(iterator(mx))
    chain.forward_backward(batch)
    assert chain.get_input_grads()[0].shape == (BATCH, FEATURES) and chain.get_outputs()[0].shape == (BATCH, CLASSES)
    assert batch.data[0].shape == (BATCH, FEATURES)  # the user's batch is not changed
    empty = mx.mod.SequentialModule()
    assert (empty.data_names, empty.output_names) == ([], [])
    with pytest.raises(AssertionError, match="empty"):
        empty.bind(*SHAPES)


def test_life_cycle_of_a_chain(caplog):
    chain = ready(two_modules(mx))
    with caplog.at_level(logging.WARNING):
        chain.bind(*SHAPES)
        chain.init_optimizer()
        chain.init_optimizer()
    assert "Already bound" in caplog.text and "optimizer already initialized" in caplog.text
    assert chain._modules[0]._optimizer is not chain._modules[1]._optimizer
    chain.init_params()  # initialised parameters stay
    np.testing.assert_array_equal(chain.get_params()[0]["fc1_bias"].asnumpy(), initial(mx)["fc1_bias"].asnumpy())
    chain.add(first_half(mx))
    assert not (chain.binded or chain.params_initialized or chain.optimizer_initialized)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: mx.mod.SequentialModule().add(first_half(mx), take_label=True),
        lambda: two_modules(mx).bind(*SHAPES, shared_module=first_half(mx)),
        lambda: two_modules(mx).bind(*SHAPES, for_training=False, inputs_need_grad=True),
        lambda: two_modules(mx).init_params(),
        lambda: bound(twice(first_half)).init_params(),
        lambda: ready(two_modules(mx)).get_input_grads(),
        lambda: ready(two_modules(mx)).update(),
    ],
)
def test_what_chains_refuse(wrong):
    with pytest.raises(AssertionError):
        wrong()


def test_outputs_must_have_the_names_of_the_data_without_wiring():
    chain = mx.mod.SequentialModule().add(first_half(mx)).add(second_half(mx, True), take_labels=True)
    with pytest.raises(ValueError, match="tanh1_output"):
        chain.bind(*SHAPES)


def test_labels_reach_only_modules_that_take_them():
    chain = ready(mx.mod.SequentialModule().add(first_half(mx)))
    assert chain.label_shapes is None
    metric = mx.metric.create("acc")
    chain.forward(next(iterator(mx)))
    chain.update_metric(metric, [mx.nd.zeros((BATCH,))])
    assert metric.num_inst == 0


class Doubling(mx.mod.PythonModule):
    """Twice its input."""

    def _compute_output_shapes(self):
        return [("doubled", self.data_shapes[0][1])]

    def forward(self, data_batch, is_train=None):
        self._output = data_batch.data[0] * 2

    def get_outputs(self, merge_multi_context=True):
        return [self._output]


def test_a_module_in_python():
    module = Doubling(("data",), ("softmax_label",), ["doubled"])
    assert (module.data_names, module.output_names) == (["data"], ["doubled"])
    assert module.data_shapes is module.label_shapes is module.output_shapes is None
    module.bind([("data", (2, 3))], [("softmax_label", (2,))])
    assert module.output_shapes == [("doubled", (2, 3))] and not module.binded
    module.init_params()
    module.init_optimizer()
    module.update()
    assert module.get_params() == ({}, {})
    module.forward(mx.io.DataBatch([mx.nd.array([[1, 2, 0], [0, 0, 3]])], None))
    metric = mx.metric.create("acc")
    module.update_metric(metric, [mx.nd.array([1, 0])])
    assert metric.get()[1] == 0.5
    with pytest.raises(RuntimeError, match="presliced"):
        module.update_metric(metric, [], pre_sliced=True)
    module.bind([("data", (2, 3))])
    module.update_metric(metric, [])  # without labels, nothing
    assert metric.num_inst == 2


@pytest.mark.parametrize(
    "wrong",
    [
        lambda module: module.bind([("data", (2, 3))], grad_req="add"),
        lambda module: module.bind([("other", (2, 3))]),
        lambda module: module.bind([("data", (2, 3)), ("more", (2, 3))]),
        lambda module: module.bind([("data", (2, 3))], [("other", (2,))]),
        lambda module: Doubling(["data"], None, ["doubled"]).bind([("data", (2, 3))], [("label", (2,))]),
        lambda module: mx.mod.PythonLossModule(data_names=("a", "b")),
        lambda module: mx.mod.PythonLossModule(label_names=()),
        lambda module: mx.mod.PythonLossModule(grad_func="softmax"),
    ],
)
def test_what_modules_in_python_refuse(wrong):
    with pytest.raises(AssertionError):
        wrong(Doubling(("data",), ("softmax_label",), ["doubled"]))


def test_a_loss_in_python():
    loss = mx.mod.PythonLossModule(name="own", grad_func=softmax_gradient)
    loss.bind([("data", (2, 3))], [("softmax_label", (2,))])
    assert loss.output_shapes == [("own_output", (2, 3))] and loss.output_names == ["own_output"]
    scores, labels = mx.nd.array(values(2, 3)), mx.nd.array([0, 2])
    loss.forward(mx.io.DataBatch([scores], [labels]))
    assert loss.get_outputs() == [scores]
    loss.backward()
    np.testing.assert_array_equal(loss.get_input_grads()[0].asnumpy(), softmax_gradient(scores, labels))
    loss.forward(mx.io.DataBatch([scores], None), is_train=False)
    for wrong in (lambda: loss.backward(scores), lambda: loss.get_outputs(False), lambda: loss.get_input_grads(False)):
        with pytest.raises(AssertionError):
            wrong()
    with pytest.raises(NotImplementedError):
        loss.install_monitor(None)
    without = mx.mod.PythonLossModule()
    without.bind([("data", (2, 3))])
    with pytest.raises(NotImplementedError, match="grad_func"):
        without.backward()
    with pytest.raises(NotImplementedError, match="_compute_output_shapes"):
        mx.mod.PythonModule(["data"], None, ["out"]).bind([("data", (2, 3))])
    inference = mx.mod.PythonLossModule()
    inference.bind([("data", (2, 3))], for_training=False)
    with pytest.raises(AssertionError, match="for_training"):
        inference.backward()
