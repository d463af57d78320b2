"""Contexts whose store updates hold a parameter in one array, and nobody can tell by the numbers."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import CLASSES, FEATURES, batch, bucket_batch, classifier, make_bucketing, numpy_params
from small_models import parameters as small_parameters

import bucketmod as mx


def several(kvstore="local", contexts=2, optimizer="adam", **options):
    module = mx.mod.Module(classifier(), context=[mx.cpu(index) for index in range(contexts)])
    module.bind([("data", (12, FEATURES))], [("softmax_label", (12,))])
    module.init_params(arg_params=small_parameters())
    module.init_optimizer(kvstore, optimizer, {"learning_rate": 0.05, **options})
    return module


def train(module, steps=2, seed=0):
    for step in range(steps):
        module.forward_backward(batch(12, seed=seed + step))
        module.update()
    return numpy_params(module)


def memories(module):
    """How many arrays the contexts have for each parameter."""
    return [len({id(array.numpy_view()) for array in arrays}) for arrays in module._exec_group.param_arrays]


def assert_equal(found, wanted):
    assert sorted(found) == sorted(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_contexts_share_where_a_store_of_their_own_updates(monkeypatch):
    assert memories(several("local")) == memories(several("device", 3)) == [1, 1]
    assert memories(several(mx.kv.create("local"))) == memories(several(None)) == [2, 2]
    monkeypatch.setenv("MXNET_UPDATE_ON_KVSTORE", "0")
    assert memories(several("local")) == [2, 2]


@pytest.mark.parametrize("contexts", [2, 4])  # the mean of three equal arrays rounds
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adadelta", "lamb"])
def test_numbers_are_those_of_arrays_apart(optimizer, contexts):
    """A store that users may look into leaves every context its own arrays. Pushing sums adds gradients up first."""
    shared, apart = several("local", contexts, optimizer), several(mx.kv.create("local"), contexts, optimizer)
    plain = several(mx.kv.create("local"), contexts, optimizer)
    plain._kvstore._sum = plain._kvstore._added
    found = train(shared)
    assert any(not np.array_equal(found[name], value.asnumpy()) for name, value in small_parameters().items())
    assert_equal(found, train(apart))
    assert_equal(found, train(plain))


def test_values_set_between_updates_do_not_reach_the_store():
    """As in MXNet: the next update goes on from what the store has."""
    shared, apart = several("local"), several(mx.kv.create("local"))
    zeros = {"fc_weight": mx.nd.zeros((CLASSES, FEATURES)), "fc_bias": mx.nd.zeros((CLASSES,))}
    for module in (shared, apart):
        train(module)
        module.set_params(zeros, {})
        assert_equal(numpy_params(module), {name: value.asnumpy() for name, value in zeros.items()})
        module.forward_backward(batch(12, seed=5))
        module.update()
    assert numpy_params(shared)["fc_weight"].all()
    assert_equal(numpy_params(shared), numpy_params(apart))
    store = shared._kvstore
    assert store._values["fc_weight"].numpy_view() is shared._exec_group.param_arrays[0][0].numpy_view()
    assert_equal(train(shared, seed=7), train(apart, seed=7))


def test_another_optimizer_takes_the_arrays_apart_again():
    """Programs that ran before follow their parameters to other arrays."""
    shared, apart = several("local"), several(mx.kv.create("local"))
    for module in (shared, apart):
        train(module)
        module.init_optimizer(None, "sgd", {"learning_rate": 0.5}, force_init=True)
    assert memories(shared) == [2, 2]
    assert_equal(train(shared, seed=3), train(apart, seed=3))
    first, second = shared._exec_group.param_arrays[0]
    assert (first.asnumpy() != second.asnumpy()).any()  # each by its own gradients
    assert_equal(train(shared, seed=5), train(apart, seed=5))


def test_sharing_may_begin_after_programs_ran():
    early, late = several("local"), several(None)
    train(late)  # contexts drift apart
    late.set_params(small_parameters(), {})
    late.init_optimizer("local", "adam", {"learning_rate": 0.05}, force_init=True)
    assert memories(late) == [1, 1]
    assert_equal(train(late), train(early))


def test_a_module_with_an_optimizer_of_its_own_ends_the_sharing():
    owner = several("local")
    train(owner)
    other = mx.mod.Module(classifier(), context=[mx.cpu(0), mx.cpu(1)])
    other.bind([("data", (12, FEATURES))], [("softmax_label", (12,))], shared_module=owner)
    other.init_optimizer(None, "sgd", {"learning_rate": 0.5}, force_init=True)
    assert memories(owner) == memories(other) == [2, 2]
    before = {name: value.asnumpy() for name, value in owner._kvstore._values.items()}
    moved = train(other)
    assert (moved["fc_weight"] != before["fc_weight"]).any()
    assert_equal({name: value.asnumpy() for name, value in owner._kvstore._values.items()}, before)
    train(owner)
    for arrays in owner._exec_group.param_arrays:
        np.testing.assert_array_equal(*(array.asnumpy() for array in arrays))


def test_all_buckets_see_the_shared_arrays():
    found = []
    for kvstore in ("local", mx.kv.create("local")):
        module = make_bucketing(context=[mx.cpu(0), mx.cpu(1)])
        module.forward(bucket_batch(3), is_train=False)  # a program on arrays that are replaced
        module.init_optimizer(kvstore, "adam", {"learning_rate": 0.05})
        for key in (6, 3, 6, 3):
            module.forward_backward(bucket_batch(key, seed=key))
            module.update()
        module.forward(bucket_batch(3), is_train=False)
        found.append({**numpy_params(module), "outputs": module.get_outputs()[0].asnumpy()})
    assert_equal(*found)
