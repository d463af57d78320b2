"""One model, many shapes: buckets come and go over one set of parameters."""

from __future__ import annotations

import time

import numpy as np
import pytest
from small_models import (
    CLASSES,
    FEATURES,
    bucket_batch,
    bucketed,
    expected,
    gradients,
    make_bucketing,
    numpy_params,
    values,
)

import bucketmod as mx


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)


def reference(module, one):
    params = numpy_params(module)
    data = one.data[0].asnumpy().mean(axis=1)
    return expected(data, one.label[0].asnumpy(), params["fc_weight"], params["fc_bias"])


def test_before_bind():
    module = make_bucketing(bind=False)
    assert module.data_names == ("data",)
    assert module.output_names == ["softmax_output"]
    for name in ("symbol", "data_shapes", "label_shapes", "output_shapes"):
        with pytest.raises(AssertionError):
            getattr(module, name)
    for call in (
        lambda: module.init_params(), lambda: module.forward(bucket_batch(6)), lambda: module.prepare(bucket_batch(6)),
        lambda: module.switch_bucket(6, None), lambda: module.get_params(), module.update, module.backward,
        module.get_outputs, module.init_optimizer, lambda: module.install_monitor(None),
        lambda: module.set_params({}, {}), lambda: module.set_states(value=1), lambda: module.get_states(False),
        lambda: module.save_checkpoint("x", 1), lambda: module.get_input_grads(),
    ):  # fmt: skip
        with pytest.raises(AssertionError):
            call()


def test_constructor_checks_the_default_bucket():
    with pytest.raises(AssertionError, match="default_bucket_key"):
        mx.mod.BucketingModule(bucketed)
    with pytest.raises(ValueError, match="fc_wieght"):
        make_bucketing(bind=False, fixed_param_names=["fc_wieght"])
    with pytest.raises(ZeroDivisionError):
        mx.mod.BucketingModule(lambda key: 1 / 0, default_bucket_key=3)
    with pytest.warns(UserWarning, match="lable"):
        mx.mod.BucketingModule(lambda key: (bucketed(key)[0], ["data"], ["lable"]), default_bucket_key=3)
    mx.mod.BucketingModule(lambda key: (mx.sym.Variable("data") * key, ("data",), None), default_bucket_key=3)


def test_training_over_buckets_is_training_one_set_of_parameters():
    module = make_bucketing(optimizer=True)
    for step, key in enumerate((6, 3, 8, 3, 6)):
        one = bucket_batch(key, seed=step)
        before, (probabilities, gradient) = numpy_params(module), reference(module, one)
        module.forward_backward(one)
        close(module.get_outputs()[0].asnumpy(), probabilities)
        module.update()
        after = numpy_params(module)
        for name in ("fc_weight", "fc_bias"):
            close(after[name], before[name] - 0.5 * gradient[name] / 4)
    assert sorted(module._buckets) == [3, 6, 8]  # a bucket may be larger than the default one


def test_properties_are_those_of_the_current_bucket():
    module = make_bucketing()
    assert module.data_shapes == [("data", (4, 6, FEATURES))]
    module.forward(bucket_batch(3))
    assert module.data_shapes == [("data", (4, 3, FEATURES))]
    assert module.label_shapes == [("softmax_label", (4,))]
    assert module.output_shapes == [("softmax_output", (4, CLASSES))]
    assert module.data_names == ["data"]
    assert module.symbol.list_arguments() == ["data", "fc_weight", "fc_bias", "softmax_label"]


def test_automatic_names_repeat_from_bucket_to_bucket():
    def sym_gen(key):
        mean = mx.sym.mean(mx.sym.Variable("data"), axis=1)
        return mx.sym.FullyConnected(mean, num_hidden=CLASSES), ("data",), None

    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=6)
    module.bind([("data", (4, 6, FEATURES))], for_training=False)
    module.init_params()
    assert sorted(module.get_params()[0]) == ["fullyconnected0_bias", "fullyconnected0_weight"]
    module.forward(bucket_batch(3, label=False))
    assert sorted(module.get_params()[0]) == ["fullyconnected0_bias", "fullyconnected0_weight"]


def test_prepare_binds_the_next_bucket_and_leaves_the_current_results():
    module = make_bucketing(bind_inputs_need_grad=True)
    one = bucket_batch(6)
    module.forward_backward(one)
    out, input_gradient = module.get_outputs()[0].asnumpy(), module.get_input_grads()[0].asnumpy()
    weight = gradients(module)["fc_weight"]
    module.prepare(bucket_batch(3))
    assert sorted(module._buckets) == [3, 6]
    assert module._curr_bucket_key == 6
    np.testing.assert_array_equal(module.get_outputs()[0].asnumpy(), out)
    np.testing.assert_array_equal(module.get_input_grads()[0].asnumpy(), input_gradient)
    np.testing.assert_array_equal(gradients(module)["fc_weight"], weight)


def test_outputs_overwritten_by_another_bucket_are_an_error():
    module = make_bucketing()
    module.forward(bucket_batch(6))
    module.forward(bucket_batch(3))
    module.switch_bucket(6, None)
    for call in (module.get_outputs, module.backward):
        with pytest.raises(mx.MXNetError, match="another bucket"):
            call()


def test_switching_to_a_bucket_without_shapes():
    module = make_bucketing()
    with pytest.raises(TypeError, match="provide_data"):
        module.switch_bucket(5, None)
    with pytest.raises(TypeError, match="bucket_key"):
        module.forward(mx.io.DataBatch([mx.nd.ones((4, 6, FEATURES))]))
    assert module._curr_bucket_key == 6


def test_other_batch_sizes_in_a_bound_bucket():
    module = make_bucketing(optimizer=True)
    for n in (4, 2, 4):
        one = bucket_batch(3, n=n)
        wanted = reference(module, one)
        module.forward_backward(one)
        close(module.get_outputs()[0].asnumpy(), wanted[0])
        close(gradients(module)["fc_weight"], wanted[1]["fc_weight"])


def test_batches_without_labels():
    module = make_bucketing(bind_for_training=False)
    with pytest.warns(UserWarning, match="label_names"):
        module.forward(bucket_batch(3, label=False))
    assert module.label_shapes is None
    close(module.get_outputs()[0].asnumpy(), reference(module, bucket_batch(3))[0])
    with pytest.raises(AssertionError, match="for_training"):
        module.backward()


def test_input_gradients():
    module = make_bucketing(bind_inputs_need_grad=True)
    one = bucket_batch(3)
    module.forward_backward(one)
    wanted = np.repeat(reference(module, one)[1]["data"][:, None] / 3, 3, axis=1)
    close(module.get_input_grads()[0].asnumpy(), wanted)
    plain = make_bucketing()
    plain.forward_backward(one)
    with pytest.raises(AssertionError):
        plain.get_input_grads()


def test_added_gradients_add_up_over_buckets():
    module = make_bucketing(bind_grad_req="add")
    total = 0
    for key in (6, 3):
        one = bucket_batch(key)
        total = total + reference(module, one)[1]["fc_weight"]
        module.forward_backward(one)
    close(gradients(module)["fc_weight"], total)


def test_fixed_parameters_stay():
    module = make_bucketing(optimizer=True, fixed_param_names=["fc_bias"])
    before = numpy_params(module)
    for key in (6, 3):
        module.forward_backward(bucket_batch(key))
        module.update()
    after = numpy_params(module)
    np.testing.assert_array_equal(after["fc_bias"], before["fc_bias"])
    assert not np.array_equal(after["fc_weight"], before["fc_weight"])


def test_parameters_that_only_a_later_bucket_has_are_named():
    def sym_gen(key):
        symbol, data_names, label_names = bucketed(key)
        if key == 3:
            symbol = mx.sym.FullyConnected(symbol, num_hidden=2, name="surplus")
        return symbol, data_names, label_names

    module = make_bucketing(sym_gen=sym_gen)
    with pytest.raises(mx.MXNetError, match="bucket 3 has parameters .* surplus_bias, surplus_weight"):
        module.forward(bucket_batch(3))
    assert module._curr_bucket_key == 6
    module.forward(bucket_batch(6))


def test_parameters_whose_shape_depends_on_the_key_are_named():
    def sym_gen(key):
        return mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=2, name="fc"), ("data",), None

    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=6)
    module.bind([("data", (4, 6))])
    module.init_params()
    with pytest.raises(mx.MXNetError, match="'fc_weight'.*bucket key"):
        module.switch_bucket(3, [("data", (4, 3))])


def test_second_bind_warns_and_force_rebind_starts_over(caplog):
    module = make_bucketing(optimizer=True)
    module.forward_backward(bucket_batch(3))
    module.update()
    weight = numpy_params(module)["fc_weight"]
    module.bind([("data", (1, 6, FEATURES))])
    assert "Already bound" in caplog.text and 3 in module._buckets
    module.bind([("data", (2, 6, FEATURES))], [("softmax_label", (2,))], force_rebind=True)
    assert list(module._buckets) == [6]
    assert module.params_initialized and module.optimizer_initialized
    np.testing.assert_array_equal(numpy_params(module)["fc_weight"], weight)
    module.forward_backward(bucket_batch(3, n=2))
    module.update()
    with pytest.raises(AssertionError, match="shared_module"):
        make_bucketing(bind=False).bind([("data", (4, 6, FEATURES))], shared_module=module)


def test_initialising_twice_is_silent_and_optimizing_twice_warns(caplog, recwarn):
    module = make_bucketing(optimizer=True)
    weight = numpy_params(module)["fc_weight"]
    recwarn.clear()
    module.init_params(mx.init.One())
    assert not recwarn.list
    np.testing.assert_array_equal(numpy_params(module)["fc_weight"], weight)
    module.init_optimizer()
    assert "optimizer already initialized" in caplog.text


def test_set_params():
    module = make_bucketing()
    module.forward(bucket_batch(3), is_train=True)
    stranger = {"stranger": mx.nd.ones((2,))}
    with pytest.raises(RuntimeError, match="not presented"):
        module.set_params(stranger, {})
    with pytest.raises(ValueError, match="stranger"):
        module.set_params(stranger, {}, allow_missing=True)
    module.set_params({**stranger, "fc_bias": mx.nd.ones((3,))}, {}, allow_missing=True, allow_extra=True)
    with pytest.warns(UserWarning, match="already initialized"):
        module.set_params({}, {}, allow_missing=True, force_init=False)
    module.forward(bucket_batch(6), is_train=True)
    assert (numpy_params(module)["fc_bias"] == 1).all()
    close(module.get_outputs()[0].asnumpy(), reference(module, bucket_batch(6))[0])


def test_the_optimizer_is_lent_to_buckets_old_and_new():
    module = make_bucketing()
    module.forward(bucket_batch(3, n=2), is_train=True)
    module.init_optimizer(optimizer_params={"learning_rate": 0.5, "momentum": 0.9})
    assert module._curr_module._optimizer.rescale_grad == 1 / 2  # of the bucket that was current
    one, two = bucket_batch(6, seed=1), bucket_batch(8, seed=2)
    start = numpy_params(module)["fc_weight"]
    first = reference(module, one)[1]["fc_weight"]
    module.forward_backward(one)
    module.update()
    second = reference(module, two)[1]["fc_weight"]
    module.forward_backward(two)
    module.update()
    momentum = -0.25 * first
    close(numpy_params(module)["fc_weight"], start + momentum + 0.9 * momentum - 0.25 * second)


def test_states_follow_their_parameter_when_a_bucket_orders_them_otherwise():
    def sym_gen(key):
        data = mx.sym.mean(mx.sym.Variable("data"), axis=1)
        parts = [mx.sym.FullyConnected(data, num_hidden=2, name=name) for name in "ab"]
        total = parts[0] + parts[1] if key > 4 else parts[1] + parts[0]
        return mx.sym.MakeLoss(total * total, name="loss"), ("data",), None

    def trained(keys):
        module = mx.mod.BucketingModule(sym_gen, default_bucket_key=6)
        module.bind([("data", (4, 6, FEATURES))])
        weights = {f"{n}_weight": mx.nd.array(values(2, FEATURES, seed=i)) for i, n in enumerate("ab")}
        module.init_params(arg_params={**weights, "a_bias": mx.nd.zeros((2,)), "b_bias": mx.nd.ones((2,))})
        module.init_optimizer(optimizer_params={"learning_rate": 0.1, "momentum": 0.9})
        for key in keys:
            shape = (4, key, FEATURES)
            data = np.broadcast_to(values(4, 1, FEATURES), shape)
            module.forward_backward(
                mx.io.DataBatch([mx.nd.array(data)], bucket_key=key, provide_data=[("data", shape)])
            )
            module.update()
        return numpy_params(module)

    same, mixed = trained((6, 6, 6)), trained((6, 3, 6))
    for name in same:
        np.testing.assert_allclose(mixed[name], same[name], rtol=1e-4, atol=1e-5)


def test_one_set_of_memory_for_all_buckets():
    module = make_bucketing(optimizer=True)
    for key in (6, 3, 8):
        module.forward_backward(bucket_batch(key))
        module.update()
        module.forward(bucket_batch(key), is_train=False)
    memory = [bucket._exec_group.memory.contexts[0] for bucket in module._buckets.values()]
    assert all(each is memory[0] for each in memory)
    assert memory[0].store.nbytes() == 2 * 4 * (CLASSES * FEATURES + CLASSES)
    largest = max(
        executor.artifact.manifest.workspace_bytes
        for bucket in module._buckets.values()
        for executor in bucket._exec_group.execs[0]._executors.values()
    )
    assert memory[0].workspace.nbytes == largest


def test_switching_between_bound_buckets_takes_microseconds():
    module = make_bucketing()
    for key in (6, 3):
        module.forward(bucket_batch(key), is_train=True)
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        for key in (6, 3) * 10:
            module.switch_bucket(key, None)
        best = min(best, (time.perf_counter() - started) / 20)
    assert best < 50e-6


def test_states_of_the_current_bucket():
    def sym_gen(key):
        data = mx.sym.mean(mx.sym.Variable("data"), axis=1)
        return data + mx.sym.Variable("state", shape=(4, FEATURES)), ("data",), None

    module = mx.mod.BucketingModule(sym_gen, default_bucket_key=6, state_names=["state"])
    module.bind([("data", (4, 6, FEATURES))], for_training=False)
    module.init_params()
    module.set_states(value=3)
    one = bucket_batch(3, label=False)
    module.forward(one)
    close(module.get_outputs()[0].asnumpy(), one.data[0].asnumpy().mean(axis=1) + 3)
    ((held,),) = module.get_states(merge_multi_context=False)
    assert (held.asnumpy() == 3).all()  # one state for all buckets
    with pytest.raises(AssertionError):
        module.get_states()
