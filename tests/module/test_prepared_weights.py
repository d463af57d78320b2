"""Packed weights: kept from step to step while nobody changes the parameters, and never older than they are."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import bucketmod as mx
from bucketmod.runtime.parameter_store import ParameterStore

FEATURES, HIDDEN, CLASSES, BATCH = 64, 70, 3, 4  # a weight that is large enough to be kept


def network(length, normalised=True):
    """A layer, batch normalisation and a classifier on the mean of ``length`` vectors."""
    mean = mx.sym.mean(mx.sym.Variable("data"), axis=1)
    hidden = mx.sym.FullyConnected(mean, num_hidden=HIDDEN, name="fc1")
    hidden = mx.sym.BatchNorm(hidden, fix_gamma=False, name="bn") if normalised else hidden
    hidden = mx.sym.Activation(hidden, act_type="tanh")
    scores = mx.sym.FullyConnected(hidden, num_hidden=CLASSES, name="fc2")
    return mx.sym.SoftmaxOutput(scores, mx.sym.Variable("softmax_label"), name="softmax"), ("data",), ("softmax_label",)


def batch(length=2, seed=0):
    random = np.random.default_rng(seed)
    data = mx.nd.array(random.standard_normal((BATCH, length, FEATURES)))
    shapes = {"provide_data": [("data", data.shape)], "provide_label": [("softmax_label", (BATCH,))]}
    return mx.io.DataBatch([data], [mx.nd.array(np.arange(BATCH) % CLASSES)], bucket_key=length, **shapes)


def bound(optimizer="sgd", kvstore="local", context=None, sym_gen=network):
    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=2, context=context or mx.cpu())
    module.bind([("data", (BATCH, 2, FEATURES))], [("softmax_label", (BATCH,))])
    mx.random.seed(3)
    module.init_params(mx.init.Uniform(0.5))
    module.init_optimizer(optimizer=optimizer, optimizer_params={"learning_rate": 0.5}, kvstore=kvstore)
    return module


def predict(module, length=2):
    module.forward(batch(length), is_train=False)
    return module.get_outputs()[0].asnumpy()


def train(module, seed=1):
    module.forward_backward(batch(seed=seed))
    module.update()


def parameters(module):
    return tuple({name: array.copy() for name, array in group.items()} for group in module.get_params())


def fresh(module, sym_gen=network):
    """What a module that has never seen other parameters predicts."""
    other = bound(sym_gen=sym_gen)
    other.set_params(*parameters(module))
    return predict(other)


def group(module):
    return module._curr_module._exec_group


@pytest.fixture
def prepared(monkeypatch):
    """Grows by a store each time something is computed of the parameters in it alone."""
    found = []
    has_prepared = ParameterStore.has_prepared

    def record(store, digests):
        found.append(store)
        has_prepared(store, digests)

    monkeypatch.setattr(ParameterStore, "has_prepared", record)
    return found


def test_all_buckets_share_what_is_prepared_once(prepared):
    module = bound()
    first = [predict(module, length) for length in (2, 3, 5)]
    (store,) = prepared
    size = store.nbytes()
    for _ in range(2):
        again = [predict(module, length) for length in (2, 3, 5)]
    assert len(prepared) == 1, "nothing changed, and no bucket needs anything of its own"
    assert store.nbytes() == size
    np.testing.assert_array_equal(again, first)


def test_predictions_between_updates_are_those_of_the_parameters_as_they_are(prepared):
    module = bound()
    for step in range(3):
        before = predict(module)
        train(module, step)
        after = predict(module)
        assert np.abs(after - before).max() > 1e-3, "the update did not show"
        np.testing.assert_array_equal(after, fresh(module))
    assert len([store for store in prepared if store is prepared[0]]) == 4


def test_training_steps_without_an_update_change_the_states_of_normalisation():
    module, other = bound(), bound()
    before = predict(module)
    for each in (module, other):
        each.forward_backward(batch(seed=5))
    assert np.abs(predict(module) - before).max() > 1e-4
    np.testing.assert_array_equal(predict(module), predict(other))  # which has prepared nothing before


def test_parameters_that_are_set_are_used():
    module, other = bound(), bound()
    train(other)
    predict(module)
    module.set_params(*parameters(other))
    np.testing.assert_array_equal(predict(module), predict(other))
    module.init_params(mx.init.Zero(), force_init=True)
    assert np.ptp(predict(module)) < 1e-6, "all scores are zero"


def halve_in_place(array):
    array *= 0.5


def halve_by_view(array):
    view = array.numpy_view()
    view *= 0.5


@pytest.mark.parametrize("halve", [halve_in_place, halve_by_view])
@pytest.mark.parametrize("where", ["param_arrays", "arg_dict"])
def test_a_script_that_writes_to_arrays_of_parameters_is_heard(where, halve):
    module = bound()
    predict(module)
    weight = group(module).execs[0].arg_dict["fc1_weight"] if where == "arg_dict" else (
        group(module).param_arrays[group(module).param_names.index("fc1_weight")][0]
    )
    for _ in range(2):  # the array may be kept, and written to later
        before = predict(module)
        halve(weight)
        assert np.abs(predict(module) - before).max() > 1e-4, "what was written did not show"


def test_a_script_that_writes_to_states_is_heard():
    module = bound()
    before = predict(module)
    for (variance,) in group(module).aux_arrays:
        variance[:] = 9.0
    assert np.abs(predict(module) - before).max() > 1e-4


class Keeps(mx.optimizer.SGD):
    """An optimizer of a user, who keeps the arrays that it is given."""

    kept: list = []

    def update(self, index, weight, grad, state):
        self.kept.extend(weight if isinstance(weight, list) else [weight])
        super().update(index, weight, grad, state)


def test_an_optimizer_of_a_user_may_write_to_parameters_at_any_time():
    Keeps.kept.clear()
    module = bound(Keeps(learning_rate=0.5, rescale_grad=1 / BATCH))
    train(module)
    before = predict(module)
    for weight in Keeps.kept:
        weight *= 0.5
    assert np.abs(predict(module) - before).max() > 1e-4


def test_stores_and_several_contexts_write_parameters_too():
    simple = functools.partial(network, normalised=False)  # states are apart in each context
    for options in ({"kvstore": mx.kvstore.create("local")}, {"context": [mx.cpu(0), mx.cpu(1)]}):
        module = bound(sym_gen=simple, **options)
        predict(module)
        train(module)
        np.testing.assert_allclose(predict(module), fresh(module, simple), rtol=1e-5, err_msg=str(options))


def test_executors_compute_it_in_every_step_in_memory_that_they_share(prepared):
    first, other = network(2)[0], network(3)[0]
    shapes = {"data": (BATCH, 2, FEATURES), "softmax_label": (BATCH,)}
    one = first.simple_bind(mx.cpu(), grad_req="null", **shapes)
    two = other.simple_bind(mx.cpu(), grad_req="null", shared_exec=one, **{**shapes, "data": (BATCH, 3, FEATURES)})
    data = {one: batch(2).data[0], two: batch(3).data[0]}
    for executor in (one, two):
        for name, array in executor.arg_dict.items():
            if name != "data":
                array[:] = np.random.default_rng(len(name)).standard_normal(array.shape)
        for array in executor.aux_arrays:
            array[:] = 1.0
    for scale in (1.0, 0.5):
        results = {}
        for executor in (one, two, one, two):
            executor.arg_dict["fc1_weight"][:] = executor.arg_dict["fc1_weight"] * scale
            executor.forward(is_train=False, data=data[executor])
            results[executor] = executor.outputs[0].asnumpy()
        for executor in (one, two):
            executor.forward(is_train=False, data=data[executor])
            np.testing.assert_array_equal(executor.outputs[0].asnumpy(), results[executor])
    assert len(prepared) == 12, "these arrays may change unseen"
    assert all(not store._prepared for store in prepared), "a place for each would grow with the executors"
